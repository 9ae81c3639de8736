"""How long do 10,000 shards take on 500 GPUs that can be taken away: tasks that share them, beside static arrays?

A simulation of events; nothing is computed. Three ways of giving out the work:

- ``array``: an element a shard, at most so many at once, as without ``--tasks``: each waits for the scheduler and loads
  the encoders; one that is taken away is queued again and goes on behind its blocks.
- ``lists``: as many tasks as GPUs, each with a list of shards of its own, as hand-written scripts have it.
- ``shared``: as many tasks, each taking the next shard (``--tasks``). The shard of one that is taken away is made by
  whoever sees that its lease is over, or by itself if it is back sooner.

Times are drawn anew from what receipts tell of a run, else from log-normal distributions around the defaults. The
speeds of GPUs are log-normal too; a place has its GPU until that is taken away, at random, which kills the task.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from benchmarks._commands import command, options
from vnp.files.claims import SILENT_SECONDS
from vnp.files.records import read_json
from vnp.runs.request import Run

WAYS = ("array", "lists", "shared")
_BLOCKS = 8


@dataclass(frozen=True)
class World:
    """What is drawn from."""

    shards: int  # how many
    tasks: int  # GPUs at most at once
    work: Callable[[random.Random], float]  # draws the seconds that a shard takes on a GPU of speed 1
    load: Callable[[random.Random], float]  # draws the seconds from the start of a task to its first block
    queue: float  # mean seconds that a scheduler takes to place a task (exponential)
    spread: float  # standard deviation of the logarithm of GPUs' speeds
    taken: float  # times an hour that a task is taken away (exponential)


def makespan(world: World, way: str, seed: int) -> float:
    """Hours until the last shard is done."""
    chance = random.Random(seed)  # noqa: S311 - nobody is kept from guessing it
    left = [world.work(chance) for _ in range(world.shards)]
    return _Cluster(world, chance, left, way).run() / 3600


class _Cluster:
    """Tasks that come, work and are taken away.

    ``left`` are seconds of work that are left of each shard, from which blocks that are safe are taken off; ``way`` is
    one of ``WAYS``.
    """

    def __init__(self, world: World, chance: random.Random, left: list[float], way: str) -> None:
        self.world, self.chance, self.left, self.way = world, chance, left, way
        self.whole = list(left)
        self.now = self.last = 0.0
        self.events: list[tuple[float, int, Iterator[float]]] = []
        self.orphans: list[tuple[float, int]] = []  # when a lease is over, and its shard
        shards = range(world.shards)
        if way == "array":
            self.lists = [[number] for number in reversed(shards)]
        elif way == "lists":
            self.lists = [list(shards[task :: world.tasks])[::-1] for task in range(world.tasks)]
        else:
            self.lists = [list(shards)[::-1]]

    def run(self) -> float:
        """Seconds until all is done."""
        for task in range(self.world.tasks):
            self._resume(task, self._task())
        while self.events:
            self.now, task, going = heapq.heappop(self.events)
            self._resume(task, going)
        return self.last

    def _resume(self, task: int, going: Iterator[float]) -> None:
        until = next(going, None)
        if until is not None:
            heapq.heappush(self.events, (until, task, going))

    def _task(self) -> Iterator[float]:
        """One place for a task: what runs there, placement after placement; yields the times at which it goes on."""
        world, chance = self.world, self.chance
        mine: list[int] = []
        speed = chance.lognormvariate(0, world.spread)
        placed = False
        while True:
            if not mine and self.way != "shared":
                if not self.lists:
                    return
                mine, placed = self.lists.pop(), False
            if not placed:
                yield self.now + chance.expovariate(1 / world.queue)
                end = self.now + chance.expovariate(world.taken / 3600) if world.taken else float("inf")
                placed = True
                yield min(end, self.now + world.load(chance))
            if self.now >= end:
                placed, speed = False, chance.lognormvariate(0, world.spread)
                continue
            if self.way == "shared":
                number = self._next()
                if number is None:
                    return
                if number < 0:
                    yield min(end, self.orphans[0][0])
                    continue
            else:
                number = mine[-1]
            done = self.now + self.left[number] / speed
            yield min(done, end)
            if self.now >= done:
                self.last = max(self.last, self.now)
                self.left[number] = 0.0
                if self.way != "shared":
                    mine.pop()
                continue
            # Killed: whole blocks are safe.
            block = self.whole[number] / _BLOCKS
            finished = (self.left[number] - (done - self.now) * speed) // block * block
            self.left[number] -= finished
            placed, speed = False, chance.lognormvariate(0, world.spread)
            if self.way == "shared":
                heapq.heappush(self.orphans, (self.now + SILENT_SECONDS, number))

    def _next(self) -> int | None:
        """The next shard to take; -1 where there is only one whose lease is not over yet, None where there is none."""
        if self.lists[0]:
            return self.lists[0].pop()
        if not self.orphans:
            return None
        return heapq.heappop(self.orphans)[1] if self.orphans[0][0] <= self.now else -1


def _lognormal(middle: float, spread: float) -> Callable[[random.Random], float]:
    return lambda chance: middle * chance.lognormvariate(0, spread)


def _of_receipts(root: Path) -> tuple[Callable[[random.Random], float], Callable[[random.Random], float]]:
    """Draws of what the shards of a run took, and of what their tasks took to load."""
    receipts = [read_json(path)["seconds"] for path in Run.open(root).paths.receipts.glob("*.json")]
    work = [sum(one.get(name, 0.0) for name in ("dna", "protein", "seal")) for one in receipts]
    load = [one["load"] for one in receipts if one.get("load")]
    if not work or not load:
        raise click.ClickException(f"{root} has no receipts that tell times")
    return lambda chance: chance.choice(work), lambda chance: chance.choice(load)


def _numbers(_context: click.Context, _option: click.Parameter, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"numbers separated by commas, not {text!r}") from None


@command("python -m benchmarks elastic --receipts RUN")
@click.option("--receipts", type=click.Path(path_type=Path), help="A run whose receipts say what shards took.")
@click.option("--shards", type=click.IntRange(min=1), default=10_000, help="Shards.")
@click.option("--tasks", type=click.IntRange(min=1), default=500, help="GPUs, and tasks at once.")
@click.option("--seconds", type=float, default=600.0, help="Median seconds of a shard, without --receipts.")
@click.option("--load", type=float, default=60.0, help="Median seconds to load encoders, without --receipts.")
@click.option("--queue", type=float, default=60.0, help="Mean seconds until a task is placed.")
@click.option("--taken", callback=_numbers, default="0,0.25,0.5,1,2", help="Times an hour that a task is taken away.")
@click.option("--spread", callback=_numbers, default="0,0.3,0.6", help="Spreads of the logarithm of GPUs' speeds.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Simulations of each; the median counts.")
@options.as_json
def main(
    receipts: Path | None,
    shards: int,
    tasks: int,
    seconds: float,
    load: float,
    queue: float,
    taken: list[float],
    spread: list[float],
    seeds: int,
    as_json: bool,
) -> None:
    """Simulate a large run on preemptible GPUs: hours with an array, with fixed lists and with tasks that share."""
    work, loading = (_lognormal(seconds, 0.2), _lognormal(load, 0.3)) if receipts is None else _of_receipts(receipts)
    rows = []
    for wide in spread:
        for often in taken:
            world = World(shards, tasks, work, loading, queue, wide, often)
            hours = {way: median(makespan(world, way, seed) for seed in range(seeds)) for way in WAYS}
            rows.append({"spread": wide, "taken": often, **{way: round(hours[way], 2) for way in WAYS}})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo("spread  taken/h " + "".join(f"{way:>9}" for way in WAYS) + "   array/shared")
    for row in rows:
        times = "".join(f"{row[way]:8.2f}h" for way in WAYS)
        click.echo(f"{row['spread']:6.2f} {row['taken']:8.2f} {times} {row['array'] / row['shared']:14.2f}")
