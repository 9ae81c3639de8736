"""Reads a file once, for all that can be said of its bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from isal import isal_zlib

_BLOCK = 1 << 20
_GZIP = 31  # window bits that stand for a gzip header


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    Attributes:
        size: in bytes.
        sha256: 64 hexadecimal digits.
        md5: 32 hexadecimal digits.
        damage: why it is no whole gzip file, where that was asked and is so.
    """

    size: int
    sha256: str
    md5: str
    damage: str | None


def read_contents(path: Path, *, unpack: bool) -> Contents:
    """Hash a file.

    Args:
        path: the file.
        unpack: also unpack it, to see whether it is a whole gzip file.

    Raises:
        OSError: it cannot be read.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    gzip = _Gzip()
    size = 0
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            size += len(block)
            sha256.update(block)
            md5.update(block)
            if unpack:
                gzip.feed(block)
    return Contents(size, sha256.hexdigest(), md5.hexdigest(), gzip.end() if unpack else None)


class _Gzip:
    """Unpacks one gzip member after another and forgets what comes out; checksums and lengths are checked."""

    def __init__(self) -> None:
        self._member = isal_zlib.decompressobj(_GZIP)
        self._begun = False
        self._members = 0
        self._damage: str | None = None

    def feed(self, block: bytes) -> None:
        while block and self._damage is None:
            # Zeros behind the last member are padding, as gzip itself takes them.
            if not self._begun and self._members:
                block = block.lstrip(b"\0")
                if not block:
                    return
            try:
                self._member.decompress(block)
            except isal_zlib.error as error:  # type: ignore[misc]  # its stubs call it a function
                self._damage = f"not a gzip file, or damaged ({error})"
                return
            self._begun = True
            block = b""
            if self._member.eof:
                block = self._member.unused_data
                self._member, self._begun = isal_zlib.decompressobj(_GZIP), False
                self._members += 1

    def end(self) -> str | None:
        if self._damage is None and (self._begun or not self._members):
            return "the gzip file ends too early"
        return self._damage
