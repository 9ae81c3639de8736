"""What a run used of what it was given, by node and kind of GPU, and what to ask for instead. Loads no libraries."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from vnp.runs.done.history import bad_nodes, cause, moment, run_history, seconds_of, where
from vnp.runs.done.receipts import Attempt
from vnp.runs.done.status import RunStatus
from vnp.runs.request import Run

_GIB = 2**30
_ROOM = 1.25
"""How much more memory to ask for than was used; ``_TIME_ROOM`` is that of time."""
_TIME_ROOM = 1.5
_WORTH_IT = 1.5
"""What is asked for must be so much too much before it is worth a word."""
_START_SHARE, _GOOD_START_SHARE = 0.1, 0.05
_BUSY_ENOUGH = 0.7
_FEWEST = 3
"""Fewer attempts have no median worth the name."""


@dataclass(frozen=True, slots=True)
class Task:
    """One process of a run: the attempts that it made, one behind the other."""

    attempts: tuple[Attempt, ...]
    load: float  # seconds for loading encoders, as far as receipts tell
    waited: float | None  # seconds in the queue before it; None where nobody knows

    @property
    def begun(self) -> float:
        """Seconds since 1970."""
        return min(moment(one.begun or one.started) for one in self.attempts)

    @property
    def seconds(self) -> float:
        """From its begin to its end."""
        return max(1e-3, max(moment(one.ended or one.started) for one in self.attempts) - self.begun)

    @property
    def starting(self) -> float:
        """Seconds before it embedded its first block: Python's start, and loading encoders."""
        return min(moment(one.started) for one in self.attempts) - self.begun + self.load

    @property
    def gpu(self) -> str:
        """Name of its GPU, ``cpu``, or empty where it had none in hand yet."""
        return next((one.gpu for one in self.attempts if one.gpu), "")

    @property
    def gpus(self) -> float:
        """How many it held."""
        given = max(one.asked.get("gpus", 0.0) for one in self.attempts)
        return given or float(self.gpu not in ("", "cpu"))

    def most(self, name: str) -> float | None:
        """The largest of what its attempts say of a field."""
        return max((value for one in self.attempts if (value := getattr(one, name))), default=None)

    def asked(self, name: str) -> float | None:
        """What it was given."""
        return max((one.asked[name] for one in self.attempts if name in one.asked), default=None)


@dataclass(frozen=True, slots=True)
class Usage:
    """What some tasks of a run used. What no attempt tells is None."""

    name: str  # of the run, a node, or a kind of GPU
    tasks: int
    failed: int  # tasks that did not end well; those that were told to stop did
    shards: int  # that they finished
    hours: float  # of all tasks
    gpu_hours: float  # in which they held a GPU
    busy: float | None  # share of these in which the GPU had work
    tokens_per_second: float | None  # of one task, its start included
    memory: int | None  # most bytes that a task held
    memory_asked: int | None
    gpu_memory: int | None  # most bytes on a GPU
    gpu_size: int | None  # bytes that it has
    cores: float | None  # that a task kept busy
    cores_asked: float | None
    seconds: float  # of the longest task
    seconds_asked: float | None
    waited: float | None  # seconds in the queue, median
    waited_most: float | None


