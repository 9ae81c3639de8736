"""Memory, time and disk that each step of a prediction takes for so many reads.

Every step is the product's own, in a process of its own; the network alone is left out, of which memory depends on the
size of a batch and not on the input: its rows are zeros, and the scores of its head are drawn by chance. One shard is
made from the reads, as one task does it; blocks of the other shards are written without reading, and sealed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from jaxtyping import Float32

from benchmarks import MOST, apart, show, temporary_folder
from benchmarks._commands import command, options
from vnp.encoders.models.sixframe import KINDS
from vnp.encoders.registry import load
from vnp.features.scores import Facts, Scores
from vnp.features.table import Records, Rows, Skipped
from vnp.files.machine import peak_memory
from vnp.prediction.options import PredictOptions
from vnp.prediction.predict import choose_options, encoding_for, predict
from vnp.runs.done.receipts import Announced
from vnp.runs.making.blocks import Account, BlockPlan, seal_shard, write_block
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.making.pipeline import make_shards
from vnp.runs.planning.options import MOST_SHARDS, RunOptions
from vnp.runs.planning.plan import read_plan
from vnp.runs.planning.start import start_run
from vnp.runs.request import NATIVE, PlannedInput, Request, Run
from vnp.runs.units import Prepared, UnitBatch
from vnp.sequences.samplesheet import InputFile

_AT_ONCE = 50_000
_SPREAD = 4.0  # of the log-odds that are drawn


@dataclass(frozen=True, slots=True)
class Step:
    """What one step took, in a process of its own."""

    seconds: float
    cpu_seconds: float  # of all its threads, which is what counts where others share the machine
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ScaleFigures:
    """What ``measure_scale`` found."""

    steps: dict[str, Step]  # by name, in order
    run_bytes: int  # left on the disk besides tables, sequences and reports
    results_bytes: int  # of these


def measure_scale(
    folder: Path,
    *,
    records: int,
    length: int = 150,
    shards: int = 4,
    seed: int = 1,
    progress: Callable[[str], None] = lambda _what: None,
) -> ScaleFigures:
    """Plan made-up reads, make their shards, call them, and call them again with other thresholds.

    A temporary folder is made in the folder, and removed. StorageError where the disk is full or cannot be written.
    """
    with temporary_folder(folder) as place:
        reads, calls = place / "reads.fasta", place / "calls"
        progress(f"making {records:,} reads of {length} bases")
        write_reads(reads, records, length, seed)
        steps = {}
        for name, work, given in (
            ("plan", _plan, (reads, calls, shards)),
            ("task", _make, (calls, seed)),
            ("sealing", _seal, (calls, length, seed)),
            ("call", _call, (calls, calls, None)),
            ("call again", _call, (calls, place / "again", 0.9)),
        ):
            progress(name)
            steps[name] = apart(_step, work, given)
        results = [path for path in calls.iterdir() if path.suffix in (".tsv", ".fna", ".html")]
        whole = sum(path.stat().st_size for path in calls.rglob("*") if path.is_file())
        tables = sum(path.stat().st_size for path in results)
        return ScaleFigures(steps, whole - tables, tables)


def write_reads(path: Path, records: int, length: int, seed: int) -> None:
    """Write a FASTA file of random bases."""
    chance = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACGT", np.uint8)
    with path.open("wb") as file:
        for first in range(0, records, _AT_ONCE):
            count = min(_AT_ONCE, records - first)
            bases = letters[chance.integers(0, 4, (count, length), np.uint8)]
            file.writelines(b">read_%d/1\n%b\n" % (first + at, row.tobytes()) for at, row in enumerate(bases))


def _step(work: Callable[..., None], given: Sequence[Any]) -> Step:
    started, before = time.perf_counter(), time.process_time()
    work(*given)
    return Step(time.perf_counter() - started, time.process_time() - before, peak_memory() or 0)


def _calling(threshold: float | None = None) -> tuple[PredictOptions, dict[str, Any]]:
    classifier, calling = choose_options(NATIVE, {"threshold": threshold})
    return calling, encoding_for(classifier, calling)


def _plan(reads: Path, root: Path, shards: int) -> None:
    calling, encoding = _calling()
    files = (InputFile(reads, -1, None),)
    start_run(RunOptions(files, shards=shards, device="cpu", cluster="inline", **encoding), root)
    calling.write(root / "predict.json")


def _make(root: Path, seed: int) -> None:
    run = Run.open(root)
    _, failed = make_shards(
        run, (0,), load=lambda: made_up_encoders(run.request), scoring=lambda _encoders: MadeUpScores(seed)
    )
    for _, error in failed:
        raise error


def _seal(root: Path, length: int, seed: int) -> None:
    run = Run.open(root)
    scoring = MadeUpScores(seed)
    account = Account(made_up_encoders(run.request).identities(), "cpu", {}, {}, {}, [])
    for shard in read_plan(run.paths.plan, run.request.plan_sha256)[1:]:
        plan, first = BlockPlan(run.request.digest, shard, run.request.block_units), shard.start.record
        announced = Announced(run.paths.blocks(shard.number), None)
        for block, (path, size) in enumerate(zip(plan.paths(run.paths), plan.sizes, strict=True)):
            prepared = made_up_block(first, size, length)
            write_block(path, plan, block, prepared, {}, account, scoring.score(prepared, {}))
            first += size
        seal_shard(run, plan, announced.attempt, {}, {})
        announced.end()


def made_up_block(first: int, count: int, length: int) -> Prepared:
    """So many reads from one on, each of them a row, without their bases."""
    ordinals = np.arange(first, first + count)
    names = [b"read_%d/1" % ordinal for ordinal in ordinals.tolist()]
    one, none = np.ones(count, np.int32), np.full(count, -1, np.int8)
    lengths = np.full(count, length, np.int64)
    return Prepared(
        rows=Rows([], ordinals, one, none, np.zeros(count, np.int64), lengths, none, none, []),
        records=Records(ordinals, names, lengths, one, np.zeros(count, np.int32), none, none, names),
        skipped=Skipped(ordinals[:0], one[:0], none[:0], []),
        dna=[],
        protein=[],
        facts=Facts.unknown(count),
    )


def _call(root: Path, out: Path, threshold: float | None) -> None:
    predict(Run.open(root), _calling(threshold)[0], out, device="cpu")


def made_up_encoders(request: Request) -> RunEncoders:
    """The run's own encoder, which gives rows of zeros without looking at what it is given."""
    encoder = load(request.dna.name, molecule="dna", device="cpu")
    encoder.prepare = len  # type: ignore[assignment]
    encoder.launch = lambda rows: Zeros(rows, encoder.width)  # type: ignore[assignment]
    return RunEncoders(encoder, None, 0.0)


