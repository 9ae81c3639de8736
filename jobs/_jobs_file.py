"""Which Slurm jobs belong to a run: a line of JSON for each submission, in the run's ``logs/jobs.jsonl``."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Submitted:
    """One submission.

    Args:
        job: Slurm's id, of the array where it is one.
        name: what ``squeue`` shows.
        user: who submitted it.
        base: number to add to an array index to get the shard.
        shards: the shards of an array; empty for other jobs.
        at: UTC, ISO 8601.
    """

    job: str
    name: str
    user: str
    base: int
    shards: list[int]
    at: str


def jobs_file(root: Path) -> Path:
    """The file."""
    return root / "logs" / "jobs.jsonl"


def note(root: Path, job: str, name: str, base: int, shards: Sequence[int]) -> None:
    """Append a submission."""
    entry = Submitted(job, name, getpass.getuser(), base, list(shards), datetime.now(UTC).isoformat(timespec="seconds"))
    path = jobs_file(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(entry)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def submitted(root: Path) -> list[Submitted]:
    """All submissions, oldest first; a line that was cut off by a full disk is passed over."""
    found = []
    try:
        lines = jobs_file(root).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append(Submitted(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
