"""Which files belong together: by their names on the disk, and by the names of their records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vnp.errors import InputError

_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_GFF = (".gff3", ".gff")
_FASTA = (".fna", ".fa", ".fasta")
_SHOWN = 3


def stem(name: str) -> str:
    """A file's name without compression and format: ``x_genomic.fna.gz`` becomes ``x_genomic``."""
    packed = next((packed for packed in _PACKED[1:] if name.lower().endswith(packed)), "")
    return Path(name[: len(name) - len(packed)]).stem


def gff3_beside(fasta: Path) -> Path | None:
    """The GFF3 file of the same stem in the folder of a FASTA file."""
    return _first(fasta, (stem(fasta.name),), _GFF)


def fasta_beside(genbank: Path) -> Path | None:
    """The FASTA file of the same stem in the folder of a GenBank file, or the one that RefSeq's releases have with it.

    There ``X.1.genomic.fna.gz`` has the bases of ``X.genomic.gbff.gz``.
    """
    own = stem(genbank.name)
    refseq = (own.removesuffix(".genomic") + ".1.genomic",) if own.endswith(".genomic") else ()
    return _first(genbank, (*refseq, own), _FASTA)


def require_same_names(annotation: Path, ours: set[str], fasta: Path, theirs: set[str]) -> None:
    """Refuse files whose records have different names; one of the two may well have more than the other.

    Args:
        annotation: a file, which the message is about.
        ours: names that only it has.
        fasta: the FASTA file that should go with it.
        theirs: names that only that has.

    Raises:
        InputError: there are names on both sides.
    """
    if ours and theirs:
        raise InputError(
            f"its names and those of {fasta.name} disagree: {_examples(ours)} only here, {_examples(theirs)} only "
            "there; give files of the same release, or rename one side",
            path=annotation,
        )


def _examples(names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:_SHOWN])
    return f"{shown} ({len(names):,} in all)" if len(names) > _SHOWN else shown


def _first(file: Path, stems: tuple[str, ...], formats: tuple[str, ...]) -> Path | None:
    return next((found for found in _names(file, stems, formats) if found.exists()), None)


def _names(file: Path, stems: tuple[str, ...], formats: tuple[str, ...]) -> Iterator[Path]:
    for name in stems:
        for form in formats:
            yield from (file.with_name(name + form + packed) for packed in _PACKED)