@dataclass(frozen=True, slots=True)
class Zeros:
    """Rows of zeros."""

    rows: int
    width: int
    gpu_seconds: float = 0.0

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Make them."""
        return np.zeros((self.rows, self.width), np.float32)


@dataclass(frozen=True, slots=True)
class MadeUpScores:
    """Draws the scores of rows by chance."""

    seed: int

    def settle(self, units: Sequence[UnitBatch], inputs: Sequence[PlannedInput]) -> None:
        """Settle nothing."""

    def score(self, prepared: Prepared, arrays: Mapping[str, np.ndarray]) -> Scores:  # noqa: ARG002 - of the protocol
        """Draw those of a block: the same each time."""
        rows = prepared.rows
        chance = np.random.default_rng([self.seed, int(rows.record[0]) if len(rows.record) else 0])
        logits = chance.normal(0, _SPREAD, (len(rows.record), len(KINDS))).astype(np.float32)
        novelty = chance.normal(0, _SPREAD, len(rows.record)).astype(np.float16)
        return Scores(rows.record, rows.chunk, rows.frame, rows.start, rows.end, logits, novelty)


@command("python -m benchmarks scale --records 10000000 --folder /scratch")
@click.option("--records", type=click.IntRange(1, MOST), default=1_000_000, help="Reads to make.")
@click.option("--length", type=click.IntRange(100, MOST), default=150, help="Bases of a read.")
@click.option(
    "--shards", type=click.IntRange(1, MOST_SHARDS), default=4, help="Of the run; a task makes one from the reads."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of reads and scores.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Folder on the disk to measure. About 500 bytes a read of 150 bases are written there, and removed again.",
)
@options.as_json
def main(records: int, length: int, shards: int, seed: int, folder: Path, as_json: bool) -> None:
    """Measure memory, time and disk of predict for so many reads, step by step, without the network.

    Each step runs in a process of its own. Planning, one task from reads to a sealed shard, sealing the other shards,
    and calling are the product's; scores are drawn by chance. The goal is 2 GB in each step, and 100 bytes a read on
    the disk besides tables.
    """
    found = measure_scale(
        folder,
        records=records,
        length=length,
        shards=shards,
        seed=seed,
        progress=lambda what: click.echo(what, err=True),
    )
    figures: dict[str, object] = {"reads": records, "bases of a read": length, "shards": shards}
    for name, step in found.steps.items():
        figures[f"{name}, s"] = round(step.seconds, 1)
        share = {"task": 1 / shards, "sealing": 1 - 1 / shards}.get(name, 1)
        figures[f"{name}, processor s a million reads"] = round(step.cpu_seconds / max(records * share, 1) * 1e6, 2)
        figures[f"{name}, peak memory, MB"] = round(step.peak_bytes / 1e6)
    figures["run, bytes a read"] = round(found.run_bytes / records, 1)
    figures["tables and sequences, bytes a read"] = round(found.results_bytes / records, 1)
    show(figures, as_json)
