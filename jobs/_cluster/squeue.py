"""What Slurm says of a run's jobs. It only explains: a shard is done by its receipt, whatever is said here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs._cluster.jobs_file import Submitted, submitted
from vnp.errors import VnpError

_SECONDS_TO_ANSWER = 20
_HAS_ENDED = re.compile("already complet|Invalid job id", re.IGNORECASE)
_AT_ONCE = 500
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_FED"}
# In the order of squeue's columns; the name is last because it alone can hold the separator.
_COLUMNS = "%F|%K|%T|%r|%j"


@dataclass(frozen=True, slots=True)
class Element:
    """A job, or an element of an array, that Slurm has not finished with.

    Args:
        id: as ``squeue`` and ``scancel`` take it, such as ``41_7``.
        name: of the job.
        state: Slurm's, such as ``PENDING``.
        reason: why it waits.
        shard: the shard it makes, or None for another job.
        log: name of its log of errors in the run's ``logs``.
    """

    id: str
    name: str
    state: str
    reason: str
    shard: int | None
    log: str

    @property
    def job(self) -> str:
        """The id of the job or array."""
        return self.id.partition("_")[0]

    @property
    def waiting(self) -> bool:
        """Whether it has yet to start."""
        return self.state in _WAITING

    @property
    def ending(self) -> bool:
        """Whether its task has ended, or is being ended by Slurm."""
        return self.state == "COMPLETING"


def live(root: Path) -> list[Element] | None:
    """A run's jobs in the queue.

    Returns:
        None if Slurm does not answer, which is not the same as none.
    """
    known = {entry.job: entry for entry in submitted(root)}
    if not known:
        return []
    # Asked by user: a question for an id that Slurm has forgotten is answered with an error.
    users = ",".join(sorted({entry.user for entry in known.values()}))
    answer = _ask(["squeue", "--noheader", "--array", f"--user={users}", f"--format={_COLUMNS}"])
    if answer is None:
        return None
    found = []
    for line in answer.splitlines():
        job, index, state, reason, name = [*line.split("|", 4), *[""] * 4][:5]
        entry = known.get(job.strip())
        # Ids begin anew with a new Slurm: the name must fit too.
        if entry is not None and name.strip() == entry.name.strip():
            found.append(_element(entry, index, state, reason))
    return found


def _element(entry: Submitted, index: str, state: str, reason: str) -> Element:
    if index.isdecimal():
        shard = entry.base + int(index)
        return Element(f"{entry.job}_{index}", entry.name, state, reason, shard, entry.log(shard))
    return Element(entry.job, entry.name, state, reason, None, entry.log(None))


def ended(jobs: Sequence[str]) -> dict[str, str]:
    """How jobs ended, by ``sacct``, which may be absent, late or wrong.

    Args:
        jobs: ids such as ``41_7``.

    Returns:
        Words such as ``TIMEOUT`` or ``OUT_OF_MEMORY, exit code 0:125``, by id; ids that are not known, and jobs that
        ended well or not yet, are left out.
    """
    found = {}
    words = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode"]
    for first in range(0, len(jobs), _AT_ONCE):
        answer = _ask([*words, "--jobs", ",".join(jobs[first : first + _AT_ONCE])])
        if answer is None:
            break
        for line in answer.splitlines():
            job, state, code = [*line.strip().split("|"), "", ""][:3]
            if job in jobs and state and not state.startswith(("RUNNING", "PENDING", "COMPLETED", "REQUEUED")):
                found[job] = state if code in ("", "0:0") else f"{state}, exit code {code}"
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or elements; those that have ended meanwhile are none to worry about.

    Raises:
        VnpError: Slurm refused, in Slurm's words.
    """
    for first in range(0, len(jobs), _AT_ONCE):
        try:
            done = subprocess.run(
                ["scancel", *jobs[first : first + _AT_ONCE]], capture_output=True, text=True, errors="replace"
            )
        except OSError as error:
            raise VnpError(f"scancel cannot be run: {error.strerror}") from error
        said = [line for line in done.stderr.splitlines() if not _HAS_ENDED.search(line)]
        if done.returncode and said:
            raise VnpError("\n".join(said))


def _ask(words: list[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_SECONDS_TO_ANSWER)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
