"""``refseq.lock.json``: which files of which release were chosen and fetched, and ``refseq.csv``, which lists them.

The lock is written when the choice is made and after each file, so that a fetch that was stopped goes on with the same
choice, and a later one can tell whether the files are still what was fetched.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vnp.errors import DownloadError
from vnp.files.durable import replacing
from vnp.files.records import write_json
from vnp.refseq.choice import GROUPS, fasta_name

LOCK_NAME = "refseq.lock.json"
SHEET_NAME = "refseq.csv"
_SCHEMA = "vnp-refseq/1"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for; the same question and release give the same files.

    Attributes:
        url: address of the release, with a slash at the end.
        groups: names of folders.
        seed: of the draws.
        files: GenBank files of every group, or None for VirNucPro's numbers.
        fasta: whether FASTA files come along.
    """

    url: str
    groups: tuple[str, ...]
    seed: int
    files: int | None
    fasta: bool


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file of the choice.

    Attributes:
        group: folder that it is in.
        kind: ``genbank`` or ``fasta``.
        url: where it comes from.
        size: in bytes; as the server says until it is here; None where it does not.
        md5: from the release's catalogue; None where that has none.
        sha256: of what came; None until it is here.
        checked: ``md5`` (against the catalogue) or ``gzip`` (unpacked to its end); None until it is here.
        last_modified: as the server said it.
        fetched: when, in UTC, ISO 8601.
    """

    group: str
    kind: str
    url: str
    size: int | None
    md5: str | None
    sha256: str | None = None
    checked: str | None = None
    last_modified: str | None = None
    fetched: str | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """A choice of files, and what is here of it.

    Attributes:
        asked: what was asked for.
        release: number of the release; None where the server does not tell.
        chosen: when, in UTC, ISO 8601.
        files: name to file, in the order of the choice.
    """

    asked: Asked
    release: str | None
    chosen: str
    files: Mapping[str, LockedFile]


def read_lock(folder: Path) -> Lock | None:
    """Read the lock of a folder; None if there is none.

    Raises:
        DownloadError: the lock cannot be read.
    """
    path = folder / LOCK_NAME
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != _SCHEMA:
            raise DownloadError(f"{path} has the schema {content['schema']!r}, this version of vnp reads {_SCHEMA!r}")
        asked = content["asked"]
        return Lock(
            asked=Asked(**{**asked, "groups": tuple(asked["groups"])}),
            release=content["release"],
            chosen=content["chosen"],
            files={one["name"]: _file(one) for one in content["files"]},
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DownloadError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it and run the same command again with "
            "--force, which keeps the files that are right"
        ) from error


def as_json(lock: Lock) -> dict[str, Any]:
    """The lock as its file has it."""
    return {
        "schema": _SCHEMA,
        "asked": asdict(lock.asked),
        "release": lock.release,
        "chosen": lock.chosen,
        "files": [{"name": name, **asdict(one)} for name, one in lock.files.items()],
    }


def write_lock(folder: Path, lock: Lock) -> None:
    """Write the lock durably.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    write_json(folder / LOCK_NAME, as_json(lock))


def write_sheet(folder: Path, lock: Lock) -> Path:
    """Write the samplesheet that ``jobs.dataset`` takes, with label and organism group.

    The bases are taken from the FASTA files where they came along, for many GenBank records have none of their own.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    path = folder / SHEET_NAME
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label", "group", "organism_group", "annotation"))
        for name, one in lock.files.items():
            if one.kind == "genbank":
                group = GROUPS[one.group]
                fasta = fasta_name(name)
                files = (fasta, name) if fasta in lock.files else (name, "")
                writer.writerow((files[0], group.label, "", group.organisms, files[1]))
    return path


def _file(one: Mapping[str, Any]) -> LockedFile:
    found = LockedFile(**{field.name: one[field.name] for field in fields(LockedFile)})
    if found.group not in GROUPS or Path(one["name"]).name != one["name"]:
        raise ValueError(f"{one['name']!r} of {found.group!r} is no file of RefSeq")
    return found
