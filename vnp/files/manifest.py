"""A record of files that belong together, beside them: the SHA-256 of each when it was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import RunError, VnpError
from vnp.files.hashing import file_sha256
from vnp.files.records import read_record, write_record

_SCHEMA = "vnp-files/1"


@dataclass(frozen=True, slots=True)
class _Manifest:
    files: dict[str, str]  # name to SHA-256


def write_manifest(path: Path, files: Iterable[Path], known: Mapping[str, str] | None = None) -> None:
    """Write the record of some files in its folder.

    ``known`` has the SHA-256 of some of them, by name.

    Raises:
        StorageError: the disk is full or cannot be written.
        OSError: a file cannot be read.
    """
    digests = {one.name: (known or {}).get(one.name) or file_sha256(one) for one in files}
    write_record(path, _Manifest(digests), schema=_SCHEMA, seal="digest")


def changed_file(path: Path, files: Iterable[Path], error: type[VnpError] = RunError) -> Path | None:
    """The first of some files that is not what its record says, or that the record does not name; None if all are.

    Raises:
        VnpError: ``error``: the record is damaged.
        FileNotFoundError: there is no record.
        OSError: a file cannot be read.
    """
    found = read_record(path, _Manifest, schema=_SCHEMA, seal="digest", error=error)
    if found is None:
        raise FileNotFoundError(path)
    return next((one for one in files if not one.exists() or file_sha256(one) != found.files.get(one.name)), None)
