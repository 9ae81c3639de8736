"""How long it takes to look at a large run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import show
from benchmarks._commands import command, options
from benchmarks.merge import planned_run
from vnp.runs.done.receipts import Receipt
from vnp.runs.done.status import run_status
from vnp.runs.planning.options import MOST_SHARDS
from vnp.runs.request import Position, Request, Run, Shard, versions


@dataclass(frozen=True, slots=True)
class StatusTime:
    """How long looking at a run took."""

    shards: int  # of the run
    done: int  # how many of them have a receipt
    seconds: list[float]  # of each look, in order


def measure_status(shards: int, done: int, repeats: int = 3) -> StatusTime:
    """Make a run with so many shards, without embedding anything, and look at it.

    So many have a receipt and a file; of the others, every second has been begun.
    """
    with synthetic_run(shards, done) as run:
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            state = run_status(run)
            seconds.append(time.perf_counter() - started)
        if state.counts.get("done", 0) != done or len(state.shards) != shards:
            raise AssertionError(f"{state.counts} of {shards} shards, {done} expected to be done")
    return StatusTime(shards, done, seconds)


@contextmanager
def synthetic_run(shards: int, done: int) -> Iterator[Run]:
    """A run directory with a plan and receipts as they would be, and with shard files of one byte."""
    with TemporaryDirectory() as folder:
        yield _make_run(Path(folder), shards, done)


def _make_run(folder: Path, shards: int, done: int) -> Run:
    table = [
        Shard(number, Position(0, 0, number, -1, -1), units=100, rows=150, tokens=20_000, bases=30_000)
        for number in range(shards)
    ]
    run = planned_run(folder / "run", table, 1)
    digest = run.request.digest
    for shard in table:
        if shard.number < done:
            run.paths.shard(shard.number).write_bytes(b"x")
            _receipt(run.request, digest, shard).write(run.paths.receipt(shard.number))
        elif shard.number % 2:
            run.paths.blocks(shard.number).mkdir()
            run.paths.block(shard.number, 0).write_bytes(b"x")
    return run


def _receipt(request: Request, digest: str, shard: Shard) -> Receipt:
    return Receipt(
        run=digest,
        shard=shard.number,
        file=f"shard-{shard.number:05d}.h5",
        size=1,
        sha256="0" * 64,
        rows=shard.rows,
        records=1,
        units=shard.units,
        skipped={"no open frame": 3},
        ids_sha256="0" * 64,
        start=asdict(shard.start),
        widths={molecule: choice.width for molecule, choice in request.encoders.items()},
        dtype=request.store,
        projections={},
        encoders={molecule: choice.identity for molecule, choice in request.encoders.items()},
        attempt=1,
        host="node",
        job=f"41_{shard.number}",
        devices=["cpu"],
        kernels={"dna": "none", "protein": "none"},
        seconds={"load": 1.0, "read": 0.5, "dna": 3.0, "protein": 9.0, "write": 0.2, "seal": 0.1},
        tokens={"dna": 8_000, "protein": 12_000},
        events=[],
        started="2025-01-01T00:00:00+00:00",
        finished="2025-01-01T00:00:14+00:00",
        versions=versions(),
    )


@command("python -m benchmarks status --shards 10000")
@click.option("--shards", type=click.IntRange(1, MOST_SHARDS), default=10_000, help="Shards of the made-up run.")
@click.option("--done", type=click.IntRange(min=0), help="How many of them are done.  [default: half]")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; the median counts.")
@options.as_json
def main(shards: int, done: int | None, repeats: int, as_json: bool) -> None:
    """Time the look at a run of many shards that status takes; the goal is 2 s for 10,000."""
    found = measure_status(shards, shards // 2 if done is None else min(done, shards), repeats)
    show({"shards": found.shards, "done": found.done, "a look, s": statistics.median(found.seconds)}, as_json)
