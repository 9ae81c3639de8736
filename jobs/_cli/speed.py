"""``benchmark speed``: its options; encoders alone; and ``--end-to-end``, which runs extract as a user would."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs._cli.command import echo
from jobs._cli.progress import Progress, duration
from jobs._cluster.task import interrupt_when_told
from jobs._cluster.worker import SAFELY, environment
from vnp.encoders.spec import DEFAULTS, spec, weighted
from vnp.encoders.weights.folders import weights_root
from vnp.errors import RunError, UsageError
from vnp.files.claims import make_folder
from vnp.files.records import write_json
from vnp.runs.planning.options import MOST_SHARDS, MOST_TOKENS

if TYPE_CHECKING:
    import torch

    from vnp.encoders.models.bare import BareModel
    from vnp.speed.encoders import Course, ModelReport, Row, Say, SpeedRequest
    from vnp.speed.measure import Clock
    from vnp.speed.runs import RunFigures

_Function = TypeVar("_Function", bound=Callable[..., Any])
Rivals = Callable[["BareModel", "SpeedRequest", "Clock", "Say", "Sequence[Course]"], "Iterable[Row]"]

MODELS = tuple(one.name for one in weighted())
# Tokens of each workload on a CPU: enough of them for a second or so; on a GPU each encoder has its own number.
_CPU_TOKENS, _CPU_FULL_TOKENS = 16_000, 1_600
_SECONDS, _QUICK_SECONDS = 240.0, 60.0
_GPU_READS, _CPU_READS, _COLD_READS = 1_000_000, 300, 5_000
_SHARDS_A_GPU = 4
_CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_LOG_LINES = 12
_FOLDER = click.Path(path_type=Path, file_okay=False)


def _together(*options: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


speed_options = _together(
    click.option(
        "--model",
        "models",
        type=click.Choice(MODELS),
        multiple=True,
        help=f"What to measure; may be given again.  [default: {DEFAULTS['protein']} and {DEFAULTS['dna']}]",
    ),
    click.option(
        "--precision",
        "precisions",
        type=click.Choice(["fp16", "bf16", "fp32", "fp8"]),
        multiple=True,
        help="Of our encoders, the most important first; may be given again.  [default: fp16, bf16; on a CPU fp32]",
    ),
    click.option(
        "--lengths",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"FASTA file to take lengths from: proteins, or DNA with --model {DEFAULTS['dna']}.  "
        "[default: the bundled sample]",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(1, MOST_TOKENS),
        help="Of each set of lengths, about.  [default: by device and model]",
    ),
    click.option(
        "--token-budget",
        type=click.IntRange(1, MOST_TOKENS),
        help="Tokens of one of our batches.  [default: the encoder's]",
    ),
    click.option(
        "--weights",
        type=_FOLDER,
        help="Folder of encoder weights.  [default: where jobs.fetch puts them, else random ones]",
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
    click.option("--tune", is_flag=True, help="Keep the best token budget of each precision, for encoders to use."),
)
end_to_end_options = _together(
    click.option(
        "--encoder-only/--end-to-end", default=True, help="Encoders alone, or extract from FASTA to sealed shards."
    ),
    click.option(
        "--reads",
        type=click.IntRange(1, 1_000_000_000),
        help="--end-to-end: reads of 150 bases.  [default: 1,000,000 on a GPU, 300 on a CPU]",
    ),
    click.option("--gpus", default="1", help="--end-to-end: numbers of GPUs, one run each, such as 1,2."),
    click.option(
        "--shards",
        type=click.IntRange(1, MOST_SHARDS),
        help="--end-to-end: shards.  [default: four for each GPU; 1 on a CPU]",
    ),
    click.option("--cold", is_flag=True, help="--end-to-end: a short run with empty kernel caches first."),
    click.option(
        "--folder",
        "--scratch",
        "scratch",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="--end-to-end: where to put reads, weights and runs, which are removed again.  [default: temporary]",
    ),
)


speed_out = click.option("--out", type=_FOLDER, help="Folder for speed.json and speed.tsv.")


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


def measure_speed(given: SpeedOptions, rivals: Rivals | None = None) -> None:
    """Measure the encoders, show tables, and write what was asked for."""
    from vnp.encoders.device import choose_device
    from vnp.speed.measure import Clock, describe_machine
    from vnp.speed.results import as_json, table, write

    device = choose_device(given.device)
    machine = describe_machine(device)
    echo(f"{machine['name']}, {machine['processor']}, torch {machine['versions']['torch']}", err=True)  # type: ignore[index]
    if device.type != "cuda" and not given.full:
        echo("on a CPU: small models with random weights; --full measures the published sizes", err=True)
    clock = Clock(given.seconds or (_QUICK_SECONDS if given.quick else _SECONDS))
    found: list[ModelReport] = []
    names = _names(given)
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
    if len({spec(name).molecule for name in names}) > 1:
        alone = f"give --model {DEFAULTS['dna']} alone, or models of proteins"
        raise UsageError(f"--lengths is of proteins or of DNA: {alone}")
    return names


def _measure_one(
    name: str, device: torch.device, given: SpeedOptions, rivals: Rivals | None, clock: Clock,
    say: Callable[[str], None],
) -> ModelReport:  # fmt: skip
    from vnp.speed.encoders import SpeedRequest, measure_model
    from vnp.speed.measure import default_precisions
    from vnp.speed.workloads import default_workloads, file_workload, find_model

    say(f"{name}: weights")
    full = given.full or device.type == "cuda"
    model = find_model(name, str(device), weights=given.weights, full=full)
    on_cpu = _CPU_FULL_TOKENS if full or not model.is_random else _CPU_TOKENS
    tokens = given.tokens or (model.spec.timed_tokens if device.type == "cuda" else on_cpu)
    dna = model.spec.molecule == "dna"
    if given.lengths is not None:
        workloads = [file_workload(given.lengths, dna=dna, tokens=tokens)]
    else:
        workloads = default_workloads(dna=dna, tokens=tokens, few=given.quick)
    request = SpeedRequest(
        precisions=given.precisions or default_precisions(device, few=given.quick),
        token_budget=given.token_budget,
        repeats=given.repeats or (3 if given.quick else 5),
        ceiling_seconds=0.5 if given.quick else 1.0,
        tune=given.tune,
    )
    others = partial(rivals, model, request, clock, say) if rivals else (lambda _: ())
    return measure_model(model, workloads, request, clock, say, others)


def _keep(found: list[ModelReport], device: torch.device) -> int:
    """Write the best budgets to the user's file, where extract finds them; returns how many there are."""
    import torch

    from vnp.encoders.measured import TunedBudget, write_tuned
    from vnp.speed.measure import device_name

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
        )
        path = write_tuned(device_name(device), name, sweep.precision, budget)
        echo(f"{name}, {sweep.precision}: {best.budget:,} tokens a batch, kept in {path}", err=True)
        kept += 1
    return kept


