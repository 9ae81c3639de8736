"""Commands that are killed, asked to end or interrupted at random moments, and given again: are the bytes the same?

A trial runs a command in a child, ends it somewhere in the time that it takes undisturbed, gives the same command
again, and compares every file whose bytes do not tell when they were made. It is ``same``, also where the
second command finds all done and refuses to write over it, ``refused`` (it says what to do), ``different``, or
``traceback`` where either ended in one; the last two must not be. ``left over`` is ``same`` beside a temporary file.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import click
import torch

from benchmarks import show
from benchmarks._commands import command, options
from benchmarks.elastic.kills import WRONG, kill_tasks
from jobs.__main__ import main as vnp
from vnp.classifier.model import MLPClassifier
from vnp.encoders.registry import load
from vnp.encoders.spec import spec

_KMER = "--dna kmer --protein kmer --cluster inline"
_CODONS = ["ATG", "GCC", "AAA", "GAC", "CTC", "GGC", "TTC", "ACC", "CGT", "CAG"]
_OUT = "out"
CASES = {
    "reduce": f"reduce {_OUT}/run",
    "train": f"train run --out {_OUT}/model.pth --epochs 8",
    "predict": f"predict genomes.fna --checkpoint model.pth --out {_OUT}/calls --shards 2 --cluster inline",
    "export npz": f"export run --format npz --out {_OUT}/features.npz",
    "export pt": f"export run --format pt --out {_OUT}/pt",
    "dataset": f"dataset annotated.csv --out {_OUT}/set --units genome --lengths 150,300 --workers 1",
    "convert": f"convert old.pth --chunk 300 --out {_OUT}/new.pth",
    "accuracy": f"benchmark accuracy run@model.pth --all --out {_OUT}/accuracy",
    "pipeline": f"pipeline sheet.csv --out {_OUT}/run --shards 2 {_KMER}",
}
"""Commands by name; each writes below one folder."""
SIGNALS = ("KILL", "TERM", "INT")
# What commands import when they run, loaded once for all children: most moments would be of that otherwise.
_LOADED = (
    "matplotlib.figure", "matplotlib.backends.backend_svg", "sklearn.metrics", "sklearn.feature_extraction.text",
    "pyarrow.parquet", "vnp.classifier.train", "vnp.prediction.predict", "vnp.datasets.build", "vnp.comparison.contest",
    "vnp.export.export", "vnp.classifier.legacy", "vnp.runs.done.reduce", "vnp.runs.making.pipeline", "jobs.benchmark",
    "jobs.convert", "jobs.dataset", "jobs.export", "jobs.pipeline", "jobs.predict", "jobs.reduce", "jobs.train",
)  # fmt: skip
_OUTCOMES = ("same", "refused", "different", "traceback", "left over")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int  # its exit code; minus the signal that killed it
    said: str  # on both streams
    seconds: float


class Bench:
    """A folder, empty at first, with what the commands read, and one at a time tried."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self._arguments = CASES[name].split()
        first = self._tried()
        again = self._tried()
        if first[0].code or again[0].code:
            raise click.ClickException(f"{name} fails undisturbed:\n{first[0].said}{again[0].said}")
        # What a second run writes otherwise tells times and places.
        self._expected = {path: digest for path, digest in first[1].items() if again[1].get(path) == digest}
        self.seconds = min(first[0].seconds, again[0].seconds)

    def _tried(self) -> tuple[Ended, dict[str, str]]:
        self._clear()
        ended = self._run(None, 0)
        return ended, self._files()

    def trial(self, number: signal.Signals, after: float) -> str:
        """Send a signal so many seconds after the start, and give the command again; what became of it."""
        self._clear()
        ended = self._run(number, after)
        again = self._run(None, 0)
        if "Traceback" in ended.said + again.said:
            click.echo(f"{self.name}, {number.name} after {after:.3f} s:\n{ended.said}{again.said}", err=True)
            return "traceback"
        found = self._files()
        wrong = [path for path, digest in self._expected.items() if found.get(path) != digest]
        if again.code and wrong:
            what = f"{', '.join(wrong)} differ, and then: {again.said}"
            click.echo(f"{self.name}, {number.name} after {after:.3f} s: {what}", err=True)
            return "refused"
        if wrong:
            click.echo(f"{self.name}, {number.name} after {after:.3f} s: {', '.join(wrong)} differ", err=True)
            return "different"
        if extra := [path for path in found if path.endswith((".tmp", ".lock")) and path not in self._expected]:
            click.echo(f"{self.name}, {number.name} after {after:.3f} s: {', '.join(extra)} stay", err=True)
            return "left over"
        return "same"

    def _clear(self) -> None:
        shutil.rmtree(self.root / _OUT, ignore_errors=True)
        (self.root / _OUT).mkdir()
        if self.name == "reduce":
            shutil.copytree(self.root / "planned", self.root / _OUT / "run")

    def _files(self) -> dict[str, str]:
        out = self.root / _OUT
        paths = [path for path in out.rglob("*") if path.is_file()]
        return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def _run(self, number: signal.Signals | None, after: float) -> Ended:
        said, began = self.root / "said.txt", time.perf_counter()
        child = os.fork()
        if child == 0:
            self._be_child(said)
        if number is not None:
            time.sleep(after)
            os.kill(child, number)
        _, status = os.waitpid(child, 0)
        return Ended(os.waitstatus_to_exitcode(status), said.read_text(), time.perf_counter() - began)

    def _be_child(self, said: Path) -> NoReturn:
        code = 70
        try:
            words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(words, 1)
            os.dup2(words, 2)
            os.chdir(self.root)
            # A shell has what it starts in the background ignore Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            vnp.main(self._arguments, prog_name="vnp")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(code)


