"""What it costs to compare what is read with its digests: the same reading with them and without, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import click
import numpy as np
import torch

from benchmarks import processor_seconds, show
from benchmarks._commands import command, options
from benchmarks.merge import synthetic_run
from benchmarks.scale import write_reads
from vnp.classifier.fit import Stepper
from vnp.classifier.model import MLPClassifier
from vnp.classifier.recipe import VIRNUCPRO
from vnp.classifier.rows import RowStore, open_rows
from vnp.features.read import Features, open_features
from vnp.runs.done.reduce import reduce_run
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.plan import read_needed, read_plan
from vnp.runs.planning.start import start_run
from vnp.runs.request import Run
from vnp.runs.units import prepare, read_blocks
from vnp.sequences.samplesheet import read_inputs

CPU = torch.device("cpu")
SHARDS = 2


Read = Callable[[], object]


def readings(folder: Path, rows: int, bases: int) -> Iterator[tuple[str, Read, Read]]:
    """Merged features, an epoch whose rows are streamed, the shards of a run, the input of a task.

    Yields:
        What it is, the reading with digests, and the same without.
    """
    run = synthetic_run(folder / "run", rows, SHARDS)
    features = open_features(reduce_run(run, "1664").path)
    # As a file of an earlier version is read: every number is looked at instead, whether it is finite.
    plain = replace(features, checksums=None)
    yield "features, export", partial(_windows, features), partial(_windows, plain)
    yield "features, train", partial(_stored, features), partial(_stored, plain)
    label = np.zeros(rows, np.int8)
    streamed = open_rows(features, label, CPU, "stream")
    yield "streamed epoch", partial(_epoch, streamed), partial(_epoch, RowStore(features.mapped(), label, CPU, False))
    yield "shards, reduce", partial(_reduced, run), partial(_uncompared, run)
    planned = _plan(folder, bases)
    yield "input, task", partial(_task, planned, known=True), partial(_task, planned, known=False)


def _windows(features: Features) -> int:
    return sum(len(window) for window in features.windows())


def _stored(features: Features) -> int:
    return sum(len(values) for _, values in features.stored_windows())


def _epoch(store: RowStore) -> float:
    """Train on a tenth of the rows, taken from the disk in random order."""
    order = np.random.default_rng(1).permutation(len(store))[: -(-len(store) // 10)]
    steps = Stepper(MLPClassifier(store.width), VIRNUCPRO, None, graph=False)
    return steps.run(store.pools(order, VIRNUCPRO.batch))


def _reduced(run: Run) -> Path:
    return reduce_run(run, "1664", force=True).path


def _uncompared(run: Run) -> Path:
    with mock.patch("vnp.features.merge.read_checksums", return_value=None):
        return _reduced(run)


def _plan(folder: Path, bases: int) -> Run:
    """A run of random contigs of 10,000 bases, in one shard."""
    path = folder / "contigs.fna"
    write_reads(path, -(-bases // 10_000), 10_000, seed=2)
    asked = RunOptions(tuple(read_inputs((path,))), shards=1, dna="kmer", protein="kmer")
    return start_run(asked, folder / "planned")[0]


def _task(run: Run, *, known: bool) -> int:
    """Read and translate, as a task does before it embeds."""
    request, shards = run.request, read_plan(run.paths.plan, run.request.plan_sha256)
    watches = read_needed(run, shards, 0)[1] if known else None
    sizes = [request.block_units] * -(-shards[0].units // request.block_units)
    blocks = read_blocks(request.inputs, request.chunk, shards[0].start, sizes, watches)
    return sum(len(prepare(block, request.inputs).dna) for block in blocks)


def measure(checked: Read, plain: Read, rounds: int) -> tuple[float, float, float]:
    """Read in turns with digests and without: medians of seconds of both, and what the digests add in percent."""
    found = []
    for read in (checked, plain):
        read()
    for number in range(rounds):
        # Whoever comes second finds caches and clock as the first has left them.
        pair = {read: processor_seconds(read)[1] for read in ((checked, plain) if number % 2 else (plain, checked))}
        found.append((pair[checked], pair[plain], 100 * (pair[checked] / pair[plain] - 1)))
    with_digests, without, cost = map(statistics.median, zip(*found, strict=True))
    return with_digests, without, cost


@command("python -m benchmarks reading --rows 100000")
@click.option("--rows", type=click.IntRange(1, 100_000_000), default=100_000, help="Rows of 1664 numbers.")
@click.option("--bases", type=click.IntRange(1_000, 10_000_000_000), default=20_000_000, help="Of a task's input.")
@click.option("--rounds", type=click.IntRange(1, 1_000), default=15, help="The median of so many counts.")
@options.as_json
def main(rows: int, bases: int, rounds: int, as_json: bool) -> None:
    """Time reading from the page cache with digests and without, in turns, in processor seconds.

    Features as export and train read them, an epoch whose rows are streamed, shards as reduce reads them, and a task's
    input until it is translated. Without checksums features are looked at, number by number, whether they are finite.
    """
    # Threads that wait for each other spend seconds too.
    torch.set_num_threads(1)
    figures: dict[str, object] = {"rows": rows, "bases": bases, "rounds": rounds}
    with TemporaryDirectory() as folder:
        for name, checked, plain in readings(Path(folder), rows, bases):
            with_digests, without, cost = measure(checked, plain, rounds)
            figures |= {
                f"{name}: with digests, s": with_digests, f"{name}: without, s": without, f"{name}: cost, %": cost
            }  # fmt: skip
    show(figures, as_json)


if __name__ == "__main__":
    main()
