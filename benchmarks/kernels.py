"""Checks every kernel against padded float32 attention with random weights, and what happens when memory runs out.

A small model of each kind; ``--full`` runs the published sizes on a GPU. How fast they are is measured by
``python -m jobs.benchmark speed``.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks._commands import command
from vnp.doctor.engine import Reference, compare_packed, find_spec
from vnp.encoders.build import DTYPES
from vnp.encoders.device import choose_device
from vnp.encoders.models.bare import BareModel, random_model
from vnp.encoders.spec import TRAINED, weighted
from vnp.errors import VnpError

_MODELS = [*(one.name for one in TRAINED), *(one.name for one in weighted())]


@command("python -m benchmarks kernels --full --kernel fused")
@click.option("--device", default="auto", help="Where to check.")
@click.option("--precision", type=click.Choice(list(DTYPES)), multiple=True, help="Only these.")
@click.option("--family", type=click.Choice(_MODELS), multiple=True, help="Only these, or one encoder of one.")
@click.option("--kernel", multiple=True, help="Only these instead of all that run here.")
@click.option("--full", is_flag=True, help="The published sizes instead of small ones.")
@click.option("--longest", type=click.IntRange(3), default=1500, help="Tokens of the longest sequence.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the results as JSON.")
def main(
    device: str, precision: tuple[str, ...], family: tuple[str, ...], kernel: tuple[str, ...], full: bool, longest: int,
    out: Path | None,
) -> None:  # fmt: skip
    """Check that every kernel gives right numbers on this device; ends with 1 where one does not."""
    place = choose_device(device)
    report = _Report()
    report.add("environment", partial(_environment, place))
    for name in family or [one.name for one in TRAINED]:
        model = random_model(place, find_spec(name), full=full)
        _check_all(report, model, longest, precision, kernel)
        if place.type == "cuda":
            report.add("memory", partial(starve, model, "fp16"))
    click.echo("all checks passed" if report.good else "a check FAILED")
    if out is not None:
        out.write_text(json.dumps(report.results, indent=1) + "\n")
    sys.exit(0 if report.good else 1)


class _Report:
    """Prints each result as it comes; one that fails does not keep the next from running."""

    def __init__(self) -> None:
        self.results: dict[str, list[dict[str, object]]] = {}
        self.good = True

    def add(self, kind: str, function: Callable[[], Mapping[str, object]]) -> None:
        try:
            record = dict(function())
        except (VnpError, RuntimeError) as error:
            record = {"passes": False, "error": f"{type(error).__name__}: {error}"}
        self.good &= bool(record.get("passes", True))
        self.results.setdefault(kind, []).append(record)
        words = (
            f"{key}={value:.8g}" if isinstance(value, float) else f"{key}={value}" for key, value in record.items()
        )
        click.echo(f"{kind}: {'  '.join(words)}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _check_all(report: _Report, model: BareModel, longest: int, precisions: Sequence[str], only: Sequence[str]) -> None:
    on_gpu = model.device.type == "cuda"
    reference = Reference.make(model, 200, longest)
    for precision in precisions or (("fp16", "bf16", "fp32") if on_gpu else ("fp32",)):
        half = on_gpu and precision != "fp32"
        # 8 bits have kernels of their own alone.
        kernels = ["auto"] if precision == "fp8" else ["fused", "packed", "triton"] if half else ["packed"]
        for kernel in only or dict.fromkeys(kernels):
            report.add("check", partial(_checked, reference, precision, kernel))


def _checked(reference: Reference, precision: str, kernel: str) -> dict[str, object]:
    check = compare_packed(reference, precision, kernel)
    return {"passes": check.passes, **asdict(check)}


def starve(model: BareModel, precision: str) -> dict[str, object]:
    """Take most of the GPU's memory away, and see whether the encoder goes on with smaller batches."""
    encoder = model.encoder(precision, "auto")
    ids = model.sequences(np.full(2 * encoder.token_budget // 100, 100, np.int64), 0)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(encoder.device)
    torch.cuda.reset_peak_memory_stats(encoder.device)
    plenty = encoder.embed_ids(ids)
    peak = torch.cuda.max_memory_allocated(encoder.device)
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(encoder.device).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 0.4 * (peak - held)) / whole, encoder.device)
    try:
        scarce = encoder.embed_ids(ids)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, encoder.device)
    return {
        "family": model.spec.family.name,
        "events": encoder.events,
        "max_abs": float(np.abs(plenty - scarce).max()),
        "passes": bool(encoder.events) and bool(np.allclose(plenty, scarce, atol=1e-2)),
    }


def _environment(device: torch.device) -> dict[str, object]:
    try:
        compiler = metadata.version("triton")
    except metadata.PackageNotFoundError:
        compiler = "none"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {"torch": torch.__version__, "triton": compiler, "device": str(device), "name": name}
