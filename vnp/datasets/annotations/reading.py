"""Reads annotated genomes record by record: GenBank, or FASTA with GFF3 or GenBank.

Formats are told by content, and compression as in ``vnp.sequences``. Memory is bounded by the largest record, and with
FASTA by the coding sequences of the whole annotation besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from vnp.datasets.annotations._genbank import GenBankAnnotation, read_genbank
from vnp.datasets.annotations._gff3 import Annotation
from vnp.datasets.annotations.annotated import Annotated
from vnp.errors import InputError
from vnp.sequences.opening import one_line_end, stream
from vnp.sequences.reading import fasta_records, read_records
from vnp.sequences.record import Record, count_lines

# Some lines about the release may stand in front of the first record.
GENBANK = re.compile(rb"(?:[^>@;#\n][^\n]*\n|\n){0,100}?LOCUS[ \t]")
_GFF3 = b"##gff-version"
_BOM = b"\xef\xbb\xbf"
_ENOUGH = 1 << 14
_OTHERS = {
    b"ID   ": "is EMBL; turn it into GenBank first",
    b">": "is FASTA, which needs its annotation beside it: give its GFF3 or GenBank file too",
}
_NEITHER = "is not GenBank (no line begins with LOCUS), nor FASTA with a GFF3 or GenBank file"


def read_annotated(path: Path, annotation: Path | None = None) -> Iterator[Annotated]:
    """Read the records of one annotated genome file in order, also those with a problem or without a coding sequence.

    The file is GenBank, or GFF3 with the sequences in it, or FASTA, which has an ``annotation``: GFF3 or GenBank.

    Raises:
        InputError: a file is missing, damaged or of another kind, a name occurs twice, none of the records has a
            sequence, or FASTA and annotation do not belong together.
        UsageError: gb-io is not installed.
    """
    lines: dict[str, int] = {}
    for line, record in _records(path, annotation):
        before = lines.setdefault(record.name, line)
        if before != line:
            raise InputError(
                f"the record of line {before} has this name too; remove or rename one",
                path=path,
                line=line,
                record=record.name,
            )
        yield record


def _records(path: Path, annotation: Path | None) -> Iterator[tuple[int, Annotated]]:
    start, blocks = begin(path)
    if GENBANK.match(start):
        if annotation is not None:
            raise InputError(
                "is GenBank, which has its annotation within: give no other with it, or, where its records have no "
                "sequence, give their FASTA file as path and this one as its annotation",
                path=path,
            )
        return read_genbank(blocks, path)
    if start.startswith(_GFF3) and annotation in (None, path):
        return _annotated(_fasta_within(path), Annotation(_text(path), path), path)
    if annotation is None:
        others = (what for mark, what in _OTHERS.items() if start.startswith(mark))
        raise InputError(next(others, _NEITHER), path=path)
    start, blocks = begin(annotation)
    if GENBANK.match(start):
        return _annotated(read_records(path), GenBankAnnotation(blocks, annotation), path)
    return _annotated(read_records(path), Annotation(blocks, annotation), path)


def begin(path: Path) -> tuple[bytes, Iterator[bytes]]:
    """A file's first bytes, and all of it with LF line ends and no byte-order mark; InputError where there are none."""
    blocks = _text(path)
    start = b""
    for block in blocks:
        start += block
        if len(start) >= _ENOUGH:
            break
    if not start.strip():
        raise InputError("the file is empty", path=path)
    return start, chain((start,), blocks)


def _annotated(
    records: Iterable[Record], annotation: Annotation | GenBankAnnotation, path: Path
) -> Iterator[tuple[int, Annotated]]:
    for record in records:
        yield record.line, annotation.annotate(record)
    annotation.finish(path)


def _fasta_within(path: Path) -> Iterator[Record]:
    """Read the FASTA section of a GFF3 file."""
    rest, line = b"\n", 1
    blocks = _text(path)
    for block in blocks:
        text = rest + block
        at = text.find(b"\n>")
        if at >= 0:
            found = chain((text[at + 1 :],), blocks)
            return fasta_records(found, path, line + count_lines(text[:at]), 0, plain=False)
        rest = text[-1:]
        line += count_lines(text[:-1])
    raise InputError(
        "is GFF3 without sequences (it has no FASTA section): give the FASTA file as path, this one as its annotation",
        path=path,
    )


def _text(path: Path) -> Iterator[bytes]:
    """The text of a file with LF line ends, without a byte-order mark."""
    _, blocks = stream(path)
    first = True
    for block in one_line_end(blocks):
        yield block.removeprefix(_BOM) if first else block
        first = False
