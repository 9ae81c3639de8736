"""Opens sequence files: finds the compression by content, hashes what is read, and makes it lines of one kind.

The bytes of a file come in blocks; ``find_start`` tells where its records begin, and of which kind they are.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import zstandard

from vnp.errors import InputError, UsageError
from vnp.sequences.samplesheet import check_readable

BLOCK = 1 << 18
_ZSTD_PIECE = 256

_COMPRESSIONS = {
    "gzip": (b"\x1f\x8b",),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + low, 0x2A, 0x4D, 0x18)) for low in range(16))),
}
_READ = "vnp reads plain, gzip, bzip2, xz and zstd files"
# What people hand over by mistake, told from the first bytes.
_NOT_READ = (
    (b"\x04\x22\x4d\x18", f"is compressed with lz4; {_READ}: unpack it with 'lz4 -d' first"),
    (b"PK\x03\x04", f"is a zip archive; {_READ}: unpack it first"),
    (b"\x1f\x9d", f"is compressed with 'compress' (.Z); {_READ}: unpack it first"),
    (b"LZIP", f"is compressed with lzip; {_READ}: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive; {_READ}: unpack it first"),
    (b"Rar!", f"is a rar archive; {_READ}: unpack it first"),
    (b"CRAM", "is a CRAM file; turn it into FASTQ first, for instance with 'samtools fastq'"),
    (b"\x89HDF", "is an HDF5 file; give FASTA or FASTQ"),
)


_DAMAGE: tuple[type[Exception], ...] = (OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
# The standard library reads the same at half the speed, where there is no isal for the machine.
_GzipFile: Any = gzip.GzipFile
with contextlib.suppress(ImportError):
    _GzipFile = importlib.import_module("isal.igzip").GzipFile
    _DAMAGE += (importlib.import_module("isal.isal_zlib").error,)


_UNPACKERS: dict[str, Any] = {
    "gzip": lambda packed: _GzipFile(fileobj=packed, mode="rb"), "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile,
}  # fmt: skip


class Hasher(Protocol):
    """A ``hashlib`` object, as far as reading needs one."""

    def update(self, data: bytes, /) -> None:
        """Take in some bytes."""


class _Watched(io.RawIOBase):
    """A file whose bytes go to a hasher as they are read."""

    def __init__(self, file: BinaryIO, hasher: Hasher | None) -> None:
        self._file = file
        self._hasher = hasher

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(BLOCK if size < 0 else size)
        if self._hasher is not None:
            self._hasher.update(data)
        return data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def stream(path: Path, hasher: Hasher | None = None, offset: int = 0) -> tuple[bool, Iterator[bytes]]:
    """Open a file for one pass.

    Args:
        path: the file.
        hasher: is fed the file's bytes as they are on disk, to the end.
        offset: byte at which to start; only in a file that is not compressed.

    Returns:
        Whether the file is plain, and its decompressed bytes in blocks that are never empty.

    Raises:
        InputError: the file cannot be read or is damaged (also while the blocks are read).
        UsageError: an offset was given for a compressed file.
    """
    check_readable(path)
    with path.open("rb") as file:
        magic = file.read(8)
    for start, message in _NOT_READ:
        if magic.startswith(start):
            raise InputError(message, path=path)
    kind = next((name for name, starts in _COMPRESSIONS.items() if magic.startswith(starts)), None)
    if kind is not None and offset:
        raise UsageError(f"{path}: a {kind} file cannot be read from byte {offset} on")
    return kind is None, _blocks(path, kind, hasher, offset)


def _blocks(path: Path, kind: str | None, hasher: Hasher | None, offset: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        raw = _Watched(file, hasher)
        try:
            yield from _unpacked(raw, kind)
        except EOFError as error:
            raise InputError(
                f"the {kind} file ends too early; it was probably cut off while it was copied: copy it again", path=path
            ) from error
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise InputError(f"cannot be read: {error.strerror}", path=path) from error
            raise InputError(f"the {kind} file is damaged ({error}); copy it again", path=path) from error
        # A decompressor may stop before the last byte on disk, and the digest is of all of them.
        while raw.read(BLOCK):
            pass


def _unpacked(raw: _Watched, kind: str | None) -> Iterator[bytes]:
    if kind == "zstd":
        yield from _zstd(raw)
        return
    unpacked: Any = raw
    if kind is not None:
        unpacked = _UNPACKERS[kind](io.BufferedReader(raw, BLOCK))
    while block := unpacked.read(BLOCK):
        yield block


def _zstd(raw: _Watched) -> Iterator[bytes]:
    """Unpack zstd in blocks of bounded size, and notice a frame that is cut off.

    Raises:
        EOFError: the last frame has no end. The library's own file object keeps silent about that.
    """
    frame = None
    found: list[bytes] = []
    size = 0
    while data := raw.read(BLOCK):
        # Little by little, since a kilobyte of zstd can hold a hundred megabytes of Ns.
        for first in range(0, len(data), _ZSTD_PIECE):
            rest = data[first : first + _ZSTD_PIECE]
            while rest:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                block = frame.decompress(rest)
                found.append(block)
                size += len(block)
                rest = frame.unused_data
                frame = None if frame.eof else frame
            if size >= BLOCK:
                text = b"".join(found)
                found, size = [], 0
                yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))
    if size:
        yield b"".join(found)
    if frame is not None:
        raise EOFError


_BOM = b"\xef\xbb\xbf"
_CTRL_Z = b"\x1a"
_AT_END = b" \t\r\n\x1a"
# Longer than any sensible first line; what has not become clear by then is binary.
_FIRST_LINE = 1 << 20
_BEFORE_RECORDS = re.compile(rb"(?:[ \t]*\n|[#;][^\n]*\n)*")
_NOT_NUCLEOTIDES = (
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
    """Where the records of a file begin."""

    kind: bytes  # ``b">"`` for FASTA, ``b"@"`` for FASTQ
    lines: int  # lines before the first record
    size: int  # bytes before it
    blocks: Iterator[bytes]  # the text from there on, in blocks that are not empty


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
    for start, message in _NOT_NUCLEOTIDES if whole else ():
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