def measure_runs(
    given: SpeedOptions, *, reads: int | None, gpus: str, shards: int | None, cold: bool, scratch: Path | None
) -> None:
    """Run extract on made-up reads, once for each number of GPUs, and show what it took."""
    from vnp.encoders.device import choose_device
    from vnp.speed.measure import describe_machine
    from vnp.speed.runs import write_reads

    device = choose_device(given.device)
    visible, counts = _gpus(gpus, device.type)
    many = reads or (_GPU_READS if device.type == "cuda" else _CPU_READS)
    if len(given.precisions) > 1:
        raise UsageError("--end-to-end takes one --precision")
    dna, protein = encoders_of(given)
    precision = given.precisions[0] if given.precisions else "auto"
    weights = weights_root(given.weights)
    machine = describe_machine(device)
    result: dict[str, Any] = {
        "schema": "vnp-end-to-end/1",
        "machine": machine,
        "encoders": {"dna": dna, "protein": protein, "precision": precision, "source": f"weights of {weights}"},
        "reads": many,
        "runs": [],
        "times_one_gpu": {},
    }
    words = ["--dna", dna, "--protein", protein, "--precision", precision, "--weights", str(weights)]
    words += ["--device", device.type, "--cluster", "local"]
    if given.token_budget is not None:
        words += ["--token-budget", str(given.token_budget)]
    if given.out is not None:
        make_folder(given.out)
    if not given.as_json:
        echo(f"{dna} and {protein}, {precision}, weights of {weights}, {machine['name']}")

    def note(name: str, figures: RunFigures) -> None:
        # At once: what comes after it may take long, and be ended.
        result["runs"].append({"name": name, **asdict(figures)})
        result["times_one_gpu"] = _times(result["runs"])
        if given.out is not None:
            write_json(given.out / "end_to_end.json", result)
        if not given.as_json:
            echo("\n".join(["", *_table(name, figures)]))

    try:
        with (
            interrupt_when_told(),
            tempfile.TemporaryDirectory(prefix="vnp-speed-", dir=scratch) as place,
            Progress("end to end", None, "steps") as progress,
        ):
            room, steps = Path(place), iter(range(1, 1_000_000))

            def one_run(what: str, few: int, parts: int, used: Sequence[str], caches: Mapping[str, str]) -> RunFigures:
                inputs = room / f"reads-{few}.fa"
                if not inputs.exists():
                    progress.to(next(steps), f": {few:,} reads")
                    write_reads(inputs, few)
                progress.to(next(steps), f": {what}")
                return _run([str(inputs), "--shards", str(parts), *words], room, used, caches)

            caches: dict[str, str] = {}
            if cold:
                caches = {name: str(room / name.lower()) for name in _CACHES}
                few = min(many, _COLD_READS)
                for state in ("cold", "warm"):
                    what = f"extract of few reads, {state} caches"
                    note(f"{state} caches, few reads", one_run(what, few, 1, visible[:1], caches))
            for count in counts:
                parts = shards or (_SHARDS_A_GPU * max(counts) if count else 1)
                what = f"extract of {many:,} reads, {count or 'no'} GPU"
                note(f"{many:,} reads", one_run(what, many, parts, visible[:count], caches))
    except KeyboardInterrupt:
        if given.as_json and result["runs"]:
            echo(json.dumps(result, indent=2))
        raise
    if given.out is not None:
        echo(f"wrote {given.out / 'end_to_end.json'}", err=True)
    echo(json.dumps(result, indent=2) if given.as_json else "\n".join(_ratios(result)))


