"""What was measured, as values, as a table to read, and as files: JSON, a table, and a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnp.files.durable import replacing
from vnp.files.records import write_json
from vnp.report.plots import COLOURS, figure, save
from vnp.speed.measure import Ceiling
from vnp.speed.sweeps import Point
from vnp.speed.workloads import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = "vnp-speed/1"


@dataclass(frozen=True)
class Row:
    """One contestant on one workload.

    Attributes:
        model: the encoder.
        workload: its name.
        contestant: its name.
        kind: ``ours``, ``rival`` or ``loop``.
        precision: it ran in.
        note: what was chosen, such as the kernel or the batch.
        sequences: of one round; a rival's rounds may be a part of the workload, spread evenly over it.
        tokens: of one round.
        rounds: seconds of each.
        sequences_per_second: by the median round.
        tokens_per_second: by the median round.
        tflops: floating-point operations of matrix products and attention, by the median round.
        share: of the rate of the matrix products alone.
        peak_gib: GPU memory, weights included.
        least_cosine: the smallest between pooled embeddings and those of plain layers in float32.
        compared: sequences that the cosine is of.
        times_rival: how many times more tokens a second than the best rival, if it is ours.
        times_loop: how many times more than VirNucPro's way, if it is ours.
        error: why there are no figures.
    """

    model: str
    workload: str
    contestant: str
    kind: str
    precision: str
    note: str = ""
    sequences: int = 0
    tokens: int = 0
    rounds: tuple[float, ...] = ()
    sequences_per_second: float = 0.0
    tokens_per_second: float = 0.0
    tflops: float = 0.0
    share: float | None = None
    peak_gib: float | None = None
    least_cosine: float | None = None
    compared: int = 0
    times_rival: float | None = None
    times_loop: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """One series of measurements of the engine.

    Attributes:
        over: ``length`` or ``budget``; ``none`` if it failed.
        precision: of the engine.
        points: in order.
        best: the smallest budget within 1 % of the best throughput.
        error: why there is no series.
    """

    over: str
    precision: str
    points: tuple[Point, ...]
    best: int | None
    error: str | None = None


@dataclass(frozen=True)
class ModelReport:
    """All of one model.

    Attributes:
        name: the encoder.
        source: where its weights came from.
        size: layers and width, in words.
        ceilings: of each precision that ran.
        workloads: what was run.
        rows: every contestant on every workload.
        sweeps: over lengths and budgets.
        reference_error: why numbers could not be compared, if so.
        interrupted: whether somebody ended it early.
    """

    name: str
    source: str
    size: str
    ceilings: tuple[Ceiling, ...]
    workloads: tuple[Workload, ...]
    rows: tuple[Row, ...]
    sweeps: tuple[Sweep, ...]
    reference_error: str | None = None
    interrupted: bool = False


def as_json(machine: Mapping[str, object], models: Sequence[ModelReport]) -> dict[str, Any]:
    """Everything as JSON values; what is not finite becomes null."""
    found: dict[str, Any] = _finite(
        {
            "schema": SCHEMA,
            "machine": dict(machine),
            "models": [
                {
                    "name": model.name,
                    "source": model.source,
                    "size": model.size,
                    "interrupted": model.interrupted,
                    "ceilings": [{**asdict(each), "tflops": each.tflops} for each in model.ceilings],
                    "workloads": [
                        {
                            "name": each.name,
                            "sequences": len(each.lengths),
                            "tokens": each.tokens,
                            "shortest": int(each.lengths.min()),
                            "longest": int(each.lengths.max()),
                        }
                        for each in model.workloads
                    ],
                    "rows": [asdict(row) for row in model.rows],
                    "sweeps": [asdict(sweep) for sweep in model.sweeps],
                    "reference_error": model.reference_error,
                }
                for model in models
            ],
        }
    )
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(folder: Path, machine: Mapping[str, object], models: Sequence[ModelReport]) -> list[Path]:
    """Write ``speed.json``, ``speed.tsv`` and ``speed.png``.

    Args:
        folder: made if it is not there.
        machine: what it was measured on.
        models: what was found.

    Returns:
        The files.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("speed.json", "speed.tsv", "speed.png")]
    write_json(paths[0], as_json(machine, models))
    columns = [name for name in Row.__dataclass_fields__ if name != "rounds"]
    with replacing(paths[1]) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow([*columns, "seconds_each_round"])
        for model in models:
            for row in model.rows:
                values = ["" if getattr(row, name) is None else getattr(row, name) for name in columns]
                table.writerow([*values, " ".join(f"{seconds:.6g}" for seconds in row.rounds)])
    if any(model.rows for model in models):
        draw(paths[2], models)
    return [path for path in paths if path.exists()]


