"""Reads FASTA and FASTQ, record by record, in memory bounded by the longest record.

What is read: FASTA and FASTQ over one or more lines; plain, gzip, bzip2, xz and zstd, told by content; LF, CRLF and CR
line ends; blank lines and white space inside sequences; comment lines (``#`` or ``;``) before the first record; a
byte-order mark; a Ctrl-Z at the end. Bases are upper-cased, U becomes T, and X, which masking programs write, becomes
N. Qualities are counted against the bases and otherwise ignored.

A record that cannot be used does not end the reading: it comes in its place with its ``problem``. What makes the
rest of a file unsure (a FASTQ out of step, a truncated file, protein instead of DNA) is an ``InputError``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from vnp.sequences._fasta import fasta_records
from vnp.sequences._fastq import fastq_records
from vnp.sequences._files import Hasher, stream
from vnp.sequences._readable import check_readable
from vnp.sequences._record import Record
from vnp.sequences._text import find_start, one_line_end

__all__ = ["Record", "input_digest", "read_records"]


def read_records(path: str | Path, *, hasher: Hasher | None = None, offset: int = 0, line: int = 1) -> Iterator[Record]:
    """Read the records of a FASTA or FASTQ file in order.

    Args:
        path: the file.
        hasher: a ``hashlib`` object that is fed the file's bytes as they are on disk; it has had all of them once the
            last record has been taken.
        offset: byte to start at, where a record begins (``Record.offset``); only in a file that is not compressed.
        line: line number of that byte (``Record.line``).

    Returns:
        Every record of the file, also those with a problem.

    Raises:
        InputError: the file is missing, damaged, or not nucleotides in FASTA or FASTQ.
        UsageError: an offset was given for a compressed file.
    """
    path = Path(path)
    plain, blocks = stream(path, hasher, offset)
    start = find_start(one_line_end(blocks), path, whole=not offset)
    place = (start.blocks, path, line + start.lines, offset + start.size)
    if start.kind == b">":
        return fasta_records(*place, plain=plain, whole=not offset)
    return fastq_records(*place, plain=plain)


def input_digest(path: str | Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hexadecimal digits.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    path = Path(path)
    check_readable(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
