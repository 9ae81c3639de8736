"""What one record of an annotated genome is, and which files belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vnp.errors import InputError

Protein = bytes | Literal["mismatched", "untranslated", "unchecked"]
"""What a coding sequence gives: a protein, or why there is none; see ``Annotated``."""
_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Annotated:
    """One record of an annotated genome: its sequence, and the proteins that its annotation gives it."""

    name: str  # accession with version where there is one, else the first word that names the record
    sequence: bytes  # upper-case bases, ASCII, T for U, N for X; where there is a problem, whatever was found
    # what the records of one organism share: organism with strain and isolate where the annotation says so, else the
    # record's name
    genome: str
    # the annotated proteins that agree with the sequence, each once, ASCII, without a stop at the end
    proteins: tuple[bytes, ...] = ()
    mismatched: int = 0  # coding sequences whose protein is not what the sequence gives; they are not in ``proteins``
    untranslated: int = 0  # coding sequences that have no protein, such as those of pseudogenes
    problem: str | None = None  # why the record cannot be used, or None
    # coding sequences whose location cannot be followed in this record (a piece lies in another record, or an end is
    # uncertain), so that their protein could not be checked; they are not in ``proteins``
    unchecked: int = 0
    # the organism's taxonomic groups, the widest first; empty where the file does not say
    lineage: tuple[str, ...] = ()
    date: str = ""  # when it was made known, such as 2004-01-12; empty where the file does not say

    def with_proteins(self, found: Iterable[Protein]) -> Annotated:
        """The record with the proteins of its coding sequences, and the number of those that have none."""
        proteins: dict[bytes, None] = {}
        others: Counter[str] = Counter()
        for one in found:
            if isinstance(one, bytes):
                proteins[one] = None
            else:
                others[one] += 1
        return replace(
            self,
            proteins=tuple(proteins),
            mismatched=others["mismatched"],
            untranslated=others["untranslated"],
            unchecked=others["unchecked"],
        )


def stem(name: str) -> str:
    """A file's name without compression and format: ``x_genomic.fna.gz`` becomes ``x_genomic``."""
    packed = next((packed for packed in _PACKED[1:] if name.lower().endswith(packed)), "")
    return Path(name[: len(name) - len(packed)]).stem


def gff3_of(fasta: Path) -> Path | None:
    """The GFF3 file of the same stem in the folder of a FASTA file."""
    return _first(fasta, (stem(fasta.name),), (".gff3", ".gff"))


def fasta_of(genbank: Path) -> Path | None:
    """The FASTA file of a GenBank file: of its stem, or RefSeq's ``X.1.genomic.fna.gz`` of ``X.genomic.gbff.gz``."""
    own = stem(genbank.name)
    refseq = (own.removesuffix(".genomic") + ".1.genomic",) if own.endswith(".genomic") else ()
    return _first(genbank, (*refseq, own), (".fna", ".fa", ".fasta"))


def require_same_names(annotation: Path, ours: set[str], fasta: Path, theirs: set[str]) -> None:
    """Raise InputError where two files that belong together have names that the other has not, ``ours`` and ``theirs``.

    One of the two may well have more names than the other.
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
    names = (name + form + packed for name in stems for form in formats for packed in _PACKED)
    return next((found for name in names if (found := file.with_name(name)).exists()), None)
