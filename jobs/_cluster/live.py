"""A run's state with what Slurm knows about its jobs laid over it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from jobs._cluster.jobs_file import Submitted, submitted
from jobs._cluster.squeue import Element, ended, live
from vnp.errors import RunExistsError

if TYPE_CHECKING:
    from vnp.runs.done.status import RunStatus, ShardStatus
    from vnp.runs.request import Run

_EXPLAINED = 1000


@dataclass(frozen=True, slots=True)
class Explained:
    """How far a run is, and what Slurm adds.

    Args:
        state: of the shards.
        others: jobs of the run in the queue that make no shard, such as the merging.
    """

    state: RunStatus
    others: list[Element]


@dataclass(frozen=True, slots=True)
class Planning:
    """The job that plans a run which is not planned yet.

    Args:
        job: its id.
        state: ``waits``, ``runs``, ``ended``, or ``was submitted`` if Slurm does not answer.
        error: why it waits, or the last line of its log.
        log: path of its log, if there is one.
    """

    job: str
    state: str
    error: str | None
    log: str | None


def planning(root: Path) -> Planning | None:
    """How the planning of a run is, where that is a job and not done; None otherwise."""
    if (root / "run.json").exists():
        return None
    jobs = [entry for entry in submitted(root) if entry.name.endswith("-plan")]
    if not jobs:
        return None
    from vnp.runs.done.status import last_words

    last = jobs[-1]
    path = root / "logs" / last.log(None)
    log = str(path) if path.exists() else None
    queue = live(root)
    element = next((found for found in queue or [] if found.id == last.job), None)
    if element is not None:
        return Planning(
            last.job, "waits" if element.waiting else "runs", element.reason if element.waiting else None, log
        )
    words = last_words(log)
    how = ended([last.job]).get(last.job)
    if how:
        words = f"{words or 'no word'} (Slurm: {how})"
    return Planning(last.job, "was submitted" if queue is None else "ended", words, log)


def without_live(run: Run, shards: Sequence[int]) -> list[int]:
    """Leave out shards that a job in the queue is going to make, and say so."""
    queue = live(run.paths.root)
    if queue is None:
        click.echo("Slurm's queue could not be read; submitting without a look at it", err=True)
        return list(shards)
    # A job that is ending may have been cancelled: two tasks for one shard do no harm, none would.
    busy = {element.shard for element in queue if element.shard is not None and not element.ending} & set(shards)
    if busy:
        click.echo(
            f"{len(busy)} shards are in the queue already: left to their jobs (rerun --force submits them again)"
        )
    return [number for number in shards if number not in busy]


def require_idle(root: Path) -> None:
    """Make sure that no job of a run is in the queue.

    Raises:
        RunExistsError: there is one.
    """
    queue = [element for element in live(root) or [] if not element.ending]
    if queue:
        jobs = ", ".join(sorted({element.job for element in queue}, key=int))
        raise RunExistsError(
            f"{root} has jobs in the queue ({jobs}): end them first with python -m jobs.cancel {quote(str(root))}, "
            "or wait for them"
        )


def explain(run: Run, state: RunStatus) -> Explained:
    """Tell waiting from running from vanished tasks, where Slurm answers; what is done stays done.

    Args:
        run: the run.
        state: from its files.
    """
    jobs = submitted(run.paths.root)
    queue = live(run.paths.root) if jobs and not state.complete else []
    by_shard = {element.shard: element for element in queue or [] if element.shard is not None}
    known = {entry.job for entry in jobs}
    last = {shard: entry for entry in jobs for shard in entry.shards}
    logs = _files(run.paths.logs) if last else {}
    shards = []
    for found in state.shards:
        number = found.shard.number
        element, entry = by_shard.get(number), last.get(number)
        if found.state in ("done", "damaged", "unknown"):
            shards.append(found)
        elif element is not None:
            shards.append(_in_queue(found, element, run.paths.logs))
        elif entry is not None:
            shards.append(_out_of_queue(found, entry, known, queue is not None, logs))
        else:
            shards.append(found)
    others = [element for element in queue or [] if element.shard is None]
    return Explained(replace(state, shards=_with_reasons(shards)), others)


def _files(folder: Path) -> dict[str, str]:
    try:
        return {entry.name: entry.path for entry in os.scandir(folder)}
    except OSError:
        return {}


def _in_queue(found: ShardStatus, element: Element, logs: Path) -> ShardStatus:
    if element.waiting:
        before = f"; before: {found.error}" if found.error else ""
        return replace(found, state="queued", error=f"waits: {element.reason}{before}", job=element.id)
    if element.ending and found.state != "running":
        return found
    error = None if found.state == "running" else "starting"
    return replace(found, state="running", error=error, job=element.id, log=str(logs / element.log))


def _out_of_queue(
    found: ShardStatus, entry: Submitted, known: set[str], answered: bool, logs: dict[str, str]
) -> ShardStatus:
    """A shard that was submitted, whose job the queue does not have, or of which it could not be asked."""
    own = (found.job or "").partition("_")[0]
    if found.state == "running":
        # Its own sign of life counts for more than the queue of what may be another cluster.
        elsewhere = answered and own in known and not found.here
        return replace(found, error="not in the queue here") if elsewhere else found
    if found.attempts and (own == entry.job or own not in known):
        return found
    from vnp.runs.done.status import last_words

    # The last job for it never began the shard: what there is to say of that is in the job's log.
    number = found.shard.number
    log = logs.get(entry.log(number))
    job = f"{entry.job}_{number - entry.base}"
    if log is None:
        words = "its job ended or was cancelled before it started" if answered else "submitted, no sign of it yet"
        return replace(found, error=words, job=job)
    words = last_words(log) or "its task ended before it began the shard"
    return replace(found, state="failed" if answered else found.state, error=words, log=log, job=job)


def _with_reasons(shards: list[ShardStatus]) -> list[ShardStatus]:
    """Add how Slurm says that failed tasks ended."""
    unexplained = [found.job for found in shards if found.state in ("failed", "missing", "stopped") and found.job]
    words = ended(unexplained[:_EXPLAINED])
    return [
        replace(found, error=f"{found.error or 'the task vanished'} (Slurm: {words[found.job]})")
        if found.state in ("failed", "missing", "stopped") and found.job in words
        else found
        for found in shards
    ]