def make_world(root: Path) -> None:
    """Write and make, once, what the commands read: annotated genomes, a run, a classifier, one of VirNucPro."""
    chance = random.Random(7)  # noqa: S311 - nobody is kept from guessing it
    rows = []
    for place in range(12):
        label, group = (("viral", "viral"), ("host", "bacteria"))[place % 2]
        # Hosts prefer other codons, so that there is something to learn.
        weights = [1 + (place % 2) * (index % 3) for index in range(len(_CODONS))]
        genes = ["".join(chance.choices(_CODONS, weights, k=250)) + "TAA" for _ in range(3)]
        name, spacer = f"genome{place}", "TAACTAGATGATTAGCTAA"
        bases, lines = spacer, ["##gff-version 3"]
        for gene in genes:
            lines.append(f"{name}\tmade\tCDS\t{len(bases) + 1}\t{len(bases) + len(gene)}\t.\t+\t0\tID=cds{len(bases)}")
            bases += gene + spacer
        (root / f"{name}.fna").write_text(f">{name}\n{bases}\n")
        (root / f"{name}.gff3").write_text("\n".join(lines) + "\n")
        rows.append(f"{name}.fna,{label},{name},{group}")
    (root / "annotated.csv").write_text("path,label,group,organism_group\n" + "\n".join(rows) + "\n")
    (root / "sheet.csv").write_text("path,label,group\n" + "\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    (root / "genomes.fna").write_text("".join((root / f"genome{place}.fna").read_text() for place in range(12)))
    width = spec("dnabert_s", "dna").width + spec("esm2_3b", "protein").width
    torch.manual_seed(7)
    torch.save(MLPClassifier(width).state_dict(), root / "old.pth")
    with chdir(root):
        for line in (
            f"extract sheet.csv --out planned --shards 2 {_KMER}",
            f"extract sheet.csv --out run --shards 2 {_KMER}",
            "reduce run",
            "train run --out model.pth --epochs 5",
        ):
            _must(line)
    # Tables that a process makes once: half of the moments would be of that otherwise.
    for molecule in ("dna", "protein"):
        load("kmer", molecule=molecule).embed(["ACGT"])


def _must(line: str) -> None:
    child = os.fork()
    if child == 0:
        code = 70
        try:
            vnp.main(line.split(), prog_name="vnp")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise click.ClickException(f"vnp {line} failed")


def trials(bench: Bench, counts: Sequence[int], chance: random.Random) -> Iterator[tuple[str, str]]:
    """Name of the signal and outcome of so many trials with each of ``SIGNALS``."""
    for name, count in zip(SIGNALS, counts, strict=True):
        for place in range(count):
            # Spread over the whole time, so that no part is left out by chance.
            after = bench.seconds * (place + chance.random()) / count
            yield name, bench.trial(signal.Signals[f"SIG{name}"], after)


@command("python -m benchmarks kills --kills 25 --ends 4")
@click.option("--kills", type=click.IntRange(min=0), default=25, help="Times that each command is killed (KILL).")
@click.option("--ends", type=click.IntRange(min=0), default=4, help="Times that TERM, and INT, are sent to each.")
@click.option(
    "--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="Only this command.  [default: all]"
)
@click.option(
    "--shared",
    type=click.IntRange(min=1),
    help="Kill, or suspend for longer than their leases, so many of four tasks that share a run, in place of commands.",
)
@click.option("--seed", type=int, default=0, help="Of the moments.")
@options.as_json
def main(kills: int, ends: int, cases: tuple[str, ...], shared: int | None, seed: int, as_json: bool) -> None:
    """End commands at random moments by signals, and give them again.

    Ends with 1 if anything was lost or different.
    """
    torch.set_num_threads(1)
    if shared is not None:
        counts = kill_tasks(shared, 4, 40, seed)
        show(counts, as_json)
        if any(counts[name] for name in WRONG):
            raise SystemExit(1)
        return
    for library in _LOADED:
        importlib.import_module(library)
    total: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
    figures: dict[str, object] = {}
    with TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        make_world(root)
        for name in cases or CASES:
            bench = Bench(root, name)
            chance = random.Random(f"{seed} {name}")  # noqa: S311 - nobody is kept from guessing it
            found = Counter(trials(bench, (kills, ends, ends), chance))
            for (sent, outcome), count in sorted(found.items()):
                figures[f"{name}, {sent}: {outcome}"] = count
                total[outcome] += count
            click.echo(f"{name} ({bench.seconds:.1f} s): {dict(found)}", err=True)
    show({**figures, **{f"all: {outcome}": count for outcome, count in total.items()}}, as_json)
    if total["different"] or total["traceback"]:
        raise SystemExit(1)
