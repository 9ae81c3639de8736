"""How far a run is, from what is on the disk: receipts, block files and attempts. No scheduler is asked here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vnp.errors import DamagedShardError, StorageError, storage_error
from vnp.files.records import open_regular, parse_json
from vnp.runs.done.receipts import Receipt, read_attempts, require_sealed
from vnp.runs.request import Run, Shard, shard_name

STATES = ("done", "running", "queued", "stopped", "failed", "damaged", "unknown", "missing")
_TAIL_BYTES = 8192
_TAILS = 3
_TAIL_LINES = 4
_TAIL_WIDTH = 200


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """How far one shard is."""

    shard: Shard
    # ``done`` (by its receipt), ``running``, ``queued`` (a scheduler says so), ``stopped`` (asked to stop, goes on with
    # rerun), ``failed`` (its last task ended with an error or vanished), ``damaged`` (the receipt or file is not what
    # was written), ``unknown`` (its files cannot be looked at) or ``missing`` (never begun)
    state: str
    blocks: tuple[int, int]  # finished blocks, and blocks in all
    attempts: int = 0  # how many tasks have begun it
    receipt: Receipt | None = None  # of a shard that is done
    error: str | None = None  # last line of what went wrong
    log: str | None = None  # path of the last task's log, if known
    job: str | None = None  # id of the last task's job, if known
    host: str | None = None  # the machine of the last task, if known
    here: bool = False  # whether that is this machine, where its process can be seen
    begun: str | None = None  # when the only task so far began, UTC, ISO 8601; None where there were several

    @property
    def share(self) -> float:
        """The part of its blocks that are finished."""
        return 1.0 if self.state == "done" else self.blocks[0] / max(self.blocks[1], 1)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is."""

    shards: list[ShardStatus]  # one state a shard, in order
    rows: int  # rows sealed
    rows_planned: int  # rows in all
    # of all encoders together in one task, while it embeds; None before the first is done
    tokens_per_second: float | None
    # for the shards that are not done at the pace of those that are and with as many tasks as run now, at least one;
    # before the first shard is done at the pace of the tasks that run; None before the first block
    hours_left: float | None

    @property
    def rows_embedded(self) -> int:
        """Rows sealed, and about those of finished blocks."""
        rows = (one.receipt.rows if one.receipt else one.shard.rows * one.share for one in self.shards)
        return round(sum(rows))

    @property
    def complete(self) -> bool:
        """Whether every shard is done."""
        return all(found.state == "done" for found in self.shards)

    @property
    def counts(self) -> dict[str, int]:
        """Number of shards in each state."""
        counted = Counter(found.state for found in self.shards)
        return {state: counted[state] for state in STATES if counted[state]}

    @property
    def unfinished(self) -> list[int]:
        """Numbers of the shards without a valid receipt."""
        return [found.shard.number for found in self.shards if found.state != "done"]


def run_status(run: Run, shards: Sequence[Shard] | None = None) -> RunStatus:
    """Look at a run's files; ten thousand shards take about a second.

    ``shards`` is its shard table, where that is read already.

    Raises:
        RunError: the plan is damaged.
        StorageError: the folders cannot be looked into.
    """
    if shards is None:
        # Here, because it loads h5py, which a login node may not have.
        from vnp.runs.planning.plan import read_plan

        shards = read_plan(run.paths.plan, run.request.plan_sha256)
    # One look into each folder instead of one question a shard: most shards of a young run have neither.
    receipts, begun = _names(run.paths.receipts), _names(run.paths.parts)
    states = [_look(run, shard, receipts, begun) for shard in shards]
    done = [found.receipt for found in states if found.receipt is not None]
    return RunStatus(
        shards=states,
        rows=sum(receipt.rows for receipt in done),
        rows_planned=run.request.totals.rows,
        tokens_per_second=_pace(done),
        hours_left=_hours_left(states, done),
    )


def _names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise storage_error(error, f"looking into {folder}") from error


def _look(run: Run, shard: Shard, receipts: set[str], begun: set[str]) -> ShardStatus:
    try:
        return _shard_state(run, shard, receipts, begun)
    except StorageError as error:
        # The other shards can be told of all the same.
        return ShardStatus(shard, "unknown", (0, shard.blocks(run.request.block_units)), error=str(error))


