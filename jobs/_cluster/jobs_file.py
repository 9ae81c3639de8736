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
        shards: the shards of an array; empty for other jobs, and for arrays that were submitted by hand.
        at: UTC, ISO 8601.
    """

    job: str
    name: str
    user: str
    base: int
    shards: list[int]
    at: str

    def log(self, shard: int | None) -> str:
        """Name of the file in ``logs`` that the job, or its element for a shard, writes errors to."""
        element = "" if shard is None else f"_{shard - self.base}"
        return f"{self.job}{element}_0_log.err"


def jobs_file(root: Path) -> Path:
    """The file."""
    return root / "logs" / "jobs.jsonl"


def note(root: Path, job: str, name: str, base: int, shards: Sequence[int]) -> None:
    """Append a submission."""
    entry = Submitted(job, name, getpass.getuser(), base, list(shards), datetime.now(UTC).isoformat(timespec="seconds"))
    path = jobs_file(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one write, so that two writers do not mix their lines, and on a line of its own even after a torn one.
    line = json.dumps(asdict(entry)) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def note_by_hand(root: Path) -> None:
    """Note the job that this process runs in, if it is a Slurm job that no command of vnp submitted."""
    environment = os.environ
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    if job and all(entry.job != job for entry in submitted(root)):
        note(root, job, environment.get("SLURM_JOB_NAME", ""), 0, [])


def submitted(root: Path) -> list[Submitted]:
    """All submissions, oldest first; a line that was cut off by a full disk is passed over.

    A job that was submitted by hand is given once, though several of its tasks may have noted it at the same time.
    """
    found: list[Submitted] = []
    try:
        lines = jobs_file(root).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            entry = Submitted(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if entry.shards or all(entry.job != other.job for other in found):
            found.append(entry)
    return found
