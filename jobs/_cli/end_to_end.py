"""``benchmark speed --end-to-end``: runs extract as a user would, and reads what its receipts say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli.progress import Progress, duration
from jobs._cli.signals import interrupt_when_told
from jobs._cli.speed import SpeedOptions
from vnp.encoders.spec import DEFAULTS, spec
from vnp.errors import RunError, UsageError

if TYPE_CHECKING:
    from vnp.speed.runs import RunFigures

_GPU_READS, _CPU_READS, _COLD_READS = 1_000_000, 300, 5_000
_SHARDS_A_GPU = 4
_POLL_SECONDS = 0.5
_LOG_LINES = 12


@dataclass(frozen=True)
class _Encoders:
    """What extract is called with."""

    dna: str
    protein: str
    precision: str
    weights: Path
    device: str
    token_budget: int | None


def measure_runs(
    given: SpeedOptions, *, reads: int | None, gpus: str, shards: int | None, cold: bool, scratch: Path | None
) -> None:
    """Run extract on made-up reads, once for each number of GPUs, and show what it took.

    Args:
        given: models, precision, weights and device; the folder for ``end_to_end.json``; JSON instead of a table.
        reads: of 150 bases; None for what suits the device.
        gpus: numbers of GPUs, separated by commas.
        shards: of each run; None for what suits the device.
        cold: make a short run with empty kernel caches first.
        scratch: where to put everything; None for the system's temporary folder.

    Raises:
        UsageError: an option does not fit the others.
        RunError: a run failed.
    """
    from vnp.encoders.device import choose_device
    from vnp.files.records import write_json
    from vnp.speed.measure import describe_machine

    device = choose_device(given.device)
    out, as_json = given.out, given.as_json
    visible, counts = _gpus(gpus, device.type)
    machine = describe_machine(device)
    many = reads or (_GPU_READS if device.type == "cuda" else _CPU_READS)
    found: list[tuple[str, RunFigures]] = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    def note(name: str, figures: RunFigures) -> None:
        # At once: what comes after it may take long, and be ended.
        found.append((name, figures))
        if out is not None:
            write_json(out / "end_to_end.json", _result(machine, used, source, many, found))
        if not as_json:
            click.echo("\n".join(["", *_table(name, figures)]))

    try:
        with interrupt_when_told(), _room(scratch) as room, Progress("end to end", None, "steps") as progress:
            say = _steps(progress)
            weights, source = _weights(given, room, str(device), say)
            used = _encoders(given, weights, device.type)
            if not as_json:
                click.echo(f"{used.dna} and {used.protein}, {used.precision}, {source}, {machine['name']}")
            inputs = _reads(room, many, say)
            caches: dict[str, str] = {}
            if cold:
                caches = {name: str(room / name.lower()) for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
                few = _reads(room, min(many, _COLD_READS), say)
                for state in ("cold", "warm"):
                    say(f"extract of few reads, {state} caches")
                    note(f"{state} caches, few reads", _run(used, few, room / f"run-{state}", 1, visible[:1], caches))
            for count in counts:
                say(f"extract of {many:,} reads, {count or 'no'} GPU")
                parts = shards or (_SHARDS_A_GPU * max(counts) if count else 1)
                run = room / f"run-{count}"
                note(f"{many:,} reads", _run(used, inputs, run, parts, visible[:count], caches))
    except KeyboardInterrupt:
        if as_json and found:
            click.echo(json.dumps(_result(machine, used, source, many, found), indent=2))
        raise
    result = _result(machine, used, source, many, found)
    if out is not None:
        click.echo(f"wrote {out / 'end_to_end.json'}", err=True)
    click.echo(json.dumps(result, indent=2) if as_json else "\n".join(_ratios(result)))


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


@contextmanager
def _room(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vnp-speed-", dir=folder) as name:
        yield Path(name)


def _steps(progress: Progress) -> Any:
    steps = iter(range(1, 1_000_000))
    return lambda what: progress.to(next(steps), f": {what}")


def _weights(given: SpeedOptions, room: Path, device: str, say: Any) -> tuple[Path, str]:
    """The user's weights, or random ones of the published size (of one layer on a CPU, unless --full)."""
    import torch

    from vnp.encoders.weights.folders import weights_root
    from vnp.speed.made_up import make_folder
    from vnp.speed.measure import free

    if given.weights is not None:
        return weights_root(given.weights), f"weights of {given.weights}"
    full = given.full or device.startswith("cuda")
    root = room / "weights"
    for name in _models(given):
        say(f"random weights of {name}")
        make_folder(root, name, device, full=full)
        # The runs need this memory.
        free(torch.device(device))
    return root, "random weights, published size" if full else "random weights, one layer"


