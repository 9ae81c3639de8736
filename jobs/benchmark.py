"""Time the parts of the suite on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from jobs import _options
from jobs._command import command, group


@group("python -m jobs.benchmark merge --rows 1000000")
def main() -> None:
    """Time the parts of the suite on this machine."""


@command("python -m jobs.benchmark frames --bases 20000000", group=main)
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--bases", type=click.IntRange(min=1), default=10_000_000, help="Bases to work through.")
@click.option("--chunk", type=click.IntRange(min=3), default=300, help="Bases of a chunk.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; the median counts.")
@click.option("--seed", type=int, default=1, help="Of the random bases.")
@_options.as_json
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
    from vnp.sequences.benchmark import benchmark_frames

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


@command("python -m jobs.benchmark merge --rows 1000000 --shards 8 --folder /scratch", group=main)
@click.option("--rows", type=click.IntRange(min=1), default=300_000, help="Rows of the made-up run.")
@click.option("--shards", type=click.IntRange(min=1), default=8, help="Its shards.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, help="Rounds; the median counts.")
@click.option("--layout", type=click.Choice(["1664", "full"]), default="1664", help="What to merge to.")
@click.option("--store", type=click.Choice(["float16", "float32"]), default="float16", help="Type of the numbers.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Folder on the disk to measure. About 10 kB a row are written there, and removed again.",
)
@_options.as_json
def merge(rows: int, shards: int, repeats: int, layout: str, store: str, folder: Path, as_json: bool) -> None:
    """Time reduce against cp of the features that it makes.

    Both read from the page cache, and both end when all is safe on the disk. The goal is a ratio of at least 0.5.
    """
    from vnp.features.benchmark import benchmark_merge

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
    main()
