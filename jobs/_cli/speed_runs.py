"""``benchmark speed --end-to-end``: extract, or predict, as a user would run it."""

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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli.command import echo
from jobs._cli.options import together
from jobs._cli.progress import Progress, duration
from jobs._cli.speed import WINDOWS, SpeedOptions, molecule_of
from jobs._cluster.task import interrupt_when_told
from jobs._cluster.worker import SAFELY, environment
from vnp.encoders.spec import DEFAULTS, NO_ENCODER
from vnp.encoders.weights.folders import find_folder, locate_weighted, weights_root
from vnp.errors import RunError, UsageError
from vnp.files.claims import make_folder
from vnp.files.records import write_json
from vnp.runs.planning.options import MOST_SHARDS

if TYPE_CHECKING:
    from vnp.speed.runs import RunFigures

_GPU_READS, _CPU_READS, _COLD_READS = 1_000_000, 300, 5_000
# Several tasks of predict share a GPU, and none should be left alone with a last shard for long.
_SHARDS_A_GPU = {"extract": 4, "predict": 24}
_CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_LOG_LINES = 12

END_TO_END = ("reads", "read_length", "gpus", "shards", "cold", "scratch")
"""Names of what ``end_to_end_options`` give to ``measure_runs``."""
end_to_end_options = together(
    click.option(
        "--encoder-only/--end-to-end",
        default=True,
        help="Encoders alone, or extract from FASTA to sealed shards; with --model sixframe alone, predict from FASTA "
        "to calls.",
    ),
    click.option(
        "--reads",
        type=click.IntRange(1, 1_000_000_000),
        help="--end-to-end: how many reads.  [default: 1,000,000 on a GPU, 300 on a CPU]",
    ),
    click.option(
        "--read-length",
        type=click.IntRange(30, 50_000),
        default=150,
        help="--end-to-end: bases of a read; contigs are long reads.",
    ),
    click.option("--gpus", default="1", help="--end-to-end: numbers of GPUs, one run each, such as 1,2."),
    click.option(
        "--shards",
        type=click.IntRange(1, MOST_SHARDS),
        help="--end-to-end: shards.  [default: four for each GPU, 24 of predict; 1 on a CPU]",
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


def measure_runs(
    given: SpeedOptions,
    *,
    reads: int | None,
    read_length: int,
    gpus: str,
    shards: int | None,
    cold: bool,
    scratch: Path | None,
) -> None:
    """Run extract, or predict, on made-up reads, once for each number of GPUs, and show what it took."""
    from vnp.encoders.device import choose_device
    from vnp.speed.measure import describe_machine
    from vnp.speed.runs import write_reads

    device = choose_device(given.device)
    visible, counts = _gpus(gpus, device.type)
    many = reads or (_GPU_READS if device.type == "cuda" else max(10, round(_CPU_READS * given.share("cpu"))))
    if len(given.precisions) > 1:
        raise UsageError("--end-to-end takes one --precision")
    dna, protein = encoders_of(given)
    precision = given.precisions[0] if given.precisions else "auto"
    source, words = _encoding(dna, protein, given.weights)
    machine = describe_machine(device)
    result: dict[str, Any] = {
        "schema": "vnp-end-to-end/1",
        "machine": machine,
        "encoders": {"dna": dna, "protein": protein, "precision": precision, "source": source},
        "reads": many,
        "read_length": read_length,
        "runs": [],
        "times_one_gpu": {},
    }
    words += ["--precision", precision, "--device", device.type, "--cluster", "local"]
    if given.token_budget is not None:
        words += ["--token-budget", str(given.token_budget)]
    if given.out is not None:
        make_folder(given.out)
    if not given.as_json:
        echo(f"{dna} and {protein}, {precision}, {source}, {machine['name']}")

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
                    write_reads(inputs, few, length=read_length)
                progress.to(next(steps), f": {what}")
                return _run([*words, str(inputs), "--shards", str(parts)], room, used, caches)

            caches: dict[str, str] = {}
            if cold:
                caches = {name: str(room / name.lower()) for name in _CACHES}
                few = min(many, _COLD_READS)
                for state in ("cold", "warm"):
                    what = f"{words[0]} of few reads, {state} caches"
                    note(f"{state} caches, few reads", one_run(what, few, 1, visible[:1], caches))
            for count in counts:
                parts = shards or (_SHARDS_A_GPU[words[0]] * max(counts) if count else 1)
                what = f"{words[0]} of {many:,} reads, {count or 'no'} GPU"
                note(f"{many:,} reads", one_run(what, many, parts, visible[:count], caches))
    except KeyboardInterrupt:
        if given.as_json and result["runs"]:
            echo(json.dumps(result, indent=2))
        raise
    if given.out is not None:
        echo(f"wrote {given.out / 'end_to_end.json'}", err=True)
    echo(json.dumps(result, indent=2) if given.as_json else "\n".join(_ratios(result)))


def encoders_of(given: SpeedOptions) -> tuple[str, str]:
    """The DNA and the protein encoder, which is ``none`` where a row is a chunk."""
    proteins = [name for name in given.models if molecule_of(name, given) == "protein"]
    others = [name for name in given.models if name not in proteins]
    for kind, names in (("proteins", proteins), ("DNA", others)):
        if len(names) > 1:
            raise UsageError(f"--end-to-end takes one model of {kind}, not {', '.join(names)}")
    dna = (others or [DEFAULTS["dna"]])[0]
    return dna, (proteins or [NO_ENCODER if dna == WINDOWS else DEFAULTS["protein"]])[0]


def _encoding(dna: str, protein: str, weights: Path | None) -> tuple[str, list[str]]:
    """Where weights come from, and the command with its words on encoders: the native model has chosen them."""
    if protein == NO_ENCODER and weights is None:
        return "weights of the package", ["predict"]
    for name in (dna, protein):
        if name not in (WINDOWS, NO_ENCODER):
            # Before reads are made up for nothing.
            found, folder = locate_weighted(name, weights)
            find_folder(found, folder or weights)
    root = weights_root(weights)
    return f"weights of {root}", ["extract", "--dna", dna, "--protein", protein, "--weights", str(root)]


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
    """Run a command in a process of its own; its run is gone again afterwards, since the next may need the room."""
    from vnp.speed.runs import read_figures

    run, log, settings = room / "run", room / "run.log", room / "none.toml"
    settings.touch()
    command = [sys.executable, *SAFELY, f"jobs.{words[0]}", *words[1:], "--out", str(run), "--config", str(settings)]
    variables = {**environment(), **caches}
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    begun = time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
        try:
            # Not Popen's own wait: this one also tells what the process and those that it waited for have used.
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    ended = time.time()
    if process.returncode != 0:
        said = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise RunError(f"{words[0]} ended with {process.returncode}; its last lines:\n" + "\n".join(said))
    figures = read_figures(run, gpus=len(gpus), begun=begun, ended=ended, used=used)
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
        if run.least_busy is not None and run.gpus > 1:
            yield "  the least busy one", f"{run.least_busy:.1%}"
    if run.processors is not None and run.memory is not None:
        a_gpu = f", {run.processors / run.gpus:.0f} a GPU" if run.gpus > 1 else ""
        yield "processor time", f"{run.processors:.0f} s{a_gpu}"
        yield "host memory of the largest process", f"{run.memory / 2**30:.2f} GiB"
    yield "written to shards", f"{run.written / 1e6:,.1f} MB"
    yield "rows/s from start to end", f"{run.rows_per_second:,.0f}"
    yield "rows/s after loading", f"{run.working_rows_per_second:,.0f}"
    yield "tokens/s from start to end", f"{run.tokens_per_second:,.0f}"
    for event in run.events:
        yield "event", event