def _models(given: SpeedOptions) -> tuple[str, str]:
    """The DNA and the protein encoder."""
    proteins = [name for name in given.models if spec(name).molecule == "protein"] or [DEFAULTS["protein"]]
    if len(proteins) > 1:
        raise UsageError(f"--end-to-end takes one model of proteins, not {', '.join(proteins)}")
    return DEFAULTS["dna"], proteins[0]


def _encoders(given: SpeedOptions, weights: Path, device: str) -> _Encoders:
    if len(given.precisions) > 1:
        raise UsageError("--end-to-end takes one --precision")
    precision = given.precisions[0] if given.precisions else "auto"
    return _Encoders(*_models(given), precision, weights, device, given.token_budget)


def _reads(room: Path, count: int, say: Any) -> Path:
    from vnp.speed.made_up import write_reads

    path = room / f"reads-{count}.fa"
    if not path.exists():
        say(f"{count:,} reads")
        write_reads(path, count)
    return path


def _run(
    used: _Encoders, reads: Path, run: Path, shards: int, gpus: Sequence[str], caches: Mapping[str, str]
) -> RunFigures:
    from vnp.speed.runs import read_figures

    settings = reads.with_name("none.toml")
    settings.touch()
    command = [sys.executable, "-m", "jobs.extract", str(reads), "--out", str(run), "--shards", str(shards)]
    command += ["--dna", used.dna, "--protein", used.protein, "--precision", used.precision]
    command += [
        "--weights",
        str(used.weights),
        "--device",
        used.device,
        "--cluster",
        "local",
        "--config",
        str(settings),
    ]
    if used.token_budget is not None:
        command += ["--token-budget", str(used.token_budget)]
    environment = {**os.environ, **caches}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    log = run.with_suffix(".log")
    begun = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(_POLL_SECONDS / 10)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    ended = time.time()
    if process.returncode != 0:
        said = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise RunError(f"extract ended with {process.returncode}; its last lines:\n" + "\n".join(said))
    figures = read_figures(run, gpus=len(gpus), begun=begun, ended=ended)
    # The next run may need the room.
    shutil.rmtree(run)
    return figures


def _result(
    machine: Mapping[str, object], used: _Encoders, source: str, reads: int, found: Sequence[tuple[str, RunFigures]]
) -> dict[str, Any]:
    whole = [figures for name, figures in found if "few" not in name]
    one = next((figures for figures in whole if figures.gpus == 1), None)
    ratios = {}
    if one is not None:
        for other in whole:
            if other.gpus > 1:
                ratios[str(other.gpus)] = {
                    "wall": one.wall / other.wall,
                    "after_loading": other.working_rows_per_second / one.working_rows_per_second,
                }
    return {
        "schema": "vnp-end-to-end/1",
        "machine": dict(machine),
        "encoders": {
            "dna": used.dna,
            "protein": used.protein,
            "precision": used.precision,
            "source": source,
        },
        "reads": reads,
        "runs": [{"name": name, **asdict(figures)} for name, figures in found],
        "times_one_gpu": ratios,
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
