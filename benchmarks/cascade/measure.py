"""What predict --cascade settles and changes, against its promise, on mixtures of genomes kept from training."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import MOST, temporary_folder
from benchmarks._commands import command, options
from benchmarks.end_to_end import make_folder
from vnp.encoders.spec import weighted
from vnp.errors import FeatureError
from vnp.files.records import parse_json
from vnp.sequences.reading import read_records
from vnp.speed.runs import read_receipts, tasks_of

_PARTS = ("train", "validation", "test", "mixed")
_DEALT = (0.4, 0.1, 0.25, 0.25)
_VIRAL = "viral"


def _dealt(
    files: Mapping[str, Sequence[Path]], piece: int, most: int, seed: int
) -> Iterator[tuple[str, str, str, bytes]]:
    """Part, label, name and bases of pieces of genomes; all pieces of a genome are of one part."""
    draw = np.random.default_rng(seed)
    for label, paths in files.items():
        found: dict[str, list[tuple[str, bytes]]] = {part: [] for part in _PARTS}
        for path in paths:
            for record in read_records(path):
                part = _PARTS[int(draw.choice(len(_PARTS), p=_DEALT))]
                for low in range(0, len(record.sequence), piece):
                    some = record.sequence[low : low + piece]
                    if len(some) >= 500 or low == 0:
                        found[part].append((f"{label}_{record.name}_{low}", some))
        for part, pieces in found.items():
            chosen = draw.permutation(len(pieces))[: int(most * _DEALT[_PARTS.index(part)] / _DEALT[0])]
            yield from ((part, label, *pieces[at]) for at in np.sort(chosen).tolist())


def _write_fasta(path: Path, records: Sequence[tuple[str, bytes]]) -> Path:
    path.write_bytes(b"".join(b">%s\n%s\n" % (name.encode(), bases) for name, bases in records))
    return path


def _run(*words: str) -> float:
    """Run a command of vnp; how many seconds it took."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FeatureError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return time.perf_counter() - began


def _calls(folder: Path) -> dict[str, str]:
    with (folder / "predictions.tsv").open(newline="", encoding="utf-8") as table:
        return {row["name"]: row["call"] for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)}


def _called(mixture: Path, out: Path, words: Sequence[str]) -> tuple[dict[str, str], dict[str, float]]:
    """Call a mixture: the calls, and seconds of the whole command and from when the encoders were there."""
    whole = _run("jobs.predict", str(mixture), "--out", str(out), *words)
    return _calls(out), {"whole": whole, "once loaded": sum(task.working for task in tasks_of(read_receipts(out)))}


