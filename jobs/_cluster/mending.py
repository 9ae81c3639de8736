"""What a task that failed is given at its next try: one rule for all schedulers, from the attempts on its shards.

A batch script asks with ``mend_task`` when its task has failed, and submissions ask with ``mended`` for each shard that
was tried before. More memory goes to what ran out of it, more time to what made no block in the time it had, and nodes
that failed are left out.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs._cluster.profile import Resources, parse_minutes
from jobs._cluster.task import CRASHED, STOPPED, killed_by
from vnp.errors import VnpError
from vnp.files.machine import bytes_of, memory_kills
from vnp.files.records import from_json
from vnp.runs.done.efficiency import size_text
from vnp.runs.done.history import bad_nodes, cause, is_of_job, note_end, run_history
from vnp.runs.done.receipts import Attempt
from vnp.runs.done.status import log_tail
from vnp.runs.request import Run

_CAP = 4
"""So many times what was asked first may be asked for in the end, where a profile has no cap."""
_PINNED = ("--nodelist", "--nodefile")
_LAST_LINES = 20
_OUT_OF_MEMORY = ("oom", "out of memory", "memory limit", "out_of_memory")
FIELDS = ("mem", "time", "retries", "memory_growth", "memory_cap", "time_growth", "time_cap", "exclude", "extra")
"""Of ``Resources``: what a task needs to know to be mended."""


@dataclass(frozen=True, slots=True)
class Mended:
    """What is asked for now, and why."""

    wanted: Resources
    again: bool  # whether another try may help
    why: tuple[str, ...]  # sentences; none where nothing has changed


def mended(
    tries: Sequence[Attempt],
    wanted: Resources,
    bad: Mapping[str, str] | None = None,
    nodes: int | None = None,
    words: Mapping[str, str] | None = None,
) -> Mended:
    """Decide what the next try of a shard is given; ``tries`` are the attempts on it, oldest first, each with an end.

    ``bad`` are nodes that are called so, and why. Of ``nodes`` at least half are kept; None if nobody knows how many
    there are. ``words`` is what the scheduler says of jobs, by their ids.
    """
    causes = [cause(one, (words or {}).get(one.job or "", "")) for one in tries]
    last = causes[-1] if causes else ""
    again, why = last != "shard", []
    size, cap = bytes_of(wanted.mem), bytes_of(wanted.memory_cap) if wanted.memory_cap else None
    had = [one.asked.get("mem", size) for one, each in zip(tries, causes, strict=True) if each == "memory"]
    short, memory, no_more = _grown(had, size, wanted.memory_growth, cap)
    if short:
        said = f"out of memory with {size_text(short)}"
        more = f": asked again with {size_text(memory)}"
        why.append(said + (", the most that is asked for: raise memory_cap or mem" if no_more else more))
    limit, cap = wanted.minutes, parse_minutes(wanted.time_cap) if wanted.time_cap else None
    given = [one.asked.get("seconds", 60 * limit) for one, each in zip(tries, causes, strict=True) if each == "time"]
    slow, minutes, no_longer = _grown([math.ceil(one / 60) for one in given], limit, wanted.time_growth, cap)
    if slow:
        most = ", the most that is asked for: raise time_cap or time, or take smaller --block-tokens"
        more = f": asked again with {math.ceil(minutes)} min"
        why.append(f"no block was made in {slow:.0f} min" + (most if no_longer else more))
    again = again and not (last == "memory" and no_more) and not (last == "time" and no_longer)
    left_out = [] if any(option.startswith(_PINNED) for option in wanted.extra) else list(bad or {})
    left_out = left_out[: len(left_out) if nodes is None else nodes // 2]
    why += [f"{node} is left out: {(bad or {})[node]}" for node in left_out]
    new = replace(
        wanted,
        mem=size_text(memory) if short else wanted.mem,
        time=math.ceil(minutes) if slow else wanted.time,
        exclude=tuple(dict.fromkeys([*wanted.exclude, *left_out])),
    )
    return Mended(new, again, tuple(why))


def _grown(short: Sequence[float], first: float, factor: float, cap: float | None) -> tuple[float, float, bool]:
    """The most that did not do, 0 without any; what is asked for now; and whether more may not be asked for."""
    most, cap = max(short, default=0.0), max(first, _CAP * first if cap is None else cap)
    return most, max(first, min(most * factor, cap)), most >= cap


def submissions(
    run: Run, shards: Sequence[int], wanted: Resources, nodes: int | None, words: Mapping[str, str], *, shared: bool
) -> list[tuple[list[int], Resources, tuple[str, ...]]]:
    """The shards that are asked for alike, what each group asks for, and why; all of them where tasks share them."""
    attempts = run_history(run)
    bad = bad_nodes(attempts, words)
    found = {number: mended(attempts.get(number, ()), wanted, bad, nodes, words) for number in shards}
    if shared:
        return [(list(shards), *_all_of(list(found.values()), wanted))]
    groups: dict[str, tuple[list[int], Resources, tuple[str, ...]]] = {}
    for number, one in found.items():
        groups.setdefault(repr((one.wanted, one.why)), ([], one.wanted, one.why))[0].append(number)
    return list(groups.values())


def _all_of(found: Sequence[Mended], wanted: Resources) -> tuple[Resources, tuple[str, ...]]:
    """What suits all of some shards, and why."""
    for each in found:
        mem = max(wanted.mem, each.wanted.mem, key=bytes_of)
        wanted = replace(each.wanted, mem=mem, time=max(wanted.minutes, each.wanted.minutes))
    return wanted, tuple(dict.fromkeys(sentence for each in found for sentence in each.why))


def mend_task(request: str, wanted: dict[str, Any], words: Sequence[str]) -> str:
    """Note how the task of this job ended, and say what its batch script is to do: the last line that it prints.

    Args:
        wanted: ``FIELDS`` of what the profile asks for.
        words: how the scheduler is told of memory (``{mem}``, megabytes), time (``{minutes}``) and nodes to leave out
            (``{exclude}``, with commas between).

    The environment has ``VNP_CODE`` (the task's exit code), ``VNP_LASTED`` (seconds since its script began),
    ``VNP_RESTARTS`` (how often it was queued again), ``VNP_NODES`` (how many nodes there are) and, for a task of one
    shard, ``VNP_SHARD``.

    Returns:
        ``again`` and what the scheduler is to be told, or ``give up``.
    """
    run = Run.open(Path(request).parent)
    code, restarts = int(os.environ["VNP_CODE"]), int(os.environ.get("VNP_RESTARTS") or 0)
    nodes, shard = int(os.environ.get("VNP_NODES") or 0) or None, os.environ.get("VNP_SHARD")
    log, since = os.environ.get("VNP_LOG"), time.time() - int(os.environ["VNP_LASTED"]) - 1
    asked = from_json(Resources, wanted)
    with contextlib.suppress(VnpError):
        note_end(run, since, _how(code, log), log, int(shard) if shard else None)
    attempts = run_history(run)
    mine = {number: tries for number, tries in attempts.items() if is_of_job(tries[-1], since)}
    bad = bad_nodes(attempts)
    found = [mended(tries, asked, bad, nodes) for tries in mine.values()]
    new, sentences = _all_of(found, asked)
    again = all(each.again for each in found) if found else code in (STOPPED, CRASHED) or code >= 128
    why = list(sentences)
    if again and restarts >= asked.retries:
        again = False
        why = [sentence for sentence in why if ": asked again" not in sentence]
        why.append(f"given up after {restarts + 1} tries (retries = {asked.retries})")
    elif not again and found:
        why.append("given up, since another try would not help")
    for number in mine:
        note_end(run, since, "; ".join(why), log, number, more=True)
    if not again:
        return "give up"
    changes = (new.mem != asked.mem, new.minutes != asked.minutes, new.exclude != asked.exclude)
    values = {"mem": bytes_of(new.mem) // 2**20, "minutes": new.minutes, "exclude": ",".join(new.exclude)}
    return " ".join(
        ["again", *(text.format(**values) for text, changed in zip(words, changes, strict=True) if changed)]
    )


def _how(code: int, log: str | None) -> str:
    """In words, how a task ended that did not say so itself."""
    if code == 128 + signal.SIGALRM:
        return "its time was up in the middle of a block"
    if code < 128:
        return f"exit code {code}"
    said = "\n".join(log_tail(log, _LAST_LINES)).lower()
    memory = code == 128 + signal.SIGKILL and (memory_kills() or any(words in said for words in _OUT_OF_MEMORY))
    return killed_by(code - 128) + (": out of memory" if memory else "")
