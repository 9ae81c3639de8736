"""Times merging against ``cp`` of the same bytes, on a run of made-up numbers."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks import MOST, apart, show, temporary_folder
from benchmarks._commands import command, options
from vnp.errors import UsageError
from vnp.features.layout import PROJECTED_DNA
from vnp.features.table import Records, Rows, Skipped
from vnp.files.durable import sync_file
from vnp.files.machine import peak_memory
from vnp.runs.done.receipts import Announced
from vnp.runs.done.reduce import reduce_run
from vnp.runs.making.blocks import Account, BlockPlan, seal_shard, write_block
from vnp.runs.planning.options import MOST_SHARDS, RunOptions
from vnp.runs.planning.plan import write_plan
from vnp.runs.planning.start import start_run
from vnp.runs.request import Position, Run, Shard, Totals
from vnp.runs.units import Prepared
from vnp.sequences.samplesheet import InputFile

CHUNK = 300
_RECORD_ROWS = 100
_PIECE_ROWS = 20_000


def measure_merge(
    folder: Path,
    *,
    rows: int = 1_000_000,
    shards: int = 8,
    repeats: int = 3,
    layout: str = "1664",
    store: str = "float16",
    progress: Callable[[str], None] = lambda _what: None,
) -> dict[str, Any]:
    """Make a run, then in turns reduce it and copy the result; times are medians of wall-clock seconds.

    Both read from the page cache, and both end when their bytes are on the disk. Reducing runs in a process of its own
    each time, so that its peak memory is its own. The folder is on the disk to measure; a temporary one is made in it
    and removed.

    Raises:
        UsageError: there is no ``cp``, or a number is out of range.
        StorageError: the disk is full or cannot be written.
    """
    cp = shutil.which("cp")
    if cp is None:
        raise UsageError("there is no cp on PATH to compare with")
    if shards < 1 or rows < shards or repeats < 1:
        raise UsageError("at least one shard, one row a shard and one repeat are needed")
    reduce_times, cp_times, peaks = [], [], []
    with temporary_folder(folder) as place:
        progress(f"making {shards} shards of {rows:,} rows in all")
        run = synthetic_run(place / "run", rows, shards, store)
        copied = place / "copy.h5"
        # The first round only warms the page cache: memory that a system has never touched is slow to write to.
        for repeat in range(repeats + 1):
            what = f"round {repeat} of {repeats}" if repeat else "warming up"
            progress(f"{what}: reduce")
            run.paths.features.unlink(missing_ok=True)
            seconds, peak, width = apart(_reduce, run.paths.root, layout)
            reduce_times.append(seconds)
            peaks.append(peak)
            progress(f"{what}: cp")
            started = time.perf_counter()
            subprocess.run([cp, str(run.paths.features), str(copied)], check=True)
            sync_file(copied)
            cp_times.append(time.perf_counter() - started)
            copied.unlink()
    reduce_seconds, cp_seconds = statistics.median(reduce_times[1:]), statistics.median(cp_times[1:])
    megabytes = rows * width * np.dtype(store).itemsize / 1e6
    return {
        "rows": rows,
        "shards": shards,
        "width": width,
        "type": store,
        "features, MB": megabytes,
        "reduce, s": reduce_seconds,
        "reduce, rows/s": rows / reduce_seconds,
        "reduce, MB/s of features": megabytes / reduce_seconds,
        "cp, s": cp_seconds,
        "cp, MB/s of features": megabytes / cp_seconds,
        "reduce over cp": cp_seconds / reduce_seconds,
        "reduce, peak memory, MB": max(peaks) / 1e6,
    }


def _reduce(root: Path, layout: str) -> tuple[float, int, int]:
    """Reduce; returns the seconds, the peak memory of this process in bytes, and the width of a row."""
    run = Run.open(root)
    started = time.perf_counter()
    reduced = reduce_run(run, layout, force=True)
    return time.perf_counter() - started, peak_memory() or 0, reduced.layout.width


def synthetic_run(root: Path, rows: int, shards: int, store: str = "float16", seed: int = 1) -> Run:
    """Make a run whose shards are all done, of the weight-free encoders' widths and with made-up numbers.

    Each record has 100 chunks, each chunk one row. StorageError where the disk is full or cannot be written.
    """
    borders = [rows * shard // shards for shard in range(shards + 1)]
    table = [
        Shard(
            number,
            Position(0, low // _RECORD_ROWS, low % _RECORD_ROWS, -1, -1),
            units=high - low,
            rows=high - low,
            tokens=high - low,
            bases=(high - low) * CHUNK,
        )
        for number, (low, high) in enumerate(pairwise(borders))
    ]
    run = planned_run(root, table, -(-rows // _RECORD_ROWS), store=store, block_units=_PIECE_ROWS)
    pool = np.random.default_rng(seed).standard_normal((_PIECE_ROWS, 64)).astype(store)
    for shard, first in zip(table, borders, strict=False):
        _make_shard(run, shard, first, pool)
    return run


def planned_run(root: Path, table: Sequence[Shard], records: int, **wishes: Any) -> Run:
    """A run that is planned as ``table`` says, of an input that is not there; ``wishes`` are of the request."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "made-up.fa"
        source.write_text(">one\n" + "ATGGCC" * 50 + "\n")
        asked = RunOptions((InputFile(source),), dna="kmer", protein="kmer", device="cpu", chunk=CHUNK)
        run, _ = start_run(asked, root)
    sums = {name: sum(getattr(shard, name) for shard in table) for name in ("bases", "units", "rows", "tokens")}
    request = replace(
        run.request,
        asked_shards=len(table),
        shards=len(table),
        plan_sha256=write_plan(run.paths.plan, table),
        totals=Totals(records, **sums),
        **wishes,
    )
    request.write(run.paths.request)
    return Run(run.paths, request)


