"""How throughput and memory depend on the length of sequences, and on the tokens of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from benchmarks._commands import command
from vnp.encoders.device import choose_device
from vnp.encoders.models.bare import BareModel
from vnp.encoders.spec import DEFAULTS, weighted
from vnp.report.plots import COLOURS, figure, save
from vnp.speed.encoders import SWEPT_LENGTH, Sweep, best_budget, budgets_of, sweep
from vnp.speed.measure import Memory, default_precisions, free
from vnp.speed.results import sweep_lines
from vnp.speed.workloads import find_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GPU_LENGTHS, _CPU_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048), (32, 64, 128, 256, 512)


@command("python -m benchmarks sweeps --model fastesm2_650 --out sweeps.png")
@click.option("--model", type=click.Choice([one.name for one in weighted()]), multiple=True, help="What to measure.")
@click.option("--precision", multiple=True, help="Of our encoders.  [default: fp16, bf16; on a CPU fp32]")
@click.option("--weights", type=click.Path(path_type=Path, file_okay=False), help="Folder of encoder weights.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to measure.")
@click.option("--full", is_flag=True, help="The published sizes on a CPU too.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Picture, .png or .svg.")
def main(model: tuple[str, ...], precision: tuple[str, ...], out: Path | None, **given: Any) -> None:
    """Time an encoder on sequences of one length after another, and on larger and larger batches."""
    device = choose_device(given["device"])
    full = given["full"] or device.type == "cuda"
    found = []
    for name in model or tuple(DEFAULTS.values()):
        made = find_model(name, str(device), weights=given["weights"], full=full)
        sweeps = list(measure_sweeps(made, precision or default_precisions(device)))
        found.append((made, sweeps))
        for one in sweeps:
            click.echo("\n".join([*sweep_lines(name, one), ""]))
    if out is not None:
        draw(out, found)


def measure_sweeps(model: BareModel, precisions: Sequence[str]) -> Iterator[Sweep]:
    """Sweep over lengths with the encoder's own budget, and over budgets, in each precision."""
    lengths = _GPU_LENGTHS if model.device.type == "cuda" else _CPU_LENGTHS
    for precision in precisions:
        memory = Memory(model.device)
        encoder = model.encoder(precision)
        points = sweep(model, encoder, memory, [(length, encoder.token_budget) for length in lengths])
        yield Sweep("length", precision, tuple(points), None)
        points = sweep(model, encoder, memory, [(SWEPT_LENGTH, budget) for budget in budgets_of(model.device)])
        yield Sweep("budget", precision, tuple(points), best_budget(points))
        del encoder
        free(torch.device(model.device))


def draw(path: Path, models: Sequence[tuple[BareModel, Sequence[Sweep]]]) -> Path:
    """Draw two panels for each model into a ``.png`` or ``.svg`` file; StorageError where it cannot be written."""
    made, panels = figure(len(models), 2, width=5.6, height=3.8)
    for (model, sweeps), left, right in zip(models, panels[::2], panels[1::2], strict=True):
        _against_length(left, model, sweeps)
        _against_budget(right, model, sweeps)
    return save(made, path)


def _against_length(axes: Axes, model: BareModel, sweeps: Sequence[Sweep]) -> None:
    for index, found in enumerate(each for each in sweeps if each.over == "length"):
        points = [point for point in found.points if point.error is None]
        label = f"vnp, {found.precision}, one length"
        axes.plot(
            [p.length for p in points],
            [p.sequences_per_second for p in points],
            color=COLOURS[index % len(COLOURS)],
            label=label,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of a sequence")
    axes.set_ylabel("sequences/s")
    axes.set_title(f"{model.name}, {model.source}", fontsize=9)
    if axes.has_data():
        axes.legend(fontsize=6, frameon=False)


def _against_budget(axes: Axes, model: BareModel, sweeps: Sequence[Sweep]) -> None:
    """Throughput on the left axis, peak memory on the right one."""
    sweeps = [each for each in sweeps if each.over == "budget"]
    for index, found in enumerate(sweeps):
        points = [point for point in found.points if point.error is None]
        axes.plot(
            [p.budget for p in points],
            [p.tokens_per_second for p in points],
            marker="o",
            markersize=3,
            color=COLOURS[index % len(COLOURS)],
            label=f"vnp, {found.precision}",
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
    known = [[p for p in found.points if p.error is None and p.peak_gib is not None] for found in sweeps]
    if not any(known):
        return
    second = axes.twinx()
    for index, points in enumerate(known):
        peaks = [p.peak_gib or 0.0 for p in points]
        second.plot([p.budget for p in points], peaks, linestyle=":", color=COLOURS[index % len(COLOURS)])
    second.set_ylabel("peak memory, GiB (dotted)")
    second.set_ylim(bottom=0)
    second.grid(visible=False)