def _shard_state(run: Run, shard: Shard, receipts: set[str], begun: set[str]) -> ShardStatus:
    count = shard.blocks(run.request.block_units)
    name = shard_name(shard.number)
    if f"{name}.json" in receipts:
        try:
            receipt = require_sealed(run, shard.number)
        except DamagedShardError as damage:
            return ShardStatus(shard, "damaged", (0, count), error=str(damage))
        if receipt is not None:
            return ShardStatus(shard, "done", (count, count), receipt.attempt, receipt)
    if name not in begun:
        return ShardStatus(shard, "missing", (0, count))
    folder = run.paths.blocks(shard.number)
    blocks = sum(name.startswith("block-") for name in _names(folder))
    attempts = read_attempts(folder)
    if not attempts:
        return ShardStatus(shard, "missing", (blocks, count))
    last = attempts[-1][1]
    state, error = last.outcome, last.error
    if any(found.alive(place) for place, found in attempts):
        state = "running"
    elif state == "running":
        state, error = "failed", last_words(last.log) or "the task vanished without a word"
    return ShardStatus(
        shard,
        state,
        (blocks, count),
        len(attempts),
        error=error,
        log=last.log,
        job=last.job,
        host=last.host,
        here=last.here(),
        begun=last.started if len(attempts) == 1 else None,
    )


def last_words(log: str | None) -> str | None:
    """The last line of a log that says why a task ended, or None if there is none."""
    lines = log_tail(log, 20)
    # What srun adds says only that it ended.
    own = [line for line in lines if not line.startswith("srun: ")]
    return next(iter(reversed(own or lines)), None)


def log_tail(log: str | None, lines: int) -> list[str]:
    """The last lines with text of a log, at most so many; none if it cannot be read."""
    if log is None:
        return []
    try:
        with open_regular(Path(log)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            written = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    found = (line for text in written for line in _event(text).splitlines())
    return [line.rstrip() for line in found if line.strip()][-lines:]


def _event(line: str) -> str:
    """What a line of a log says, which may be an object of JSON logs."""
    try:
        return str(parse_json(line)["event"]) if line.startswith("{") else line
    except (ValueError, KeyError, TypeError):
        return line


def log_tails(shards: Iterable[ShardStatus]) -> dict[int, list[str]]:
    """The last words of the first failed shards, for people: a few lines by the shard's number."""
    failed = [found for found in shards if found.state == "failed"][:_TAILS]
    return {
        found.shard.number: [f"       | {line[:_TAIL_WIDTH]}" for line in log_tail(found.log, _TAIL_LINES)]
        for found in failed
    }


def _pace(done: list[Receipt]) -> float | None:
    seconds = _spent(done, "dna", "protein")
    return sum(sum(receipt.tokens.values()) for receipt in done) / seconds if seconds > 0 else None


def _hours_left(states: list[ShardStatus], done: list[Receipt]) -> float | None:
    finished = sum(found.shard.tokens for found in states if found.state == "done")
    # Reading and writing go on beside the embedding, and the GPU's time is part of it.
    spent = _spent(done, "load", "dna", "protein", "seal")
    left = sum(found.shard.tokens * (1 - found.share) for found in states)
    if not finished or not spent:
        return _hours_at_blocks(states, left)
    running = max(1, sum(found.state == "running" for found in states))
    return left / finished * spent / running / 3600


def _hours_at_blocks(states: list[ShardStatus], left: float) -> float | None:
    """At the pace of tasks in their first shard, each from its start."""
    now = datetime.now(UTC)
    pace = 0.0
    for found in states:
        if found.state == "running" and found.begun is not None:
            seconds = (now - datetime.fromisoformat(found.begun)).total_seconds()
            pace += found.shard.tokens * found.share / max(seconds, 1.0)
    return left / pace / 3600 if pace else None


def _spent(done: list[Receipt], *phases: str) -> float:
    return sum(receipt.seconds.get(name, 0.0) for receipt in done for name in phases)
