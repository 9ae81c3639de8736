"""The body of ``benchmark train``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from jobs._cli.progress import duration
from vnp.errors import RunExistsError, storage_error


def time_training(
    device: str, rows: int | None, width: int, batches: tuple[int, ...], loop_rows: int, loop_workers: int,
    seed: int, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure, and show or write the table.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        rows: of an epoch; by default 1.8 million on a GPU, 20,000 on a CPU.
        width: numbers in a row.
        batches: sizes to time.
        loop_rows: rows of the loop that are timed.
        loop_workers: processes of the loop.
        seed: of the made-up rows.
        out: file for the figures as JSON.
        as_json: print them as JSON.

    Raises:
        RunExistsError: the file is there already.
        StorageError: its folder cannot be made.
    """
    if out is not None:
        _make_way(out)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from benchmarks.train import benchmark_training
    from vnp.classifier.checkpoint import choose_device
    from vnp.files.records import write_json

    where = choose_device(device)
    found = benchmark_training(
        where,
        rows=rows or (1_800_000 if where.type == "cuda" else 20_000),
        width=width,
        batches=batches,
        loop_rows=loop_rows,
        loop_workers=loop_workers,
        seed=seed,
        progress=lambda what: click.echo(what, err=True),
    )
    if out is not None:
        write_json(out, asdict(found))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(f"{found.rows:,} rows of {found.width} numbers, {found.device}")
    click.echo(f"{'':<30}{'batch':>7}{'epoch':>14}{'rows/s':>13}{'a step':>12}{'batches alone':>18}{'loop':>9}")
    for timing in found.timings:
        alone = f"{timing.batches_only:,.0f} rows/s" if timing.batches_only else "-"
        seconds = f"{timing.seconds:.2f} s" if timing.seconds < 60 else duration(timing.seconds)
        click.echo(
            f"{timing.way:<30}{timing.batch:>7,}{seconds:>14}{timing.rows_per_second:>13,.0f}"
            f"{timing.step_microseconds:>9,.0f} µs{alone:>18}{timing.times_loop:>8.1f}x"
        )
    if found.loss_difference is not None:
        click.echo(
            f"graphs against plain steps: losses differ by {found.loss_difference:.2g} of their size at most, "
            f"weights by {found.weight_difference:.2g}"
        )


def _make_way(out: Path) -> None:
    """Before anything is timed, which takes minutes, see that its figures can be written."""
    if out.exists():
        raise RunExistsError(f"{out} is there already: choose another --out, or move it away")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {out.parent}") from error