_HEAD = ("sequences/s", "tokens/s", "TFLOP/s", "share", "GiB", "cosine", "x rival", "x VirNucPro", "spread")
_MARKS = {"ours": "o", "rival": "s", "loop": "^"}


def table(model: ModelReport) -> Iterator[str]:
    """The lines of a model's tables, one for each workload."""
    yield f"{model.name}: {model.size}, {model.source}"
    if model.interrupted:
        yield "  interrupted: this is what was measured by then"
    for each in model.ceilings:
        rate = (
            f"{_rate(each.before)} before, {_rate(each.after)} after" if each.before else f"not measured: {each.error}"
        )
        yield f"  its matrix products alone, {each.precision}, {each.rows:,} tokens: {rate}"
    if model.reference_error:
        yield f"  no cosine everywhere: {model.reference_error}"
    for workload in model.workloads:
        yield ""
        yield f"{model.name}, {workload.name}: {len(workload.lengths):,} sequences of {workload.span}"
        rows = [row for row in model.rows if row.workload == workload.name]
        names = [f"{row.contestant}, {row.precision}" for row in rows]
        wide = max(map(len, names), default=0)
        yield f"  {'':<{wide}}" + "".join(f"{name:>13}" for name in _HEAD)
        for row, name in zip(rows, names, strict=True):
            if row.error is not None:
                yield f"  {name:<{wide}}  {row.error}"
            else:
                yield f"  {name:<{wide}}" + "".join(f"{cell:>13}" for cell in _cells(row)) + f"  {row.note}"
    for sweep in model.sweeps:
        yield ""
        yield from _sweep(model.name, sweep)


def _cells(row: Row) -> list[str]:
    spread = (max(row.rounds) - min(row.rounds)) / sorted(row.rounds)[len(row.rounds) // 2]
    return [
        _count(row.sequences_per_second),
        _count(row.tokens_per_second),
        _count(row.tflops),
        "-" if row.share is None else f"{row.share:.2f}",
        "-" if row.peak_gib is None else f"{row.peak_gib:.1f}",
        "-" if row.least_cosine is None else f"{math.floor(row.least_cosine * 1e8) / 1e8:.8f}" if
        math.isfinite(row.least_cosine) else "not finite",
        "-" if row.times_rival is None else f"{row.times_rival:.2f}",
        "-" if row.times_loop is None else f"{row.times_loop:.1f}",
        f"{spread:.1%}" if len(row.rounds) > 1 else "one round",
    ]  # fmt: skip


def _sweep(name: str, sweep: Sweep) -> Iterator[str]:
    if sweep.error is not None:
        yield f"{name}, {sweep.precision}: no sweep: {sweep.error}"
        return
    what = "tokens of a sequence" if sweep.over == "length" else "tokens of a batch"
    fixed = ""
    if sweep.points and sweep.over == "budget":
        fixed = f", sequences of {sweep.points[0].length} tokens"
    yield f"{name}, vnp, {sweep.precision}{fixed}"
    yield f"  {what:>22}{'sequences/s':>13}{'tokens/s':>13}{'TFLOP/s':>13}{'GiB':>13}"
    for point in sweep.points:
        first = point.length if sweep.over == "length" else point.budget
        if point.error is not None:
            yield f"  {first:>22,}  {point.error}"
            continue
        peak = "-" if point.peak_gib is None else f"{point.peak_gib:.1f}"
        yield (
            f"  {first:>22,}{_count(point.sequences_per_second):>13}{_count(point.tokens_per_second):>13}"
            f"{_count(point.tflops):>13}{peak:>13}"
        )
    if sweep.best is not None:
        yield f"  the smallest batch within 1 % of the best: {sweep.best:,} tokens"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _rate(value: float | None) -> str:
    return "not measured" if value is None else f"{_count(value)} TFLOP/s"


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
            [row.tokens / row.sequences for row in rows],
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
