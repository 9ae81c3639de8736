"""Opens sequence files: finds the compression by content, shows blocks to who watches, and makes lines of one kind.

The bytes of a file come in blocks; ``find_start`` tells where its records begin, and of which kind they are.
"""

from __future__ import annotations

import bz2
import hashlib
import logging
import lzma
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from isal import igzip_lib
from jaxtyping import UInt64

from vnp.errors import ChangedInputError, InputError, UsageError
from vnp.files.hashing import crc32
from vnp.files.records import open_regular
from vnp.sequences.samplesheet import check_readable

log = logging.getLogger(__name__)
_ZSTD_PIECE = 256

_COMPRESSIONS = {
    "gzip": (b"\x1f\x8b",),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + low, 0x2A, 0x4D, 0x18)) for low in range(16))),
}
# How the start of a member goes on: deflate without or with a name or more, and the first block of bzip2.
_MEMBERS = {
    b"\x1f\x8b": tuple(bytes((8, flags)) for flags in range(32)),
    b"BZh": tuple(b"%d1AY&SY" % level for level in range(1, 10)),
    b"\xfd7zXZ\x00": (b"\0",),
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
    (b"CRAM", "is a CRAM file; turn it into BAM first, for instance with 'samtools view -b'"),
    (b"\x89HDF", "is an HDF5 file; give FASTA or FASTQ"),
)


BLOCK = 1 << 18
Watch = Callable[[int, bytes], None]
"""Told number and bytes of each block of a file as it is on disk, before they are used; and no bytes at its end."""


def block_digest(block: bytes) -> int:
    """A digest of at most ``BLOCK`` bytes in 64 bits, at a fiftieth of the time of SHA-256.

    It tells damage and mistakes, not malice. The low half is the CRC-32, which no burst of up to 32 bits escapes. The
    high half is that of a sum of products of words with fixed random numbers modulo 2^64, which is almost universal
    (Dietzfelbinger, STACS 1996), so that of two files a block agrees by chance once in 2^64.
    """
    words = np.frombuffer(block if len(block) % 8 == 0 else block + bytes(-len(block) % 8), "<u8")
    high = int(np.dot(words, _weights()[: len(words)]))
    return (high >> 32 << 32) | crc32(block)


@cache
def _weights() -> UInt64[np.ndarray, "words"]:
    return np.frombuffer(hashlib.shake_128(b"vnp blocks").digest(BLOCK), "<u8") | np.uint64(1)


@dataclass(eq=False)
class KnownBlocks:
    """The blocks of a file as they must be; a ``Watch`` that refuses others."""

    path: str  # for messages
    digests: UInt64[np.ndarray, "blocks"]
    read: tuple[int, int] | None = None  # the first block that was compared, and the one after the last

    def __call__(self, number: int, block: bytes) -> None:
        """Compare a block; ``ChangedInputError`` where it is another."""
        known = int(self.digests[number]) if number < len(self.digests) else None
        if (block_digest(block) if block else None) != known:
            first = number * BLOCK
            where = f"bytes {first:,} to {first + len(block):,}" if block else f"what should follow byte {first:,}"
            raise ChangedInputError(
                f"has changed since the run was planned ({where}), or another one stands in its place; put it back, or "
                "extract the run anew with --force",
                path=self.path,
            )
        if block:
            self.read = (number if self.read is None else min(self.read[0], number), number + 1)


# The stubs call the first one an instance.
_DAMAGE: tuple[type[Exception], ...] = (igzip_lib.error, OSError, lzma.LZMAError, zstandard.ZstdError)  # type: ignore[assignment]
# A file of a few bytes can ask for gigabytes to be unpacked in; zstd -19 and xz -9 need a tenth of this.
_MOST_MEMORY = 1 << 29
_UNPACKERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY),
}  # fmt: skip


class _File:
    """A file's bytes from one on; whoever watches sees each block before a byte of it is handed out."""

    def __init__(self, file: FileIO, watch: Watch | None, offset: int) -> None:
        self._file, self._watch = file, watch
        self._number, self._skip = divmod(offset, BLOCK)
        file.seek(self._number * BLOCK)

    def read(self) -> bytes:
        """The rest of a block; no bytes at the end of the file."""
        block = self._file.read(BLOCK)
        # A file system may give less than it has.
        while len(block) < BLOCK and (more := self._file.read(BLOCK - len(block))):
            block += more
        if self._watch is not None:
            self._watch(self._number, block)
        self._number += 1
        skip, self._skip = self._skip, 0
        return block[skip:] if skip else block


