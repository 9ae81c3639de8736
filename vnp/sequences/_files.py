"""Opens sequence files: finds the compression by content, streams bytes, hashes what is read from disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import zstandard

from vnp.errors import InputError, UsageError
from vnp.sequences._readable import check_readable

BLOCK = 1 << 18
_ZSTD_PIECE = 256

_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + low, 0x2A, 0x4D, 0x18)) for low in range(16)))
_READ = "vnp reads plain, gzip, bzip2, xz and zstd files"
# What people hand over by mistake, told from the first bytes.
_STRANGERS = (
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


def stream(path: Path, hasher: Hasher | None, offset: int) -> tuple[bool, Iterator[bytes]]:
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
    for start, message in _STRANGERS:
        if magic.startswith(start):
            raise InputError(message, path=path)
    kind = _compression(magic)
    if kind is not None and offset:
        raise UsageError(f"{path}: a {kind} file cannot be read from byte {offset} on")
    return kind is None, _blocks(path, kind, hasher, offset)


def _compression(magic: bytes) -> str | None:
    if magic.startswith(b"\x1f\x8b"):
        return "gzip"
    if magic.startswith(b"BZh"):
        return "bzip2"
    if magic.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return "zstd" if magic.startswith(_ZSTD) else None


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
    packed: BinaryIO = io.BufferedReader(raw, BLOCK)
    unpacked: io.BufferedIOBase | _Watched = raw
    if kind == "gzip":
        unpacked = _GzipFile(fileobj=packed, mode="rb")
    elif kind == "bzip2":
        unpacked = bz2.BZ2File(packed)
    elif kind == "xz":
        unpacked = lzma.LZMAFile(packed)  # noqa: SIM115  the same
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
