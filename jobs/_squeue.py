"""What Slurm says of a run's jobs. It only explains: a shard is done by its receipt, whatever is said here."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs._jobs_file import Submitted, submitted

_SECONDS_TO_ANSWER = 20
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_FED"}


@dataclass(frozen=True, slots=True)
class Element:
    """A job, or an element of an array, that Slurm has not finished with.

    Args:
        id: as ``squeue`` and ``scancel`` take it, such as ``41_7``.
        name: of the job.
        state: Slurm's, such as ``PENDING``.
        reason: why it waits.
        shard: the shard it makes, or None for another job.
    """

    id: str
    name: str
    state: str
    reason: str
    shard: int | None

    @property
    def waiting(self) -> bool:
        """Whether it has yet to start."""
        return self.state in _WAITING


def live(root: Path) -> list[Element] | None:
    """A run's jobs in the queue.

    Returns:
        None if Slurm does not answer, which is not the same as none.
    """
    known = {entry.job: entry for entry in submitted(root)}
    if not known:
        return []
    users = ",".join(sorted({entry.user for entry in known.values()}))
    answer = _ask(["squeue", "--noheader", "--array", f"--user={users}", "--format=%F|%K|%T|%r|%j"])
    if answer is None:
        return None
    found = []
    for line in answer.splitlines():
        job, index, state, reason, name = [*line.strip().split("|", 4), *[""] * 4][:5]
        entry = known.get(job)
        # Ids are used again after years or a reinstallation: the name must fit too.
        if entry is not None and name == entry.name:
            found.append(_element(entry, job, index, state, reason))
    return found


def _element(entry: Submitted, job: str, index: str, state: str, reason: str) -> Element:
    if entry.shards and index.isdecimal():
        return Element(f"{job}_{index}", entry.name, state, reason, entry.base + int(index))
    return Element(job, entry.name, state, reason, None)


def ended(jobs: Sequence[str]) -> dict[str, str]:
    """How jobs ended, by ``sacct``, which may be absent, late or wrong.

    Args:
        jobs: ids such as ``41_7``.

    Returns:
        Words such as ``TIMEOUT`` or ``OUT_OF_MEMORY, exit code 0:125``, by id; ids that are not known are left out.
    """
    if not jobs:
        return {}
    answer = _ask(
        [
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            "--format=JobID,State,ExitCode",
            "--jobs",
            ",".join(jobs),
        ]
    )
    found = {}
    for line in (answer or "").splitlines():
        job, state, code = [*line.split("|"), "", ""][:3]
        if state and not state.startswith(("RUNNING", "PENDING", "COMPLETED")):
            found[job] = state if code in ("", "0:0") else f"{state}, exit code {code}"
    return found


def _ask(words: list[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