@dataclass(frozen=True, slots=True)
class Straggler:
    """A shard whose blocks took more than twice as long as those of others on the same kind of GPU."""

    shard: int
    node: str
    rate: float  # blocks a minute
    median: float  # of the others


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a run used, and what would have done."""

    run: Usage
    nodes: list[Usage]  # most hours first
    gpus: list[Usage]
    stragglers: list[Straggler]
    bad_nodes: dict[str, str]  # and why they are called so
    advice: list[str]  # sentences with numbers
    earlier: int  # shards that were done by an earlier version: of these there is less to tell
    causes: dict[str, int] = field(default_factory=dict)  # attempts that went wrong, by why


def efficiency(run: Run, state: RunStatus, submitted: Mapping[str, float]) -> Efficiency:
    """Look at what a run's tasks used.

    ``submitted`` says when its jobs were submitted, in seconds since 1970, by their ids (of arrays, that of the whole).
    """
    receipts = {one.shard.number: one.receipt for one in state.shards if one.receipt}
    attempts = run_history(run, receipts)
    loads = {number: one.seconds.get("load", 0.0) for number, one in receipts.items()}
    tasks = _tasks(attempts, loads, submitted)
    whole = _usage("run", tasks)
    ends = Counter(str(cause(one)) for tries in attempts.values() for one in tries)
    causes = {why: count for why, count in ends.items() if why not in ("", "told")}
    advice = [_memory(whole, causes), _cores(whole), _time(whole, causes), _start(whole, tasks), _gpu(whole)]
    return Efficiency(
        run=whole,
        nodes=_by(tasks, lambda task: where(task.attempts[0])),
        gpus=_by([task for task in tasks if task.gpu], lambda task: task.gpu),
        stragglers=_stragglers(attempts, loads),
        bad_nodes=bad_nodes(attempts),
        advice=[sentence for sentence in advice if sentence],
        earlier=sum(not one.attempts for one in receipts.values()),
        causes=causes,
    )


def size_text(size: float) -> str:
    """Bytes as a scheduler takes them, rounded up: ``12G``, ``300M``."""
    return f"{math.ceil(size / _GIB)}G" if size >= 2 * _GIB else f"{math.ceil(size / 2**20)}M"


def _tasks(
    attempts: Mapping[int, Sequence[Attempt]], loads: Mapping[int, float], submitted: Mapping[str, float]
) -> list[Task]:
    processes: dict[tuple[str, int, str], list[tuple[int, Attempt]]] = {}
    for shard, tries in attempts.items():
        for one in tries:
            processes.setdefault((one.host, one.pid, one.boot or one.job or ""), []).append((shard, one))
    found: list[Task] = []
    free: dict[str, float] = {}  # when each job could have started: submitted, or queued again
    for group in sorted(processes.values(), key=lambda group: min(one.begun or one.started for _, one in group)):
        job = group[0][1].job or ""
        number = re.match(r"\d+", job)
        since = free.get(job, submitted.get(number[0]) if number else None)
        own = tuple(one for _, one in sorted(group, key=lambda pair: pair[1].started))
        load = sum(loads.get(shard, 0.0) for shard, one in group if one.outcome == "done")
        task = Task(own, load, None)
        # Their clocks may differ a little.
        task = Task(own, load, None if since is None else max(0.0, task.begun - since))
        free[job] = task.begun + task.seconds
        found.append(task)
    return found


def _by(tasks: Sequence[Task], key: Callable[[Task], str]) -> list[Usage]:
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(key(task), []).append(task)
    return sorted((_usage(name, group) for name, group in groups.items()), key=lambda one: (-one.hours, one.name))


def _usage(name: str, tasks: Sequence[Task]) -> Usage:
    seconds = sum(task.seconds for task in tasks)
    gpu_seconds = sum(task.seconds * task.gpus for task in tasks)
    busy = sum(one.busy for task in tasks for one in task.attempts)
    tokens = sum(one.tokens for task in tasks for one in task.attempts)
    told = [task for task in tasks if task.most("cpu")]
    waited = [task.waited for task in tasks if task.waited is not None]
    return Usage(
        name=name,
        tasks=len(tasks),
        failed=sum(any(cause(one) not in ("", "told") for one in task.attempts) for task in tasks),
        shards=sum(one.outcome == "done" for task in tasks for one in task.attempts),
        hours=seconds / 3600,
        gpu_hours=gpu_seconds / 3600,
        busy=busy / gpu_seconds if gpu_seconds else None,
        tokens_per_second=tokens / seconds if tokens else None,
        memory=_whole(task.most("memory") for task in tasks),
        memory_asked=_whole(task.asked("mem") for task in tasks),
        gpu_memory=_whole(task.most("gpu_memory") for task in tasks),
        gpu_size=_whole(task.most("gpu_size") for task in tasks),
        cores=sum(task.most("cpu") or 0.0 for task in told) / sum(task.seconds for task in told) if told else None,
        cores_asked=max((found for task in tasks if (found := task.asked("cpus"))), default=None),
        seconds=max((task.seconds for task in tasks), default=0.0),
        seconds_asked=max((found for task in tasks if (found := task.asked("seconds"))), default=None),
        waited=median(waited) if waited else None,
        waited_most=max(waited, default=None),
    )


def _whole(values: Iterable[float | None]) -> int | None:
    known = [int(value) for value in values if value is not None]
    return max(known, default=None)


def _stragglers(attempts: Mapping[int, Sequence[Attempt]], loads: Mapping[int, float]) -> list[Straggler]:
    """Of what is done and of what still runs, and has done so for the time of some blocks."""
    rates: dict[str, list[tuple[float, int, Attempt]]] = {}
    for shard, tries in attempts.items():
        for one in tries:
            # Attempts of earlier versions do not say how many blocks they made.
            if one.begun and one.outcome in ("done", "running") and (one.blocks or one.outcome == "running"):
                seconds = seconds_of(one) - (loads.get(shard, 0.0) if one.outcome == "done" else 0.0)
                rates.setdefault(one.gpu, []).append((60 * one.blocks / max(seconds, 1e-3), shard, one))
    found = []
    for kind, group in rates.items():
        # What has no block yet does not know its GPU: it is compared with all others.
        done = [rate for name in ([kind] if kind else rates) for rate, _, one in rates[name] if one.outcome == "done"]
        if len(done) < _FEWEST:
            continue
        usual = median(done)
        found += [
            Straggler(shard, where(one), round(rate, 2), round(usual, 2))
            for rate, shard, one in group
            if rate < usual / 2 and (one.outcome == "done" or seconds_of(one) * usual / 60 > _FEWEST)
        ]
    return sorted(found, key=lambda one: one.rate)


def _memory(whole: Usage, causes: Mapping[str, int]) -> str | None:
    if whole.memory_asked is None or whole.memory is None:
        return None
    asked, used = size_text(whole.memory_asked), size_text(whole.memory)
    if out := causes.get("memory"):
        more = size_text(max(whole.memory * _ROOM, whole.memory_asked))
        return f"ask for {more} of memory: {_count(out, 'task')} ran out of it, and the most that one held is {used}"
    enough = whole.memory * _ROOM
    # Whole gigabytes, or quarters of one.
    step = _GIB if enough > 2 * _GIB else _GIB / 4
    enough = math.ceil(enough / step) * step
    if whole.memory_asked >= enough * _WORTH_IT:
        return f"ask for {size_text(enough)} of memory, not {asked}: the most that a task held is {used}"
    if whole.memory * 1.1 > whole.memory_asked:
        return f"ask for {size_text(enough)} of memory, not {asked}: a task held {used}, which leaves little room"
    return None


def _cores(whole: Usage) -> str | None:
    if whole.cores is None or whole.cores_asked is None:
        return None
    enough = math.ceil(whole.cores * _ROOM)
    if whole.cores_asked < enough * _WORTH_IT:
        return None
    return f"ask for {_count(enough, 'core')}, not {whole.cores_asked:.0f}: tasks kept {whole.cores:.1f} busy"


def _time(whole: Usage, causes: Mapping[str, int]) -> str | None:
    if whole.seconds_asked is None:
        return None
    minutes, asked = math.ceil(whole.seconds * _TIME_ROOM / 60), math.ceil(whole.seconds_asked / 60)
    if out := causes.get("time"):
        return f"ask for more than {asked} min: {_count(out, 'task')} made no block in the time that was given"
    # Below some minutes a scheduler gains nothing.
    minutes = max(10, math.ceil(minutes / 10) * 10)
    if asked < minutes * _WORTH_IT:
        return None
    return (
        f"ask for {minutes} min, not {asked}: the longest task took {math.ceil(whole.seconds / 60)} min, and short "
        "jobs find their place sooner"
    )


def _start(whole: Usage, tasks: Sequence[Task]) -> str | None:
    """Starting costs the same however many shards a task makes."""
    worked = [task for task in tasks if any(one.outcome == "done" for one in task.attempts)]
    seconds = sum(task.seconds for task in worked)
    starting = sum(task.starting for task in worked)
    if not worked or starting < _START_SHARE * seconds or whole.shards < 2:
        return None
    a_shard = max(1e-3, seconds - starting) / whole.shards
    each = math.ceil(starting / len(worked) * (1 / _GOOD_START_SHARE - 1) / a_shard)
    each = min(each, whole.shards)
    return (
        f"{_count(each, 'shard')} a task: starting took {starting / seconds:.0%} of the tasks' time "
        f"({starting / len(worked):.0f} s each); say --tasks {math.ceil(whole.shards / each)}, or fewer shards"
    )


def _gpu(whole: Usage) -> str | None:
    if whole.busy is None or whole.busy >= _BUSY_ENOUGH:
        return None
    text = f"the GPU had work for {whole.busy:.0%} of the time it was held"
    if whole.gpu_memory and whole.gpu_size:
        room = min(int(1 / max(whole.busy, 0.01)), int(whole.gpu_size / (whole.gpu_memory * _ROOM)))
        if room > 1:
            held = f"{size_text(whole.gpu_memory)} of {size_text(whole.gpu_size)}"
            return f"{text}, with {held} in use: {room} tasks fit on one, or a smaller GPU does"
    return f"{text}: more cores for reading, more shards a task, or a smaller GPU"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
