"""What became of every attempt of a run: why each one ended, and which nodes are to blame.

An attempt decides nothing about its shard, and so nothing here does; it says what a next attempt needs, and where it
had better not be made.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from vnp.errors import VnpError
from vnp.files.records import from_json, write_record
from vnp.runs.done.receipts import (
    Announced,
    Attempt,
    Receipt,
    block_count,
    ended_with_last_sign,
    job_id,
    now,
    read_attempts,
)
from vnp.runs.request import Run

Cause = Literal["", "told", "memory", "time", "node", "shard"]
"""Nothing went wrong, or it still runs; told to stop or taken away; out of host memory; out of time before it had made
a block; a fault that another node may not have; a fault of the shard, its input or the run."""
_OF_THE_SHARD = re.compile(
    r"(Usage|Input|ChangedInput|Feature|Layout|Run|RunExists|IncompleteRun|DamagedShard|Vnp)Error\b|exit code [123]\b"
)
_MEMORY = re.compile(
    r"out.of.me|oom[-_ ]kill|MemoryError|not enough memory|exceeded.{0,20} memory|memory limit|TERM_MEMLIMIT", re.I
)
_TIME = re.compile(r"\btime was up|TIMEOUT|time limit|TERM_RUNLIMIT", re.IGNORECASE)
_TOLD = re.compile(r"PREEMPTED|CANCELLED|REQUEUE|TERM_OWNER|killed by SIG(TERM|INT|USR2)", re.IGNORECASE)
_EARLY_SECONDS = 60.0
"""So much earlier than it should Slurm may tell a task that its time is nearly up."""
Attempts = Mapping[int, Sequence[Attempt]]


def run_history(run: Run, receipts: Mapping[int, Receipt] | None = None) -> dict[int, list[Attempt]]:
    """The attempts on each shard of a run that has any, oldest first, each with an end.

    What still runs ends now. Of a shard that was done by an earlier version only the attempt that sealed it is known.

    ``receipts`` are those of the shards that are done, where they are read already.
    """
    if receipts is None:
        receipts = _receipts(run)
    found = {
        number: [from_json(Attempt, each) for each in one.attempts] or [_from_earlier(one)]
        for number, one in receipts.items()
    }
    for folder in run.paths.parts.glob("shard-*"):
        number = int(folder.name.removeprefix("shard-"))
        if number not in found and (attempts := [_with_end(*each) for each in read_attempts(folder)]):
            found[number] = _with_blocks(attempts, block_count(folder))
    return dict(sorted(found.items()))


def _receipts(run: Run) -> dict[int, Receipt]:
    found = {}
    for path in run.paths.receipts.glob("shard-*.json"):
        # What is damaged tells nothing, and is made again.
        with contextlib.suppress(VnpError):
            if (one := Receipt.read(path)) is not None:
                found[one.shard] = one
    return found


def note_end(run: Run, since: float, how: str, log: str | None, number: int | None, *, more: bool = False) -> None:
    """Note how a task of this job ended, in words, that cannot do so itself.

    It began ``since``, seconds since 1970: before that a job may have had an earlier life. ``number`` is the shard that
    it had; None looks at all that are not done. ``more`` adds words to what is noted, also where the task said itself
    how it ended.

    Raises:
        StorageError: it cannot be written.
    """
    folders = run.paths.parts.glob("shard-*") if number is None else [run.paths.blocks(number)]
    for folder in folders:
        mine = [(path, one) for path, one in read_attempts(folder) if is_of_job(one, since)]
        if not mine and number is not None and not more and not run.paths.receipt(number).exists():
            # It did not come so far as to begin with the shard.
            Announced(folder, log).end("failed", how)
        for path, one in mine[-1:]:
            if more and how:
                error = f"{one.error}; {how}" if one.error else how
                write_record(path, replace(one, error=error))
            elif not more and one.outcome == "running" and not one.alive(path):
                write_record(path, replace(one, ended=now(), outcome="failed", error=how))


def is_of_job(attempt: Attempt, since: float) -> bool:
    """Whether it was made in this job, since a time (seconds since 1970)."""
    return attempt.job == job_id() and moment(attempt.started) >= since


def cause(attempt: Attempt, words: str = "") -> Cause:
    """Why an attempt ended.

    ``words`` is what the scheduler says of its job.
    """
    if attempt.outcome in ("done", "left", "running"):
        return ""
    # What stands behind was added when it was decided what to do about it.
    told = f"{(attempt.error or '').split('; ')[0]} {words}"
    if _MEMORY.search(told) and "CUDA" not in told:
        return "memory"
    if _TIME.search(told) or (attempt.outcome == "stopped" and _near_its_end(attempt)):
        return "told" if attempt.blocks else "time"
    if attempt.outcome == "stopped" or _TOLD.search(told):
        return "told"
    if not told.strip():
        # Killed with its script: most likely for another job's sake, or with its node, which the scheduler knows.
        return "told"
    return "shard" if _OF_THE_SHARD.search(told) else "node"


def bad_nodes(attempts: Attempts, words: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nodes that failed twice, or on which a task died that was finished elsewhere, and why they are called bad.

    What was finished on a node clears it of what failed there before. A shard that failed on several nodes and was
    finished on none is to blame itself.

    ``words`` is what the scheduler says of jobs, by their ids.
    """
    last_done: dict[str, str] = {}
    failures: dict[str, list[tuple[Attempt, str | None]]] = {}
    for tries in attempts.values():
        done = next((one for one in tries if one.outcome == "done"), None)
        if done is not None:
            last_done[where(done)] = max(last_done.get(where(done), ""), done.ended or "")
        failed = [one for one in tries if cause(one, (words or {}).get(one.job or "", "")) == "node"]
        if done is None and len({where(one) for one in failed}) > 1:
            continue
        for one in failed:
            failures.setdefault(where(one), []).append((one, None if done is None else where(done)))
    found = {}
    for node, those in failures.items():
        counted = [(one, other) for one, other in those if (one.ended or "") > last_done.get(node, "")]
        elsewhere = next((other for _, other in counted if other not in (None, node)), None)
        if counted and (elsewhere or len(counted) > 1):
            last = max((one for one, _ in counted), key=lambda one: one.ended or "")
            how = f"what died there was finished on {elsewhere}" if elsewhere else f"{len(counted)} tasks died there"
            found[node] = f"{how}, none was finished there since ({(last.error or 'killed').split('; ')[0]})"
    return found