def _compare(
    mixture: Path, folder: Path, name: str, common: Sequence[str], risks: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Call a mixture without and with the cascade, once for each risk."""
    alone, took = _called(mixture, folder / f"{name}-alone", common)
    truth = {one: "viral" if one.startswith(_VIRAL) else "host" for one in alone}
    called = [one for one, call in alone.items() if call]

    def right(calls: Mapping[str, str]) -> float:
        return sum(calls[one] == truth[one] for one in truth) / len(truth)

    for risk in risks:
        out = folder / f"{name}-{risk:g}"
        calls, seconds = _called(mixture, out, (*common, "--cascade", "native", "--cascade-risk", str(risk)))
        settled = parse_json((out / "summary.json").read_text("utf-8"))["cascade"]["settled_by_native"]
        yield {
            "mixture": name,
            "records": len(truth),
            "settled": settled / len(truth),
            "promised": risk,
            "changed": sum(alone[one] != calls[one] for one in called) / max(1, len(called)),
            "right, alone": right(alone),
            "right, cascade": right(calls),
            **{f"seconds, {kind}": [round(took[kind], 1), round(seconds[kind], 1)] for kind in took},
            **{f"factor, {kind}": round(took[kind] / seconds[kind], 2) for kind in took},
        }


def _mixture(
    pieces: dict[str, list[bytes]], records: int, share: float, low: int, high: int, seed: int
) -> list[tuple[str, bytes]]:
    """Contigs of genomes, the logarithm of their lengths uniform, so many of them viral."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(records):
        label = _VIRAL if draw.random() < share else "host"
        length = round(np.exp(draw.uniform(np.log(low), np.log(high))))
        some = pieces[label][int(draw.integers(len(pieces[label])))]
        start = int(draw.integers(max(1, len(some) - length + 1)))
        found.append((f"{label}_{number}", some[start : start + length]))
    return found


@command("python -m benchmarks cascade --viral viral.fna.gz --host bacteria.fna.gz --host fungi.fna.gz")
@click.option("--viral", type=click.Path(path_type=Path, exists=True), multiple=True, required=True, help="Genomes.")
@click.option("--host", type=click.Path(path_type=Path, exists=True), multiple=True, required=True, help="Genomes.")
@click.option("--dna", default="kmer", help="DNA encoder, or its folder.")
@click.option("--protein", default="kmer", help="Protein encoder, or its folder.")
@click.option("--random", is_flag=True, help="Random weights in place of fetched ones, on a CPU of one layer.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where everything runs.")
@click.option("--precision", default="auto", help="That encoders run in.")
@click.option("--chunk", type=click.IntRange(30, MOST), default=300, help="Bases of a chunk, and of a read.")
@click.option(
    "--piece", type=click.IntRange(500, MOST), default=20_000, help="Bases that genomes are cut into, a unit each."
)
@click.option("--pieces", type=click.IntRange(10, MOST), default=1_000, help="Pieces of each label to train on.")
@click.option(
    "--records",
    type=click.IntRange(10, MOST),
    default=2_000,
    help="Contigs in a mixture; reads are five times as many.",
)
@click.option("--share", type=click.FloatRange(0.001, 0.999), default=0.1, help="Of viruses in the mixtures.")
@click.option("--risk", "risks", type=float, multiple=True, default=(0.01,), help="As --cascade-risk; may be repeated.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the parts and the mixtures.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=".", help="To work in."
)
@options.as_json
def main(
    viral: tuple[Path, ...],
    host: tuple[Path, ...],
    dna: str,
    protein: str,
    random: bool,
    device: str,
    precision: str,
    chunk: int,
    piece: int,
    pieces: int,
    records: int,
    share: float,
    risks: tuple[float, ...],
    seed: int,
    folder: Path,
    as_json: bool,
) -> None:
    """Train a checkpoint with --cascade and call mixtures of other genomes without and with it.

    Whole records of the files are dealt out to training, to the held-out part that cut-offs are chosen by, and to the
    mixtures. Changed are calls that differ from those of the checkpoint alone. Seconds and factors are of the whole
    command and of its task once encoders are loaded, those without the cascade first.
    """
    with temporary_folder(folder) as place:
        if random:
            weights, full = place / "weights", device != "cpu"
            fetched = {one.name for one in weighted()}
            dna, protein = (
                str(make_folder(weights, name, device, full=full)) if name in fetched else name
                for name in (dna, protein)
            )
        dealt = list(_dealt({_VIRAL: viral, "host": host}, piece, pieces, seed))
        rows = ["path,label,group"]
        for label in (_VIRAL, "host"):
            own = [(name, bases) for part, of, name, bases in dealt if of == label and part != "mixed"]
            rows.append(f"{_write_fasta(place / f'{label}.fna', own).name},{label},")
        (place / "sheet.csv").write_text("\n".join(rows) + "\n")
        split = [f"{name}\t{part}" for part, _, name, _ in dealt if part != "mixed"]
        (place / "split.tsv").write_text("group\tpart\n" + "\n".join(split) + "\n")
        run, model = str(place / "run"), str(place / "model.pth")
        here = ("--cluster", "inline", "--device", device)
        click.echo(f"{len(split):,} pieces of {piece:,} bases to train and choose on ...", err=True)
        encoders = ("--dna", dna, "--protein", protein, "--precision", precision)
        _run("jobs.extract", str(place / "sheet.csv"), "--out", run, "--chunk", str(chunk), *encoders, *here)
        _run("jobs.reduce", run)
        trained = ("--split", str(place / "split.tsv"), "--recipe", "adamw", "--device", device, "--cascade")
        click.echo(f"trained in {_run('jobs.train', run, '--out', model, *trained):.0f} s", err=True)
        mixed = {
            label: [bases for part, of, _, bases in dealt if part == "mixed" and of == label]
            for label in (_VIRAL, "host")
        }
        kinds = {"contigs": (records, 500, piece), "reads": (5 * records, chunk, chunk)}
        folders = (("--dna", dna), ("--protein", protein))
        named = [word for option, value in folders if Path(value).is_dir() for word in (option, value)]
        common = ["--checkpoint", model, "--precision", precision, *here, *named]
        found = []
        for name, (count, low, high) in kinds.items():
            drawn = _write_fasta(place / f"{name}.fna", _mixture(mixed, count, share, low, high, seed))
            for one in _compare(drawn, place, name, common, risks):
                found.append(one)
                click.echo(json.dumps(one), err=True)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(map(json.dumps, found)))
