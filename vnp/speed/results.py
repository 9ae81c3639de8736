"""What was measured as JSON, as a table in a file, and as a table to read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vnp.files.claims import make_folder
from vnp.files.durable import write_text
from vnp.files.records import write_json
from vnp.files.tables import columns, table_text
from vnp.speed.encoders import MEMORIES, ModelReport, Row, Sweep

SCHEMA = "vnp-speed/1"


def as_json(machine: Mapping[str, object], models: Sequence[ModelReport]) -> dict[str, Any]:
    """Everything as JSON values; what is not finite becomes null."""
    found: dict[str, Any] = _finite(
        {
            "schema": SCHEMA,
            "machine": dict(machine),
            "models": [
                {
                    **asdict(replace(model, workloads=())),
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
    """Write ``speed.json`` and ``speed.tsv``."""
    make_folder(folder)
    paths = [folder / "speed.json", folder / "speed.tsv"]
    write_json(paths[0], as_json(machine, models))
    columns = [name for name in Row.__dataclass_fields__ if name != "rounds"]
    lines = [[*columns, "seconds_each_round"]]
    for row in (row for model in models for row in model.rows):
        values = ["" if getattr(row, name) is None else str(getattr(row, name)) for name in columns]
        lines.append([*values, " ".join(f"{seconds:.6g}" for seconds in row.rounds)])
    write_text(paths[1], table_text(lines))
    return paths


_HEAD = ("seq/s", "tokens/s", "TFLOP/s", "share", "GiB", "cosine", "apart", "x rival", "x VirNucPro", "spread")


def table(model: ModelReport) -> Iterator[str]:
    """The lines of a model's tables, one for each workload."""
    yield f"{model.name}: {model.size}, {model.source}"
    if model.interrupted:
        yield "  interrupted: this is what was measured by then"
    for each in model.ceilings:
        rates = [_count(rate) for rate in (each.before, each.after) if rate is not None]
        rate = f"{', then '.join(rates)} TFLOP/s" if rates else f"not measured: {each.error}"
        yield f"  its matrix products alone, {each.precision}, {each.rows:,} tokens: {rate}"
    if model.reference_error:
        yield f"  no cosine everywhere: {model.reference_error}"
    for workload in model.workloads:
        yield ""
        yield f"{model.name}, {workload.name}:"
        yield f"  {len(workload.lengths):,} sequences of {workload.span}"
        rows = [row for row in model.rows if row.workload == workload.name]
        names = [f"{row.contestant}, {row.precision}" for row in rows]
        cells = {name: _cells(row) for name, row in zip(names, rows, strict=True) if row.error is None}
        head = [name for name in _HEAD if any(found[name] != "-" for found in cells.values())]
        if cells:
            shown = [["", *head], *([name, *(found[each] for each in head)] for name, found in cells.items())]
            yield from (f"  {line}".rstrip() for line in columns(shown, 78))
        yield from (f"  {name}: {row.error or row.note}" for name, row in zip(names, rows, strict=True))
    yield from _memory_lines(model)
    for sweep in model.sweeps:
        yield ""
        yield from sweep_lines(model.name, sweep)


def _memory_lines(model: ModelReport) -> Iterator[str]:
    """Tokens of a batch against a GPU's memory, for each precision by the workload that took most for a token."""
    measured: dict[str, Row] = {}
    for row in sorted((row for row in model.rows if row.token_bytes), key=lambda row: row.token_bytes or 0):
        measured[row.precision] = row
    if measured:
        yield ""
        yield f"{model.name}: tokens of a batch that fit, reckoned from the weights and what a token took above"
        yield f"  {'':<6}{'weights, GiB':>13}{'KiB a token':>13}" + "".join(f"{f'{size} GB':>13}" for size in MEMORIES)
    for precision, row in measured.items():
        fitting = "".join(f"{row.fitting(size) or 0:>13,}" for size in MEMORIES)
        yield f"  {precision:<6}{row.weights_gib:>13.2f}{(row.token_bytes or 0) / 1024:>13.1f}{fitting}"


def _cells(row: Row) -> dict[str, str]:
    spread = (max(row.rounds) - min(row.rounds)) / sorted(row.rounds)[len(row.rounds) // 2]
    return {
        "seq/s": _count(row.sequences_per_second),
        "tokens/s": _count(row.tokens_per_second),
        "TFLOP/s": _count(row.tflops),
        "share": "-" if row.share is None else f"{row.share:.2f}",
        "GiB": "-" if row.peak_gib is None else f"{row.peak_gib:.1f}",
        "cosine": _floor(row.least_cosine, 8),
        "apart": _floor(row.least_difference, 6),
        "x rival": "-" if row.times_rival is None else f"{row.times_rival:.2f}",
        "x VirNucPro": "-" if row.times_loop is None else f"{row.times_loop:.1f}",
        "spread": f"{spread:.1%}" if len(row.rounds) > 1 else "one round",
    }


def _floor(value: float | None, digits: int) -> str:
    """A cosine, never rounded up."""
    if value is None or not math.isfinite(value):
        return "-" if value is None else "not finite"
    return f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"


def sweep_lines(name: str, sweep: Sweep) -> Iterator[str]:
    """The lines of one sweep's table."""
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
        yield f"  the smallest batch within 1 % of the best: {sweep.best:,} tokens, found in {sweep.seconds:.0f} s"
    for split in sweep.splits:
        best = ", kept" if split == sweep.best_split else ""
        yield f"  {split.tasks} x {split.threads} threads: {_count(split.tokens_per_second)} tokens/s{best}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