def where(attempt: Attempt) -> str:
    """The node of an attempt, by the scheduler's name as far as that is known."""
    return attempt.node or attempt.host


def seconds_of(attempt: Attempt) -> float:
    """How long it took."""
    return max(0.0, moment(attempt.ended or attempt.started) - moment(attempt.started))


def moment(stamp: str) -> float:
    """Seconds since 1970 of a time as ISO 8601 has it."""
    return datetime.fromisoformat(stamp).timestamp()


def _near_its_end(attempt: Attempt) -> bool:
    limit = attempt.asked.get("seconds")
    if limit is None or attempt.ended is None:
        return False
    used = moment(attempt.ended) - moment(attempt.begun or attempt.started)
    return used >= limit - attempt.asked.get("grace", 0) - min(_EARLY_SECONDS, limit / 4)


def _with_end(path: Path, attempt: Attempt) -> Attempt:
    if attempt.ended is not None:
        return attempt
    return replace(attempt, ended=now()) if attempt.alive(path) else ended_with_last_sign(path, attempt)


def _with_blocks(attempts: list[Attempt], there: int) -> list[Attempt]:
    """What a killed task last said of its blocks is old: those on the disk count, too."""
    after = [*(one.had for one in attempts[1:]), there]
    return [
        replace(one, blocks=max(one.blocks, later - one.had)) if one.begun and one.outcome != "done" else one
        for one, later in zip(attempts, after, strict=True)
    ]


def _from_earlier(receipt: Receipt) -> Attempt:
    return Attempt(
        number=receipt.attempt,
        host=receipt.host,
        pid=0,
        boot="",
        job=receipt.job,
        log=None,
        started=receipt.started,
        ended=receipt.finished,
        outcome="done",
        gpu=next(iter(receipt.devices), ""),
        tokens=sum(receipt.tokens.values()),
        busy=receipt.seconds.get("gpu", 0.0),
    )