def stream(path: Path, watch: Watch | None = None, offset: int = 0) -> tuple[bool, Iterator[bytes]]:
    """Open a file for one pass, from a byte on where it is not compressed.

    ``watch`` sees the file's blocks as they are on disk, from that of the first byte on to the end.

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
    return kind is None, _blocks(path, kind, watch, offset)


def _blocks(path: Path, kind: str | None, watch: Watch | None, offset: int) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            raw = _File(file, watch, offset)
            if kind is None:
                while block := raw.read():
                    yield block
            else:
                yield from _whole_blocks(_unpacked_zstd(raw) if kind == "zstd" else _unpacked(raw, kind, path))
    except EOFError as error:
        raise InputError(
            f"the {kind} file ends too early; it was probably cut off while it was copied: copy it again", path=path
        ) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot be read: {error.strerror}", path=path) from error
        if any(word in str(error).lower() for word in ("memory", "window")):
            raise InputError(
                f"needs more than {_MOST_MEMORY >> 20} MiB to be unpacked in ({error}): unpack it first, for instance "
                f"with '{'zstd -d --long=31' if kind == 'zstd' else 'xz -d'}'",
                path=path,
            ) from error
        raise InputError(f"the {kind} file is damaged ({error}); copy it again", path=path) from error


def _whole_blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of any size, most of them no larger than a block, as blocks of about one size."""
    found: list[bytes] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= BLOCK:
            text = b"".join(found)
            found, size = [], 0
            yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))
    if size:
        yield b"".join(found)


def _unpacked(raw: _File, kind: str, path: Path) -> Iterator[bytes]:
    """Unpack a file of one or more members, and read it to its end.

    Raises:
        EOFError: the last one has no end.
        OSError: what follows a member is none, and more of them follow that.
    """
    (magic,) = _COMPRESSIONS[kind]
    zeros = 0
    data = raw.read()
    while data:
        member = _UNPACKERS[kind]()
        yield member.decompress(data, BLOCK)
        while not member.eof:
            data = raw.read() if member.needs_input else b""
            if member.needs_input and not data:
                raise EOFError
            yield member.decompress(data, BLOCK)
        # Archives on tapes and xz itself fill up with zeros.
        found = member.unused_data
        data = found.lstrip(b"\0")
        zeros += len(found) - len(data)
        while len(data) < len(magic) and (more := raw.read()):
            found = data + more
            data = found.lstrip(b"\0")
            zeros += len(found) - len(data)
        if data and not data.startswith(magic):
            size = _pass_over(raw, data, magic)
            _say(
                f"warning: {path}: {size:,} bytes that are not {kind} follow where the compressed data ends "
                f"({data[:8]!r} …); they are not read. If records may be among them, pack the file anew"
            )
            data = b""
    if zeros and kind != "xz":
        _say(f"{path}: {zeros:,} zero bytes stand behind the compressed data, and are passed over")


def _pass_over(raw: _File, data: bytes, magic: bytes) -> int:
    """Read what is not compressed data to the end of the file; returns how many bytes it is.

    Raises:
        OSError: compressed data follows it, so that it is a hole in the file.
    """
    size, seen = len(data), data
    while True:
        if any(seen.find(magic + more) >= 0 for more in _MEMBERS[magic]):
            raise OSError(f"{data[:8]!r} where compressed data should go on; records are lost")
        if not (block := raw.read()):
            return size
        size += len(block)
        seen = seen[-16:] + block


@cache
def _say(text: str) -> None:
    """Say something of a file once, however often it is read."""
    log.warning(text)


def _unpacked_zstd(raw: _File) -> Iterator[bytes]:
    """Unpack zstd, and notice a frame that is cut off.

    Raises:
        EOFError: the last frame has no end. The library's own file object keeps silent about that.
    """
    frame = None
    while data := raw.read():
        # Little by little, since a kilobyte of zstd can hold a hundred megabytes of Ns.
        for first in range(0, len(data), _ZSTD_PIECE):
            rest = data[first : first + _ZSTD_PIECE]
            while rest:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=_MOST_MEMORY).decompressobj()
                yield frame.decompress(rest)
                rest = frame.unused_data
                frame = None if frame.eof else frame
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
        "is a SAM file; turn it into BAM first, for instance with 'samtools view -b'",
    ),
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

    ``whole`` says that it is the text from the file's start: later, a record may look like another format's start.

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
