"""``python -m benchmarks``: lists the measurements, and runs one by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.frontend_command import frontend_options
from jobs._cli import options
from jobs._cli.command import command, group
from vnp.runs.planning.options import LARGEST_CHUNK, MOST_SHARDS

# Beyond what anyone waits for, and far below what numbers of eight bytes hold.
_MOST = 1_000_000_000


@group("python -m benchmarks merge --rows 1000000")
def main() -> None:
    """Time parts of vnp on this machine, for whoever works on them."""


@command("python -m benchmarks frames --bases 20000000", group=main)
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--bases", type=click.IntRange(1, 100 * _MOST), default=10_000_000, help="Bases to work through.")
@click.option("--chunk", type=click.IntRange(3, LARGEST_CHUNK), default=300, help="Bases of a chunk.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; the median counts.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the random bases.")
@options.as_json
def frames(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    bases: int,
    chunk: int,
    repeats: int,
    seed: int,
    as_json: bool,
) -> None:
    """Time six-frame translation against a plain loop over codons.

    INPUT is FASTA or FASTQ to take the bases from; without any, they are random. Times are processor time of one core.
    """
    from benchmarks.frames import benchmark_frames

    found = benchmark_frames(bases=bases, chunk=chunk, repeats=repeats, seed=seed, paths=input)
    figures = {
        "bases": found.bases,
        "chunk": found.chunk,
        "open frames": found.rows,
        "plain loop, million bases/s": found.loop_speed,
        "open frames, million bases/s": found.speed,
        "times the plain loop": found.times_faster,
        "with ids and strings, million bases/s": found.strings_speed,
        "with ids and strings, times the plain loop": found.strings_times_faster,
        "counting alone, million bases/s": found.count_speed,
    }
    _show(figures, as_json)


@command("python -m benchmarks frontend --reads 1000000 --workers 2", group=main)
@frontend_options
def frontend(**asked: Any) -> None:
    """Time what happens to reads before the encoders run: reading, chunks, open frames, tokens.

    INPUT is FASTA or FASTQ to cut the reads from; without any, they are random. The goal is 20 s for a million reads
    on two cores.
    """
    from benchmarks.frontend_command import time_frontend

    time_frontend(asked.pop("input"), **asked)


@command("python -m benchmarks merge --rows 1000000 --shards 8 --folder /scratch", group=main)
@click.option("--rows", type=click.IntRange(1, _MOST), default=300_000, help="Rows of the made-up run.")
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
def merge(rows: int, shards: int, repeats: int, layout: str, store: str, folder: Path, as_json: bool) -> None:
    """Time reduce against cp of the features that it makes.

    Both read from the page cache, and both end when all is safe on the disk. The goal is a ratio of at least 0.5.
    """
    from benchmarks.merge import benchmark_merge

    found = benchmark_merge(
        folder,
        rows=rows,
        shards=shards,
        repeats=repeats,
        layout=layout,
        store=store,
        progress=lambda what: click.echo(what, err=True),
    )
    figures = {
        "rows": found.rows,
        "shards": found.shards,
        "width": found.width,
        "type": found.dtype,
        "features, MB": found.feature_bytes / 1e6,
        "reduce, s": found.reduce_seconds,
        "reduce, rows/s": found.rows_per_second,
        "reduce, MB/s of features": found.reduce_speed,
        "cp, s": found.cp_seconds,
        "cp, MB/s of features": found.cp_speed,
        "reduce over cp": found.ratio,
        "reduce, peak memory, MB": found.peak_bytes / 1e6,
    }
    _show(figures, as_json)


@command("python -m benchmarks status --shards 10000", group=main)
@click.option("--shards", type=click.IntRange(1, MOST_SHARDS), default=10_000, help="Shards of the made-up run.")
@click.option("--done", type=click.IntRange(min=0), help="How many of them are done.  [default: half]")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; the median counts.")
@options.as_json
def status(shards: int, done: int | None, repeats: int, as_json: bool) -> None:
    """Time the look at a run of many shards that status takes; the goal is 2 s for 10,000."""
    from statistics import median

    from benchmarks.status import measure_status

    found = measure_status(shards, shards // 2 if done is None else min(done, shards), repeats)
    _show({"shards": found.shards, "done": found.done, "a look, s": median(found.seconds)}, as_json)


@command("python -m benchmarks train --rows 1800000", group=main)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option(
    "--rows", type=click.IntRange(2, _MOST), help="Of an epoch.  [default: 1,800,000 on a GPU, 20,000 on a CPU]"
)
@click.option("--width", type=click.IntRange(8, 1_000_000), default=1664, help="Numbers in a row.")
@click.option("--batch", type=click.IntRange(2, 10_000_000), multiple=True, default=(4096, 32), help="Rows of a step.")
@click.option(
    "--loop-rows", type=click.IntRange(1, _MOST), default=3_000, help="Rows of the plain loop that are timed."
)
@click.option("--loop-workers", type=click.IntRange(0, 10_000), default=12, help="Processes of the plain loop.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the made-up rows.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the figures as JSON.")
@options.as_json
def train(
    device: str,
    rows: int | None,
    width: int,
    batch: tuple[int, ...],
    loop_rows: int,
    loop_workers: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time an epoch of training against VirNucPro's loop over single rows, on made-up features.

    On a GPU steps are timed as CUDA graphs and plainly, and both must give the same losses. The goals are 5 s an epoch
    of 1.8 million rows on an H100 with batches of 4,096, and 20 s with batches of 32.
    """
    from benchmarks.train_command import time_training

    time_training(device, rows, width, batch, loop_rows, loop_workers, seed, out, as_json)


@command("python -m benchmarks dataset viral.gbff.gz", group=main)
@click.argument("genomes", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--annotation",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The GFF3 or GenBank file, where GENOMES is FASTA.",
)
@click.option("--chunk", type=click.IntRange(30, LARGEST_CHUNK), default=300, help="Bases of a chunk.")
@click.option(
    "--scan-chunks", type=click.IntRange(min=1), default=2_000, help="Chunks of a record to time the scan on, at most."
)
@options.as_json
def dataset(genomes: Path, annotation: Path | None, chunk: int, scan_chunks: int, as_json: bool) -> None:
    """Time finding the frames that lie in annotated proteins, by the index and by a scan of every protein.

    GENOMES is annotated: GenBank, or FASTA with GFF3 or GenBank. Both sides get the same frames and must agree on each;
    finding the frames is not timed. Times are processor time of one core.
    """
    from benchmarks.dataset import benchmark_index

    found = benchmark_index(genomes, annotation, chunk=chunk, scan_chunks=scan_chunks)
    peak = found.read_peak_bytes
    figures = {
        "records": found.records,
        "bases": found.bases,
        "proteins": found.proteins,
        "proteins that do not agree with the sequence": found.mismatched,
        "chunk": found.chunk,
        "chunks": found.chunks,
        "open frames": found.frames,
        "in an annotated protein": found.annotated,
        "index, chunks/s": found.index_speed,
        "scan, chunks/s": found.scan_speed,
        "index over scan": found.speedup,
        "chunks that the scan was timed on": found.scanned_chunks,
        "reading, s": found.read_seconds,
        "index, s": found.index_seconds,
        "reading and index, s per million bases": found.seconds_per_mbp,
        "peak memory, MB": "not told here" if peak is None else peak / 1e6,
    }
    _show(figures, as_json)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    widest = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{widest}}  {_number(value):>12}")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