def _make_shard(run: Run, shard: Shard, first: int, pool: np.ndarray) -> None:
    """Write blocks of rows from ``first`` on, and seal them, as a task does."""
    chosen = run.request.encoders
    widths = {"dna": chosen["dna"].width, "dna_projected": PROJECTED_DNA, "protein": chosen["protein"].width}
    identities = {molecule: choice.identity for molecule, choice in chosen.items()}
    account = Account(identities, "cpu", {"dna": "none", "protein": "none"}, {}, {}, [])
    plan = BlockPlan(run.request.digest, shard, run.request.block_units)
    announced = Announced(run.paths.blocks(shard.number), None)
    for block, (path, size) in enumerate(zip(plan.paths(run.paths), plan.sizes, strict=True)):
        arrays = {name: np.tile(pool[:size], (1, width // pool.shape[1])) for name, width in widths.items()}
        write_block(path, plan, block, _prepared(first, first + size), arrays, account)
        first += size
    seal_shard(run, plan, announced.attempt, {}, {})
    announced.end()


def _prepared(first: int, last: int) -> Prepared:
    """Rows ``first`` to ``last``: each is frame F1 of its own chunk."""
    count = last - first
    record, chunk = np.divmod(np.arange(first, last), _RECORD_ROWS)
    names = {ordinal: f"made_up_{ordinal}".encode() for ordinal in range(int(record[0]), int(record[-1]) + 1)}
    owners = [names[ordinal] for ordinal in record.tolist()]
    rows = Rows(
        ids=[b"%b_chunk_%dF1" % (name, number + 1) for name, number in zip(owners, chunk.tolist(), strict=True)],
        record=record.astype(np.int64),
        chunk=(chunk + 1).astype(np.int32),
        frame=np.zeros(count, np.int8),
        start=chunk.astype(np.int64) * CHUNK,
        end=(chunk.astype(np.int64) + 1) * CHUNK,
        label=np.ones(count, np.int8),
        split=np.full(count, -1, np.int8),
        group=owners,
    )
    every = len(names)
    records = Records(
        ordinal=np.array(list(names), np.int64),
        name=list(names.values()),
        length=np.full(every, _RECORD_ROWS * CHUNK, np.int64),
        chunks=np.full(every, _RECORD_ROWS, np.int32),
        input=np.zeros(every, np.int32),
        label=np.ones(every, np.int8),
        split=np.full(every, -1, np.int8),
        group=list(names.values()),
    )
    none = np.zeros(0, np.int64)
    skipped = Skipped(none, none.astype(np.int32), none.astype(np.int8), [])
    return Prepared(rows, records, skipped, dna=[], protein=[])


@command("python -m benchmarks merge --rows 1000000 --shards 8 --folder /scratch")
@click.option("--rows", type=click.IntRange(1, MOST), default=300_000, help="Rows of the made-up run.")
@click.option("--shards", type=click.IntRange(1, MOST_SHARDS), default=8, help="Its shards.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, help="Rounds; the median counts.")
@click.option("--layout", type=click.Choice(["1664", "full"]), default="1664", help="What to merge to.")
@click.option("--store", type=click.Choice(["float16", "float32"]), default="float16", help="Type of the numbers.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Folder on the disk to measure. About 10 kB a row are written there, and removed again.",
)
@options.as_json
def main(rows: int, shards: int, repeats: int, layout: str, store: str, folder: Path, as_json: bool) -> None:
    """Time reduce against cp of the features that it makes.

    Both read from the page cache, and both end when all is safe on the disk. The goal is a ratio of at least 0.5.
    """
    figures = measure_merge(
        folder,
        rows=rows,
        shards=shards,
        repeats=repeats,
        layout=layout,
        store=store,
        progress=lambda what: click.echo(what, err=True),
    )
    show(figures, as_json)
