"""Throughput against the length of sequences and against the tokens of a batch, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vnp.report.plots import COLOURS, figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vnp.speed.results import ModelReport, Row, Sweep

_MARKS = {"ours": "o", "rival": "s", "loop": "^"}


def draw(path: Path, models: Sequence[ModelReport]) -> Path:
    """Draw two panels for each model.

    Args:
        path: a ``.png`` or ``.svg`` file.
        models: what was measured.

    Returns:
        The path.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    made, panels = figure(len(models), 2, width=5.6, height=3.8)
    for model, left, right in zip(models, panels[::2], panels[1::2], strict=True):
        _against_length(left, model)
        _against_budget(right, model)
    return save(made, path)


def _against_length(axes: Axes, model: ModelReport) -> None:
    """Sweeps over lengths as lines, and every contestant on every workload at the workload's mean length."""
    for index, sweep in enumerate(each for each in model.sweeps if each.over == "length"):
        points = [point for point in sweep.points if point.error is None]
        label = f"vnp, {sweep.precision}, one length"
        axes.plot(
            [p.length for p in points], [p.sequences_per_second for p in points], color=COLOURS[index], label=label
        )
    names = list(dict.fromkeys((row.contestant, row.precision) for row in model.rows if row.error is None))
    for index, name in enumerate(names):
        rows = [row for row in model.rows if (row.contestant, row.precision) == name and row.error is None]
        axes.plot(
            [_mean(row) for row in rows],
            [row.sequences_per_second for row in rows],
            linestyle="",
            marker=_MARKS.get(rows[0].kind, "o"),
            markersize=4,
            color=COLOURS[index % len(COLOURS)],
            label=", ".join(name),
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of a sequence (mean)")
    axes.set_ylabel("sequences/s")
    axes.set_title(f"{model.name}, {model.source}", fontsize=9)
    if axes.has_data():
        axes.legend(fontsize=6, frameon=False)


def _mean(row: Row) -> float:
    return row.tokens / row.sequences


def _against_budget(axes: Axes, model: ModelReport) -> None:
    """Throughput on the left axis, peak memory on the right one."""
    sweeps = [each for each in model.sweeps if each.over == "budget"]
    for index, sweep in enumerate(sweeps):
        points = [point for point in sweep.points if point.error is None]
        axes.plot(
            [p.budget for p in points],
            [p.tokens_per_second for p in points],
            marker="o",
            markersize=3,
            color=COLOURS[index % len(COLOURS)],
            label=f"vnp, {sweep.precision}",
        )
    if not axes.has_data():
        axes.set_axis_off()
        axes.set_title(f"{model.name}: batches were not swept over", fontsize=9)
        return
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of a batch")
    axes.set_ylabel("tokens/s")
    axes.set_title(model.name, fontsize=9)
    if sweeps:
        axes.legend(fontsize=6, frameon=False, loc="lower right")
        _memory(axes, sweeps)


def _memory(axes: Axes, sweeps: Sequence[Sweep]) -> None:
    known = [[p for p in sweep.points if p.error is None and p.peak_gib is not None] for sweep in sweeps]
    if not any(known):
        return
    second = axes.twinx()
    for index, points in enumerate(known):
        peaks = [p.peak_gib or 0.0 for p in points]
        second.plot([p.budget for p in points], peaks, linestyle=":", color=COLOURS[index % len(COLOURS)])
    second.set_ylabel("peak memory, GiB (dotted)")
    second.set_ylim(bottom=0)
    second.grid(visible=False)
