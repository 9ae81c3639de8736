"""``benchmark speed``: its options, and encoders alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._cli.command import echo
from jobs._cli.options import FILE, FOLDER, together
from jobs._cli.progress import Progress
from jobs._cluster.task import interrupt_when_told
from vnp.encoders.spec import DEFAULTS, SIXFRAME, registered, spec, weighted
from vnp.encoders.weights.folders import locate_weighted
from vnp.errors import UsageError
from vnp.runs.planning.options import MOST_TOKENS

if TYPE_CHECKING:
    import torch

    from vnp.encoders.models.bare import BareModel
    from vnp.speed.encoders import Course, ModelReport, Row, Say, SpeedRequest
    from vnp.speed.measure import Clock

Rivals = Callable[["BareModel", "SpeedRequest", "Clock", "Say", "Sequence[Course]"], "Iterable[Row]"]

WINDOWS = "sixframe"
# Tokens of each workload on a CPU: enough of them for a second or so; on a GPU each encoder has its own number.
_CPU_TOKENS, _CPU_FULL_TOKENS, _CPU_BASES = 16_000, 1_600, 120_000
_GPU_TOKENS, _LEAST_TOKENS = 260_000, 500
_SECONDS, _QUICK_SECONDS = 240.0, 60.0


speed_options = together(
    click.option(
        "--model",
        "models",
        metavar="NAME|FOLDER",
        multiple=True,
        help=f"What to measure: {', '.join(one.name for one in weighted())}, {WINDOWS}, or the folder of a model; may "
        f"be given again.  [default: {DEFAULTS['protein']} and {DEFAULTS['dna']}]",
    ),
    click.option(
        "--precision",
        "precisions",
        type=click.Choice(["fp16", "bf16", "fp32", "fp8", "int8"]),
        multiple=True,
        help="Of our encoders, the most important first; may be given again.  [default: fp16, bf16; on a CPU fp32, of "
        "sixframe int8 as well]",
    ),
    click.option(
        "--lengths",
        type=FILE,
        help=f"FASTA file to take lengths from: proteins, or DNA with --model {DEFAULTS['dna']} or {WINDOWS}.  "
        "[default: the bundled sample]",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(1, MOST_TOKENS),
        help=f"Of each set of lengths, about; of {WINDOWS} bases.  [default: by device and model]",
    ),
    click.option(
        "--token-budget",
        type=click.IntRange(1, MOST_TOKENS),
        help="Tokens of one of our batches.  [default: the encoder's]",
    ),
    click.option(
        "--weights",
        type=FOLDER,
        help="Folder of encoder weights.  [default: where jobs.fetch puts them; encoders alone have random ones else]",
        envvar="VNP_WEIGHTS",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to measure."),
    click.option(
        "--repeats", type=click.IntRange(min=1), help="Rounds; the median counts.  [default: 5; 3 with --quick]"
    ),
    click.option(
        "--time",
        "seconds",
        type=click.FloatRange(min=1),
        help="Seconds to keep within, about.  [default: 240; 60 with --quick]",
    ),
    click.option("--quick", is_flag=True, help="Fewer lengths, rounds and precisions."),
    click.option("--full", is_flag=True, help="The published sizes on a CPU too, where small ones are the default."),
    click.option(
        "--tune",
        is_flag=True,
        help="Find the best token budget of each precision, and on a CPU how many threads a task should have, in half "
        "a minute each, and keep them for such a device.",
    ),
)


speed_out = click.option("--out", type=FOLDER, help="Folder for speed.json and speed.tsv.")


@dataclass(frozen=True)
class SpeedOptions:
    """The options of encoders alone; None stands for what suits the machine."""

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
    out: Path | None
    as_json: bool

    def share(self, device: str) -> float:
        """Of the usual work, the part to do where little time is given: on a CPU a single round can take longer."""
        return 1.0 if device == "cuda" or self.seconds is None else min(1.0, self.seconds / _SECONDS)


def measure_speed(given: SpeedOptions, rivals: Rivals | None = None) -> None:
    """Measure the encoders, show tables, and write what was asked for."""
    begun = time.monotonic()
    # Importing counts too: it takes seconds.
    from vnp.encoders.device import choose_device
    from vnp.speed.measure import Clock, describe_machine
    from vnp.speed.results import as_json, table, write

    device = choose_device(given.device)
    machine = describe_machine(device)
    echo(f"{machine['name']}, {machine['processor']}, torch {machine['versions']['torch']}", err=True)  # type: ignore[index]
    small = device.type != "cuda" and not (given.full or given.tune)
    if small and any(registered(name) and name != WINDOWS for name in _names(given)):
        echo("on a CPU: small models with random weights; --full measures the published sizes", err=True)
    seconds = given.seconds or (_QUICK_SECONDS if given.quick else _SECONDS)
    clock = Clock(seconds - (time.monotonic() - begun))
    found: list[ModelReport] = []
    names = _names(given)
    for name in names:
        locate_weighted(name, given.weights)
    interrupted: KeyboardInterrupt | None = None
    try:
        with interrupt_when_told(), Progress("measuring", None, "steps") as progress:
            steps = iter(range(1, 1_000_000))
            for number, name in enumerate(names):
                report = _measure_one(
                    name, device, given, rivals, clock.share(len(names) - number),
                    lambda what: progress.to(next(steps), f": {what}"),
                )  # fmt: skip
                found.append(report)
                if not given.as_json:
                    echo("\n".join(table(report)) + "\n")
                if report.interrupted:
                    raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        if not found:
            raise
        interrupted = error
    if given.out is not None:
        for path in write(given.out, machine, found):
            echo(f"wrote {path}", err=True)
    if given.as_json:
        echo(json.dumps(as_json(machine, found), indent=2))
    if given.tune and not _keep(found, device) and interrupted is None:
        raise UsageError("nothing could be tuned: no batch was measured; the lines above say why")
    if interrupted is not None:
        raise interrupted


def _names(given: SpeedOptions) -> tuple[str, ...]:
    """The models; a file of lengths is of proteins or of DNA, so it goes with one kind of them."""
    if given.lengths is None:
        return given.models or (DEFAULTS["protein"], DEFAULTS["dna"])
    names = given.models or (DEFAULTS["protein"],)
    if len({molecule_of(name, given) for name in names}) > 1:
        alone = f"give --model {DEFAULTS['dna']} alone, or models of proteins"
        raise UsageError(f"--lengths is of proteins or of DNA: {alone}")
    return names


def molecule_of(name: str, given: SpeedOptions) -> str:
    """What a model reads."""
    return locate_weighted(name, given.weights)[0].molecule


def _measure_one(
    name: str, device: torch.device, given: SpeedOptions, rivals: Rivals | None, clock: Clock,
    say: Callable[[str], None],
) -> ModelReport:  # fmt: skip
    from vnp.speed.encoders import measure_model
    from vnp.speed.measure import default_precisions
    from vnp.speed.workloads import default_workloads, file_workload, find_model

    say(f"{name}: weights")
    one, folder = locate_weighted(name, given.weights)
    if one.family is SIXFRAME:
        return _measure_windows(device, replace(given, weights=folder or given.weights), clock, say)
    # A budget is kept for an encoder of its own size.
    full = given.full or given.tune or device.type == "cuda"
    model = find_model(name, str(device), weights=given.weights, full=full)
    on_cpu = _CPU_FULL_TOKENS if full or not model.is_random else _CPU_TOKENS
    tokens = given.tokens or (model.spec.timed_tokens or _GPU_TOKENS if device.type == "cuda" else _part(on_cpu, given))
    dna = model.spec.molecule == "dna"
    if given.lengths is not None:
        workloads = [file_workload(given.lengths, dna=dna, tokens=tokens)]
    else:
        workloads = default_workloads(dna=dna, tokens=tokens, few=given.quick)
    request = _request(given, default_precisions(device, few=given.quick), given.share(device.type))
    others = partial(rivals, model, request, clock, say) if rivals else (lambda _: ())
    return measure_model(model, workloads, request, clock, say, others)


def _part(tokens: int, given: SpeedOptions) -> int:
    return max(_LEAST_TOKENS, round(tokens * given.share("cpu")))


def _request(given: SpeedOptions, precisions: tuple[str, ...], share: float) -> SpeedRequest:
    from vnp.speed.encoders import SpeedRequest

    return SpeedRequest(
        precisions=given.precisions or precisions,
        token_budget=given.token_budget,
        repeats=given.repeats or (3 if given.quick else 5),
        ceiling_seconds=max(0.1, share * (0.5 if given.quick else 1.0)),
        sample=max(10, round(200 * share)),
        tune=given.tune,
    )


def _measure_windows(
    device: torch.device, given: SpeedOptions, clock: Clock, say: Callable[[str], None]
) -> ModelReport:
    from vnp.speed.windows import default_windows, measure_windows, window_precisions
    from vnp.speed.workloads import file_workload

    bases = given.tokens or (spec(WINDOWS).timed_tokens if device.type == "cuda" else _part(_CPU_BASES, given))
    if given.lengths is not None:
        workloads = [file_workload(given.lengths, dna=True, tokens=bases, bases=True)]
    else:
        workloads = default_windows(bases, few=given.quick)
    request = _request(given, window_precisions(device, few=given.quick), given.share(device.type))
    return measure_windows(WINDOWS, device, given.weights, workloads, request, clock, say)


def _keep(found: list[ModelReport], device: torch.device) -> int:
    """Write the best budgets to the user's file, where extract finds them; returns how many there are."""
    import torch

    from vnp.encoders.device import device_name
    from vnp.encoders.measured import TunedBudget, write_tuned

    kept = 0
    for name, sweep in ((model.name, each) for model in found for each in model.sweeps):
        best = next((point for point in sweep.points if point.budget == sweep.best), None)
        if best is None:
            continue
        budget = TunedBudget(
            tokens=best.budget,
            tokens_per_second=round(best.tokens_per_second, 1),
            peak_gib=None if best.peak_gib is None else round(best.peak_gib, 2),
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
            torch=torch.__version__,
            threads=None if sweep.best_split is None else sweep.best_split.threads,
        )
        path = write_tuned(device_name(device), name, sweep.precision, budget)
        threads = f", {budget.threads} threads a task" if budget.threads else ""
        echo(f"{name}, {sweep.precision}: {best.budget:,} tokens a batch{threads}, kept in {path}", err=True)
        kept += 1
    return kept
