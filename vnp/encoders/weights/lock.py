"""``weights.lock.json``: which weights were fetched, and how to know them again.

The lock lies in the weights folder, beside one folder an encoder. ``jobs.fetch`` writes it; everything else
only reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import StorageError, WeightsError
from vnp.files.records import write_json

LOCK_NAME = "weights.lock.json"
REMEMBERED_BYTES = 16 << 20  # smaller files are hashed sooner than looked up
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file as it was fetched.

    Attributes:
        size: in bytes.
        sha256: 64 hexadecimal digits.
    """

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LockedEncoder:
    """One encoder as it was fetched.

    Attributes:
        hub_id: repository.
        revision: commit that its files came from.
        licence: as the hub stated it then, or ``not stated``.
        fetched: when, in UTC, ISO 8601.
        files: name to size and hash.
    """

    hub_id: str
    revision: str
    licence: str
    fetched: str
    files: Mapping[str, LockedFile]


def read_lock(folder: Path) -> dict[str, LockedEncoder]:
    """Read the lock in a weights folder.

    Args:
        folder: where ``weights.lock.json`` lies.

    Returns:
        Encoder name to what was fetched; empty if there is no lock.

    Raises:
        WeightsError: the lock cannot be read.
    """
    path = folder / LOCK_NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != _SCHEMA:
            raise WeightsError(
                f"{path} has schema {content['schema']!r}, this version of vnp reads {_SCHEMA}; "
                "fetch again with this version (python -m jobs.fetch)"
            )
        return {str(name): _entry(one) for name, one in content["encoders"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it and fetch again (python -m jobs.fetch)"
        ) from error


def write_lock(folder: Path, encoders: Mapping[str, LockedEncoder]) -> Path:
    """Write the lock of a weights folder, all of it or nothing.

    Args:
        folder: where to write ``weights.lock.json``.
        encoders: encoder name to what was fetched.

    Returns:
        The path of the lock.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    content = {
        "schema": _SCHEMA,
        "encoders": {
            name: {
                "hub_id": one.hub_id,
                "revision": one.revision,
                "licence": one.licence,
                "fetched": one.fetched,
                "files": {file: {"size": what.size, "sha256": what.sha256} for file, what in sorted(one.files.items())},
            }
            for name, one in sorted(encoders.items())
        },
    }
    path = folder / LOCK_NAME
    write_json(path, content)
    return path


def file_sha256(path: Path, *, again: bool = False) -> str:
    """Hash a file, or remember its hash.

    The hash of a large file is remembered, with its size, modification time and inode, in the user's cache
    folder (``$XDG_CACHE_HOME``, else ``~/.cache``): gigabytes are read once, not at the start of each task.

    Args:
        path: the file.
        again: hash it even if it looks unchanged.

    Returns:
        64 hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        now = _stamp(path)
        memory = _memory(path) if now[0] >= REMEMBERED_BYTES else None
        if memory is not None and not again:
            known = _recall(memory, now)
            if known is not None:
                return known
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # Written to while it was read: the hash belongs to no state of the file, so it is not remembered.
        if memory is not None and _stamp(path) == now:
            # A cache that cannot be written costs time, nothing else.
            with contextlib.suppress(OSError, StorageError):
                memory.parent.mkdir(parents=True, exist_ok=True)
                write_json(memory, {"stamp": now, "sha256": digest})
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest


def _entry(one: Mapping[str, object]) -> LockedEncoder:
    files = one["files"]
    if not isinstance(files, dict):
        raise TypeError("files is not a table")
    return LockedEncoder(
        hub_id=str(one["hub_id"]),
        revision=str(one["revision"]),
        licence=str(one["licence"]),
        fetched=str(one["fetched"]),
        files={str(name): LockedFile(int(what["size"]), str(what["sha256"])) for name, what in files.items()},
    )


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _memory(path: Path) -> Path | None:
    """Where the hash of this file is remembered; None where the user has no home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return cache / "vnp" / "checked" / f"{key}.json"


def _recall(memory: Path, now: list[int]) -> str | None:
    """Read the hash of an unchanged file; anything unreadable is as good as nothing."""
    try:
        content = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("stamp") != now:
        return None
    return str(content.get("sha256"))
