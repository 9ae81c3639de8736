"""Digests of files, of values and of vnp's own code; nothing else opens a file to hash it.

SHA-256 says what a file is. Where a large one is only to be checked as it is read, CRC-32 does, at many times the
speed: it finds every change of one or two bits, every burst of up to 32, and all but one in four thousand million of
others. Both find accidents; neither keeps out somebody who writes a matching digest beside what he changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import vnp
from vnp.errors import RunError, StorageError
from vnp.files.machine import cache_folder
from vnp.files.records import canonical_json, open_regular, read_record, write_record

crc32: Callable[..., int] = zlib.crc32
"""CRC-32 of bytes, going on from that of the bytes before them: ``crc32(data, before)``."""
# Twenty gigabytes a second, where the standard library has three; there is none for some machines.
with contextlib.suppress(ImportError):
    crc32 = importlib.import_module("isal.isal_zlib").crc32

REMEMBERED_BYTES = 16 << 20
"""Smaller files are hashed sooner than looked up."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; ``OSError`` where they cannot be read."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_crc32(path: Path) -> int:
    """CRC-32 of a file's bytes; ``OSError`` where they cannot be read."""
    crc, buffer = 0, bytearray(1 << 20)
    with open_regular(path) as file:
        while count := file.readinto(buffer):
            crc = crc32(memoryview(buffer)[:count], crc)
    return crc


def remembered_sha256(path: Path, *, again: bool = False) -> str:
    """SHA-256 of a file's bytes, or what is remembered of it.

    The digest of a large file is remembered in the user's cache folder, with what the system says of the file and its
    CRC-32, which takes a tenth of the time and is compared each time.

    ``again`` hashes it even if it looks unchanged.

    Raises:
        OSError: the file cannot be read.
    """
    now = _stamp(path)
    if now[0] < REMEMBERED_BYTES:
        return file_sha256(path)
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    try:
        memory = cache_folder("checked") / f"{key}.json"
    except StorageError:
        return file_sha256(path)
    if not again and (known := _recall(memory, now, path)) is not None:
        return known
    digest, crc = file_sha256(path), file_crc32(path)
    # Written to while it was read: the digest belongs to no state of the file, so it is not remembered.
    if _stamp(path) == now:
        # A cache that cannot be written costs time, nothing else.
        with contextlib.suppress(OSError, StorageError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_record(memory, {"stamp": now, "crc32": crc, "sha256": digest}, seal="of")
    return digest


def json_sha256(value: Mapping[str, object]) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 over the names and lines of all Python files of ``vnp`` and ``jobs``, wherever they are installed."""
    digest = hashlib.sha256()
    root = Path(vnp.__file__).parent.parent
    for path in sorted(path for package in ("vnp", "jobs") for path in (root / package).rglob("*.py")):
        lines = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(lines)}\0".encode() + lines)
    return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


def _recall(memory: Path, now: list[int], path: Path) -> str | None:
    """The digest of an unchanged file; anything unreadable is as good as nothing."""
    try:
        known = read_record(memory, dict, seal="of") or {}
    except RunError:
        return None
    return str(known.get("sha256")) if known.get("stamp") == now and known.get("crc32") == file_crc32(path) else None
