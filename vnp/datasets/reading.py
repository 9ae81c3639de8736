"""Reads annotated genomes record by record: GenBank, or FASTA with GFF3.

Formats are told by content, and compression as in ``vnp.sequences``. Memory is bounded by the largest record, and with
GFF3 by the coding sequences of the whole file besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol

from vnp.datasets._genbank import read_genbank
from vnp.datasets._gff3 import Annotation
from vnp.datasets.annotated import Annotated
from vnp.errors import InputError
from vnp.sequences._files import stream
from vnp.sequences._record import Record
from vnp.sequences._text import one_line_end
from vnp.sequences.reading import read_records

__all__ = ["Annotated", "read_annotated"]

_GENBANK = re.compile(rb"(?:[^>@;#\n][^\n]*\n|[ \t]*\n){0,100}?LOCUS[ \t]")
_BOM = b"\xef\xbb\xbf"
_ENOUGH = 1 << 14


class GenomeFile(Protocol):
    """What reading needs to know of a file; a ``Source`` of a sheet is one."""

    @property
    def path(self) -> Path:
        """A GenBank or FASTA file."""

    @property
    def annotation(self) -> Path | None:
        """The GFF3 file of a FASTA file."""


def read_annotated(source: GenomeFile) -> Iterator[Annotated]:
    """Read the records of one annotated genome file in order.

    Args:
        source: the file, and where it is FASTA, its GFF3 file.

    Returns:
        Every record, also those with a problem, and those without a coding sequence.

    Raises:
        InputError: a file is missing, damaged or of another kind, a name occurs twice, none of the records has a
            sequence, or FASTA and GFF3 do not belong together.
        UsageError: gb-io is not installed.
    """
    lines: dict[str, int] = {}
    for line, record in _records(source):
        before = lines.setdefault(record.name, line)
        if before != line:
            raise InputError(
                f"the name occurs in line {before} already; remove one of the two", path=source.path, line=line,
                record=record.name,
            )  # fmt: skip
        yield record


def _records(source: GenomeFile) -> Iterator[tuple[int, Annotated]]:
    path = source.path
    blocks = _text(path)
    start = b""
    for block in blocks:
        start += block
        if len(start) >= _ENOUGH:
            break
    if not start.strip():
        raise InputError("the file is empty", path=path)
    if _GENBANK.match(start):
        if source.annotation is not None:
            raise InputError("is GenBank, which has its annotation within: give no GFF3 file with it", path=path)
        return read_genbank(chain((start,), blocks), path)
    if source.annotation is None:
        raise InputError(
            "is not GenBank (no line begins with LOCUS); FASTA needs its annotation beside it, as GFF3", path=path
        )
    return _with_gff3(read_records(path), Annotation(_text(source.annotation), source.annotation), path)


def _with_gff3(records: Iterable[Record], annotation: Annotation, path: Path) -> Iterator[tuple[int, Annotated]]:
    for record in records:
        yield record.line, annotation.annotate(record)
    annotation.finish(path)


def _text(path: Path) -> Iterator[bytes]:
    """The text of a file with LF line ends, without a byte-order mark."""
    _, blocks = stream(path, None, 0)
    first = True
    for block in one_line_end(blocks):
        yield block.removeprefix(_BOM) if first else block
        first = False
