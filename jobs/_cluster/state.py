"""How far a run is: what its files say, and over that what the scheduler knows about its jobs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from jobs._cluster.executor import Element, Executor, Submitted, scheduler, submitted
from jobs._cluster.planning import shard_table
from jobs._cluster.profile import Profile
from vnp.runs.done.status import RunStatus, ShardStatus, last_words, run_status
from vnp.runs.request import Run

_EXPLAINED = 1000


def look(run: Run, profile: Profile | None = None) -> RunStatus:
    """How far a run is, from its files; ``profile`` has the image that reads the plan if this Python cannot."""
    return run_status(run, shard_table(run, profile))


def after_shards(root: Path) -> str:
    """The command that comes behind the shards: the calling where a prediction was asked for, else the merging."""
    command = "predict --from" if (root / "predict.json").exists() else "reduce"
    return f"python -m jobs.{command} {quote(str(root))}"


@dataclass(frozen=True, slots=True)
class Explained:
    """How far a run is, and its jobs in the queue that make no shard, such as the merging."""

    state: RunStatus
    others: list[Element]


@dataclass(frozen=True, slots=True)
class Planning:
    """The job that plans a run which is not planned yet."""

    job: str
    state: str  # ``waits``, ``runs``, ``ended``, or ``was submitted`` if the scheduler does not answer
    error: str | None  # why it waits, or the last line of its log
    log: str | None


def planning(root: Path) -> Planning | None:
    """How the planning of a run is, where that is a job and not done; None otherwise."""
    if (root / "run.json").exists():
        return None
    jobs = [entry for entry in submitted(root) if entry.name.endswith("-plan")]
    if not jobs:
        return None
    executor, last = scheduler(root), jobs[-1].job
    path = root / "logs" / executor.log(last, None)
    log = str(path) if path.exists() else None
    queue = executor.state(root)
    element = next((found for found in queue or [] if found.id == last), None)
    if element is not None:
        return Planning(last, "waits" if element.waiting else "runs", element.reason if element.waiting else None, log)
    words, how = last_words(log), executor.ended([last]).get(last)
    if how:
        words = f"{words or 'no word'} ({executor.title}: {how})"
    return Planning(last, "was submitted" if queue is None else "ended", words, log)


def explain(run: Run, state: RunStatus) -> Explained:
    """Tell waiting from running from vanished tasks, where the scheduler answers; what is done stays done."""
    jobs, executor = submitted(run.paths.root), scheduler(run.paths.root)
    queue = executor.state(run.paths.root) if jobs and not state.complete else []
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
            shards.append(_out_of_queue(found, entry, executor, known, queue is not None, logs))
        else:
            shards.append(found)
    others = [element for element in queue or [] if element.shard is None]
    return Explained(replace(state, shards=_with_reasons(shards, executor)), others)


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
    found: ShardStatus, entry: Submitted, executor: Executor, known: set[str], answered: bool, logs: dict[str, str]
) -> ShardStatus:
    """A shard that was submitted, whose job the queue does not have, or of which it could not be asked."""
    own = (found.job or "").partition("_")[0]
    if found.state == "running":
        # Its own sign of life counts for more than the queue of what may be another cluster.
        elsewhere = answered and own in known and not found.here
        return replace(found, error="not in the queue here") if elsewhere else found
    if found.attempts and (own == entry.job or own not in known):
        return found
    # The last job for it never began the shard: what there is to say of that is in the job's log.
    index = found.shard.number - entry.base
    log, job = logs.get(executor.log(entry.job, index)), executor.task_id(entry.job, index)
    if log is None:
        words = "its job ended or was cancelled before it started" if answered else "submitted, no sign of it yet"
        return replace(found, error=words, job=job)
    words = last_words(log) or "its task ended before it began the shard"
    return replace(found, state="failed" if answered else found.state, error=words, log=log, job=job)


def _with_reasons(shards: list[ShardStatus], executor: Executor) -> list[ShardStatus]:
    """Add how the scheduler says that failed tasks ended."""
    unexplained = [found.job for found in shards if found.state in ("failed", "missing", "stopped") and found.job]
    words = executor.ended(unexplained[:_EXPLAINED])
    return [
        replace(found, error=f"{found.error or 'the task vanished'} ({executor.title}: {words[found.job]})")
        if found.state in ("failed", "missing", "stopped") and found.job in words
        else found
        for found in shards
    ]