def encoders_of(given: SpeedOptions) -> tuple[str, str]:
    """The DNA and the protein encoder."""
    proteins = [name for name in given.models if spec(name).molecule == "protein"] or [DEFAULTS["protein"]]
    if len(proteins) > 1:
        raise UsageError(f"--end-to-end takes one model of proteins, not {', '.join(proteins)}")
    return DEFAULTS["dna"], proteins[0]


def _gpus(text: str, device: str) -> tuple[list[str], list[int]]:
    """The GPUs that may be used, and how many of them each run gets; on a CPU one run without any."""
    from jobs._cluster.local import visible_gpus

    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,5}", part) for part in parts):
        raise UsageError(f"--gpus takes numbers from 1 on, separated by commas, such as 1,2, not {text!r}")
    counts = [int(part) for part in parts]
    if device != "cuda":
        if counts != [1]:
            raise UsageError(f"--gpus {text}: this runs on the CPU")
        return [], [0]
    visible = visible_gpus()
    if max(counts) > len(visible):
        raise UsageError(f"--gpus {text}: this machine shows {len(visible)} GPUs")
    return visible, counts


def _run(words: Sequence[str], room: Path, gpus: Sequence[str], caches: Mapping[str, str]) -> RunFigures:
    """Run extract in a process of its own; its run is gone again afterwards, since the next may need the room."""
    from vnp.speed.runs import read_figures

    run, log, settings = room / "run", room / "run.log", room / "none.toml"
    settings.touch()
    command = [sys.executable, *SAFELY, "jobs.extract", *words, "--out", str(run), "--config", str(settings)]
    variables = {**environment(), **caches}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    begun = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    ended = time.time()
    if process.returncode != 0:
        said = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise RunError(f"extract ended with {process.returncode}; its last lines:\n" + "\n".join(said))
    figures = read_figures(run, gpus=len(gpus), begun=begun, ended=ended)
    shutil.rmtree(run)
    return figures


def _times(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times as fast as on one GPU the same reads were on more."""
    whole = [run for run in runs if "few" not in run["name"]]
    one = next((run for run in whole if run["gpus"] == 1), None)
    return {
        str(run["gpus"]): {
            "wall": one["wall"] / run["wall"],
            "after_loading": run["working_rows_per_second"] / one["working_rows_per_second"],
        }
        for run in whole
        if one is not None and run["gpus"] > 1
    }


def _table(name: str, run: RunFigures) -> Iterator[str]:
    yield f"{name}, {run.gpus} GPU, {run.shards} shards, {run.tasks} tasks" if run.gpus else f"{name}, no GPU"
    yield from (f"  {what:<46}{value}" for what, value in _lines(run))


def _ratios(result: Mapping[str, Any]) -> Iterator[str]:
    for count, times in result["times_one_gpu"].items():
        yield (
            f"\n{count} GPUs against 1: {times['wall']:.2f} times as fast from start to end, "
            f"{times['after_loading']:.2f} times once encoders are loaded"
        )


def _lines(run: RunFigures) -> Iterator[tuple[str, str]]:
    yield "from start to end", f"{run.wall:.1f} s ({duration(run.wall)})"
    yield "rows", f"{run.rows:,}"
    yield "planning", f"{run.planning:.1f} s"
    yield "from the plan to the first task", f"{run.starting:.0f} s"
    yield "loading encoders, the slowest task", f"{run.loading:.1f} s"
    yield "from the plan to the first batch", f"{run.first_batch:.1f} s"
    if run.weights is not None:
        yield "  beyond reading the weights", f"{max(0.0, run.first_batch - run.weights):.1f} s"
    for name, seconds in run.embedding.items():
        yield f"embedding {name}, all tasks", f"{seconds:.1f} s, {run.tokens.get(name, 0):,} tokens"
    yield "sealing the last shard", f"{run.sealing:.1f} s"
    if run.gpus:
        busy = "unknown: the receipts do not say" if run.gpu_busy is None else f"{run.gpu_busy:.1%}"
        yield "GPU busy after loading", busy
    yield "rows/s from start to end", f"{run.rows_per_second:,.0f}"
    yield "rows/s after loading", f"{run.working_rows_per_second:,.0f}"
    yield "tokens/s from start to end", f"{run.tokens_per_second:,.0f}"
    for event in run.events:
        yield "event", event
