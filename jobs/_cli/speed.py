"""The body of ``benchmark speed``: the encoders alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli.progress import Progress
from jobs._cli.signals import interrupt_when_told
from vnp.errors import UsageError

if TYPE_CHECKING:
    import torch

    from vnp.speed.compare import Asked
    from vnp.speed.measure import Clock
    from vnp.speed.results import ModelReport
    from vnp.speed.workloads import Workload

DEFAULT_MODELS = ("fastesm2_650", "dnabert_s")
# Tokens of each workload: whole batches of the default size on a GPU, and enough of them for a second or so.
_GPU_TOKENS = {"fastesm2_650": 260_000, "esm2_650m": 260_000, "esm2_3b": 130_000, "dnabert_s": 1_040_000}
_CPU_TOKENS, _CPU_FULL_TOKENS = 16_000, 1_600
_GPU_SECONDS, _QUICK_SECONDS = 240.0, 60.0


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for; None stands for what suits the machine."""

    models: tuple[str, ...]
    precisions: tuple[str, ...]
    lengths: Path | None
    tokens: int | None
    token_budget: int | None
    weights: Path | None
    device: str
    repeats: int | None
    seconds: float | None
    quick: bool
    full: bool
    tune: bool


def run_speed(*, out: Path | None, as_json: bool, encoder_only: bool, **asked: Any) -> None:
    """Do what the command line asked for.

    Args:
        out: folder for the results.
        as_json: print JSON.
        encoder_only: the encoders alone, instead of extract.
        asked: the other options.

    Raises:
        UsageError: an option does not fit the others.
    """
    other = ("reads", "gpus", "shards", "cold", "scratch")
    own = {name: asked.pop(name) for name in other}
    renamed = {"models": asked.pop("model"), "precisions": asked.pop("precision"), "seconds": asked.pop("time")}
    wanted = Wanted(**renamed, **asked)
    if encoder_only:
        given = [name for name in other if own[name] not in (None, False, "1")]
        if given:
            raise UsageError(f"--{given[0].replace('scratch', 'folder')} goes with --end-to-end")
        measure_speed(wanted, out, as_json)
        return
    from jobs._cli.speed_run import measure_runs

    measure_runs(wanted, out, as_json, **own)


def measure_speed(wanted: Wanted, out: Path | None, as_json: bool) -> None:
    """Measure the encoders, show tables, and write what was asked for.

    Args:
        wanted: what to measure.
        out: folder for ``speed.json``, ``speed.tsv`` and ``speed.png``.
        as_json: print JSON instead of tables.

    Raises:
        UsageError: an option does not fit the others.
        EncoderError: the device is not there.
    """
    from vnp.encoders.build import find_device
    from vnp.encoders.registry import choose_device
    from vnp.speed.machine import describe_machine
    from vnp.speed.measure import Clock
    from vnp.speed.results import as_json as to_json
    from vnp.speed.results import table, write

    device = find_device(choose_device(wanted.device, "auto")[0])
    machine = describe_machine(device)
    click.echo(f"{machine['name']}, {machine['processor']}, torch {machine['versions']['torch']}", err=True)  # type: ignore[index]
    full = wanted.full or device.type == "cuda"
    if not full:
        click.echo("on a CPU: small models with random weights; --full measures the published sizes", err=True)
    clock = Clock(wanted.seconds or (_QUICK_SECONDS if wanted.quick else _GPU_SECONDS))
    found: list[ModelReport] = []
    names = _names(wanted)
    interrupted: KeyboardInterrupt | None = None
    try:
        with interrupt_when_told(), Progress("measuring", None, "steps") as progress:
            steps = iter(range(1, 1_000_000))
            for number, name in enumerate(names):
                report = _measure_one(
                    name, device, full, wanted, clock.share(len(names) - number),
                    lambda what: progress.to(next(steps), f": {what}"),
                )  # fmt: skip
                found.append(report)
                if not as_json:
                    click.echo("\n".join(table(report)) + "\n")
                if report.interrupted:
                    raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        if not found:
            raise
        interrupted = error
    if out is not None:
        for path in write(out, machine, found):
            click.echo(f"wrote {path}", err=True)
    if as_json:
        click.echo(json.dumps(to_json(machine, found), indent=2))
    if wanted.tune and not _keep(found, device) and interrupted is None:
        raise UsageError("nothing could be tuned: no batch was measured; the lines above say why")
    if interrupted is not None:
        raise interrupted


def _names(wanted: Wanted) -> tuple[str, ...]:
    """The models; a file of lengths is of proteins or of DNA, so it goes with one kind of them."""
    if wanted.lengths is None:
        return wanted.models or DEFAULT_MODELS
    names = wanted.models or DEFAULT_MODELS[:1]
    if len({name == "dnabert_s" for name in names}) > 1:
        raise UsageError("--lengths is of proteins or of DNA: give --model dnabert_s alone, or models of proteins")
    return names


def _measure_one(name: str, device: torch.device, full: bool, wanted: Wanted, clock: Clock, say: object) -> ModelReport:
    from vnp.speed.compare import compare
    from vnp.speed.subject import find_subject

    say(f"{name}: weights")  # type: ignore[operator]
    subject = find_subject(name, str(device), weights=wanted.weights, full=full)
    asked = _asked(wanted, device)
    large = full or not subject.is_random
    tokens = wanted.tokens or (
        _GPU_TOKENS[name] if device.type == "cuda" else _CPU_FULL_TOKENS if large else _CPU_TOKENS
    )
    return compare(subject, _workloads(wanted, subject.reads_dna, tokens), asked, clock, say)  # type: ignore[arg-type]


def _asked(wanted: Wanted, device: torch.device) -> Asked:
    from vnp.speed.compare import Asked
    from vnp.speed.machine import default_precisions

    return Asked(
        precisions=wanted.precisions or default_precisions(device, few=wanted.quick),
        token_budget=wanted.token_budget,
        repeats=wanted.repeats or (3 if wanted.quick else 5),
        rival_seconds=1.5 if wanted.quick else 5.0,
        ceiling_seconds=0.5 if wanted.quick else 1.0,
        tune=wanted.tune,
    )


def _workloads(wanted: Wanted, dna: bool, tokens: int) -> list[Workload]:
    from vnp.speed.workloads import default_workloads, file_workload

    if wanted.lengths is not None:
        return [file_workload(wanted.lengths, dna=dna, tokens=tokens)]
    return default_workloads(dna=dna, tokens=tokens, few=wanted.quick)


def _keep(found: list[ModelReport], device: torch.device) -> int:
    """Write the best budgets to the user's file, where extract finds them; returns how many there are."""
    from datetime import UTC, datetime

    import torch

    from vnp.encoders.tuned import TunedBudget, write_tuned
    from vnp.speed.machine import device_name

    kept = 0
    for model in found:
        for sweep in model.sweeps:
            best = next((point for point in sweep.points if point.budget == sweep.best), None)
            if sweep.over != "budget" or best is None:
                continue
            budget = TunedBudget(
                tokens=best.budget,
                tokens_per_second=round(best.tokens_per_second, 1),
                peak_gib=None if best.peak_gib is None else round(best.peak_gib, 2),
                measured=datetime.now(UTC).isoformat(timespec="seconds"),
                torch=torch.__version__,
            )
            path = write_tuned(device_name(device), model.name, sweep.precision, budget)
            click.echo(f"{model.name}, {sweep.precision}: {best.budget:,} tokens a batch, kept in {path}", err=True)
            kept += 1
    return kept
