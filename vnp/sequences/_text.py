"""Turns the bytes of a file into lines of one kind and finds where its records begin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from vnp.errors import InputError

_BOM = b"\xef\xbb\xbf"
_CTRL_Z = b"\x1a"
_AT_END = b" \t\r\n\x1a"
# Longer than any sensible first line; what has not become clear by then is binary.
_FIRST_LINE = 1 << 20
_BEFORE_RECORDS = re.compile(rb"(?:[ \t]*\n|[#;][^\n]*\n)*")
_STRANGERS = (
    (
        re.compile(rb"@(HD|SQ|RG|PG|CO)\t"),
        "is a SAM file; turn it into FASTQ first, for instance with 'samtools fastq'",
    ),
    (re.compile(rb"BAM\x01"), "is a BAM file; turn it into FASTQ first, for instance with 'samtools fastq'"),
    (re.compile(rb"LOCUS |ID   "), "is a GenBank or EMBL file; turn it into FASTA first"),
    (re.compile(rb"\s*<(!DOCTYPE|html|\?xml)", re.IGNORECASE), "is a web page or XML, perhaps a failed download"),
    (re.compile(rb"[^>@\n][^\n]*\bpath[,\t]|path[,\t]"), "looks like a samplesheet; its name must end in .csv or .tsv"),
)


class Start(NamedTuple):
    """Where the records of a file begin.

    Attributes:
        kind: ``b">"`` for FASTA, ``b"@"`` for FASTQ.
        lines: lines before the first record.
        size: bytes before it.
        blocks: the text from there on, in blocks that are not empty.
    """

    kind: bytes
    lines: int
    size: int
    blocks: Iterator[bytes]


def one_line_end(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Make every line end an LF without moving a byte, and drop a Ctrl-Z at the end of the file.

    CRLF becomes space and LF; a CR alone (old Macintosh files) becomes LF.
    """
    waiting = b""
    for block in blocks:
        text = waiting + block
        waiting = b""
        if text.endswith(b"\r") or _CTRL_Z in text[-4:]:
            # What a CR or Ctrl-Z at the end means depends on whether more follows.
            keep = len(text.rstrip(_AT_END))
            text, waiting = text[:keep], text[keep:]
        if text:
            yield _unified(text)
    if _CTRL_Z in waiting:
        waiting = waiting[: waiting.index(_CTRL_Z)]
    if waiting:
        yield _unified(waiting)


def _unified(text: bytes) -> bytes:
    return text.replace(b"\r\n", b" \n").replace(b"\r", b"\n") if b"\r" in text else text


def find_start(blocks: Iterator[bytes], path: Path, *, whole: bool = True) -> Start:
    """Skip comments and blank lines, and tell FASTA from FASTQ.

    Args:
        blocks: the text.
        path: named in errors.
        whole: whether it is the text from the file's start; later, a record may look like another format's start.

    Raises:
        InputError: the file is empty or is neither.
    """
    text, lines, size = b"", 0, 0
    for block in blocks:
        text += block
        if not size and text.startswith(_BOM):
            text, size = text[len(_BOM) :], len(_BOM)
        skipped = _BEFORE_RECORDS.match(text)
        end = skipped.end() if skipped else 0
        lines += text.count(b"\n", 0, end)
        size += end
        text = text[end:]
        if text[:1] in (b">", b"@") or b"\n" in text or len(text) > _FIRST_LINE:
            break
    if not text and not size:
        raise InputError("the file is empty", path=path)
    if not text.strip() or (text[:1] in b"#;" and len(text) <= _FIRST_LINE):
        raise InputError("holds no record, only comments or blank lines", path=path)
    for start, message in _STRANGERS if whole else ():
        if start.match(text):
            raise InputError(message, path=path)
    if text[:1] not in (b">", b"@"):
        raise InputError(_neither(text), path=path, line=lines + 1)
    return Start(text[:1], lines, size, chain((text,), blocks))


def _neither(text: bytes) -> str:
    first = text.split(b"\n", 1)[0][:60]
    try:
        shown = first.decode("utf-8")
    except UnicodeDecodeError:
        shown = "\0"
    if not shown.replace("\t", " ").isprintable():
        return f"is not FASTA or FASTQ but binary (it starts with the bytes {text[:8].hex(' ')})"
    return f"is not FASTA or FASTQ: its first record should start with '>' or '@', but the line is {shown!r}"
