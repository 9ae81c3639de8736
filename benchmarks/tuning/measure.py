"""The command: checks first, then the speed of both ways, a line of JSON a case."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch

from benchmarks import MOST, Cases
from benchmarks._commands import command
from benchmarks.tuning.checks import check_gradients, check_merging, check_resuming
from benchmarks.tuning.speed import measure_ours, measure_rival, table
from vnp.doctor.engine import find_spec
from vnp.encoders.device import choose_device
from vnp.encoders.models.bare import BareModel, mixed_lengths, random_model
from vnp.files.claims import make_folder
from vnp.finetune.language.recipe import TuningRecipe
from vnp.speed.measure import Clock, describe_machine, measure_ceiling

_MODEL = "esm2_650m"
_TRAINS = ("lora", "all")


@command("python -m benchmarks tuning --out TUNING")
@click.option("--device", default="auto", help="Where to train.")
@click.option("--small", is_flag=True, help="A small model instead of one of 650 million numbers.")
@click.option(
    "--residues",
    type=click.IntRange(1, MOST),
    multiple=True,
    default=(100, 166),
    help="Of the proteins; may be given again.",
)
@click.option("--steps", type=click.IntRange(2, MOST), default=16, help="To train for; the first is not timed.")
@click.option("--tokens", type=click.IntRange(16, MOST), default=32_768, help="In a step.")
@click.option("--seconds", type=click.IntRange(1, MOST), default=230, help="After which no further case begins.")
@click.option("--train", "trains", type=click.Choice(_TRAINS), multiple=True, default=_TRAINS, help="What to train.")
@click.option("--skip-checks", is_flag=True, help="Measure alone.")
@click.option("--profile", is_flag=True, help="Write which kernels a step with adapters spends its time in.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the figures.")
def main(
    device: str, small: bool, residues: tuple[int, ...], steps: int, tokens: int, seconds: int,
    trains: tuple[str, ...], skip_checks: bool, profile: bool, out: Path,
) -> None:  # fmt: skip
    """Train an ESM2 model with random weights by adapters and whole, beside transformers and peft, after checking it.

    The checks: gradients of packed bfloat16 against padded float32, merged adapters against adapters apart, and a
    training that dies and goes on against one that does not. Writes tuning.jsonl as it goes, tuning.json and tuning.md
    in the end; ends with 1 where a check fails or a case cannot run.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    clock = Clock(seconds)
    place = choose_device(device)
    make_folder(out)
    cases = Cases(out / "tuning.jsonl", partial(click.echo, err=True))
    cases.add("machine", partial(describe_machine, place))
    if not skip_checks:
        with tempfile.TemporaryDirectory(prefix="vnp-benchmark-") as folder:
            _check(cases, place, small, Path(folder))
    model = random_model(place, find_spec(_MODEL), full=not small)
    # On the host, as a checkpoint is, so that the GPU holds nothing twice.
    host = replace(model, state={name: tensor.cpu() for name, tensor in model.state.items()})
    del model
    recipe = TuningRecipe(objective="labels", steps=steps, tokens=tokens, warm_up=2, rate=1e-4)
    ceilings = [_ceiling(cases, host)]
    for train in trains:
        asked = replace(recipe, train=train)
        for length in residues:
            _unless_late(cases, clock, f"vnp {train} {length}", partial(measure_ours, host, asked, length))
            share = clock.share(2 * len(residues))
            _unless_late(cases, clock, f"rival {train} {length}", partial(measure_rival, host, asked, length, share))
        if profile and train == "lora":
            _unless_late(cases, clock, "profile", partial(_profile, host, asked, residues[0], out / "profile.txt"))
    ceilings.append(_ceiling(cases, host))
    known = [one for one in ceilings if one]
    ceiling = sum(known) / len(known) if known else None
    text = table(cases.found, ceiling)
    (out / "tuning.md").write_text(text, encoding="utf-8")
    (out / "tuning.json").write_text(json.dumps({"ceiling_tflops": ceiling, "cases": cases.found}, indent=1) + "\n")
    click.echo(text)
    bad = [str(one["case"]) for one in cases.found if "error" in one or not one.get("passes", True)]
    click.echo(f"failed: {', '.join(bad)}" if bad else "all checks passed")
    sys.exit(1 if bad else 0)


def _check(cases: Cases, place: torch.device, small: bool, states: Path) -> None:
    """The small model as it is, and layers as wide as the large one's as they are compiled."""
    cuda = place.type == "cuda"
    models = {"small": (random_model(place, find_spec(_MODEL)), False)}
    if not small:
        models["wide"] = random_model(place, find_spec(_MODEL), full=True, layers=2), cuda
    lengths = mixed_lengths(24, 300, 1)
    for size, (model, compiled) in models.items():
        for train in _TRAINS:
            for objective in ("labels", "mlm"):
                recipe = TuningRecipe(objective=objective, train=train)
                name = f"gradients {size} {train} {objective}"
                cases.add(name, partial(check_gradients, model, recipe, lengths, compiled=compiled))
        cases.add(f"merging {size}", partial(check_merging, model, TuningRecipe(train="lora"), lengths))
        for train in _TRAINS:
            # Another share of dropout would be compiled again.
            recipe = TuningRecipe(train=train, tokens=2048, rate=1e-3, dropout=0.0 if compiled else 0.1)
            folder = states / f"resuming-{size}-{train}"
            many = mixed_lengths(200, 300, 2)
            cases.add(
                f"resuming {size} {train}", partial(check_resuming, model, recipe, many, folder, compiled=compiled)
            )


def _ceiling(cases: Cases, model: BareModel) -> float | None:
    def measure() -> Mapping[str, object]:
        return {"tflops_of_products": measure_ceiling(model, "bf16" if model.device.type == "cuda" else "fp32")}

    found = cases.add("matrix products alone", measure).get("tflops_of_products")
    return found if isinstance(found, float) else None


def _unless_late(cases: Cases, clock: Clock, name: str, function: Callable[[], Mapping[str, object]]) -> None:
    cases.add(name, function if clock.left else lambda: {"left_out": "no time left"})


def _profile(model: BareModel, recipe: TuningRecipe, residues: int, file: Path) -> dict[str, object]:
    """Where three steps spend their time, once all is compiled and allocated."""
    cuda = model.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    seen = torch.profiler.profile(activities=kinds)

    def watch(line: str) -> None:
        if line.startswith("step 3:"):
            seen.start()
        elif line.startswith("step 6:"):
            seen.stop()

    measure_ours(model, replace(recipe, steps=6), residues, watch)
    found = seen.key_averages()
    parts = [
        found.table(sort_by=by, row_limit=40, max_name_column_width=90)
        for by in (["self_device_time_total"] if cuda else []) + ["self_cpu_time_total"]
    ]
    file.write_text("\n".join(parts), encoding="utf-8")
    return {"file": file.name}
