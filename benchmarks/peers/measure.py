"""Other programs that find viruses beside vnp, on the same windows of genomes kept for the test and the same phages.

geNomad (Camargo et al., Nature Biotechnology 2024) runs as ``genomad nn-classification``, its network without its
database of markers; Jaeger (Wijesekara et al., Bioinformatics 2026) as ``jaeger predict``. Either runs where it is
installed; both come with their networks from the package index. They may have been trained on some of these genomes,
which the units kept for the test have never been for vnp.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from jaxtyping import Bool, Float64

from benchmarks._commands import call_windows, command, lengths_of
from vnp.errors import FeatureError, UsageError
from vnp.files.claims import make_folder, require_free
from vnp.files.durable import write_text
from vnp.files.records import write_json
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.genomes import TEST, load_genomes
from vnp.finetune.measure import draw, recall_at, roc_auc
from vnp.sequences.reading import read_records

_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_PHAGE_GROUPS = ("phage", "bacteria", "archaea")
_JAEGER_WINDOWS = (2000, 1000, 500)
_SHORTEST, _LONGEST = 500, 5000


class Said(NamedTuple):
    """What a program said of a record."""

    score: float  # the higher the more viral
    viral: bool  # its own call


@dataclass(frozen=True, slots=True)
class Score:
    """A contestant on the windows of one length."""

    length: int
    windows: int
    unscored: int  # windows that it says nothing of, which count as its lowest score
    roc_auc: float
    phage_roc_auc: float  # phages against bacteria and archaea
    recall_at_99: float  # at 99 % specificity
    recall: float  # by its own call
    specificity: float  # by its own call


def read_genomad(path: Path) -> dict[str, Said]:
    """Read ``NAME_nn_classification.tsv``: the class of the highest score is the call; else FeatureError."""
    scores = ("chromosome_score", "plasmid_score", "virus_score")
    found = {}
    for row in _rows(path, ("seq_name", *scores)):
        values = [float(row[name]) for name in scores]
        found[row["seq_name"]] = Said(values[2], values[2] == max(values))
    return found


def read_jaeger(path: Path) -> dict[str, Said]:
    """Read ``NAME_jaeger.tsv``: the score is that of phages less the next highest; FeatureError for another table."""
    found = {}
    for row in _rows(path, ("contig_id", "prediction", "phage_score")):
        others = [float(row[name]) for name in row if name.endswith("_score") and name not in _NO_CLASS]
        found[row["contig_id"]] = Said(float(row["phage_score"]) - max(others), row["prediction"].lower() == "phage")
    return found


_NO_CLASS = ("phage_score", "reliability_score")


def _rows(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as table:
        reader = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise FeatureError(f"{path} has no column {missing[0]}: it is of another version, or of another program")
        yield from reader


def run_genomad(fasta: Path, folder: Path, program: str = "genomad") -> dict[str, Said]:
    """Run geNomad's network and read what it wrote; FeatureError where it failed."""
    _run([program, "nn-classification", str(fasta), str(folder)], folder)
    return read_genomad(_written(folder, "*_nn_classification.tsv"))


def run_jaeger(fasta: Path, folder: Path, program: str = "jaeger") -> dict[str, Said]:
    """Run Jaeger and read what it wrote.

    It says nothing of records shorter than its window, of 2,000 bases unless told: those go to a run of their own, with
    the longest window of ``_JAEGER_WINDOWS`` that they fill.

    Raises:
        FeatureError: it failed.
    """
    records: dict[int, list[str]] = {}
    for record in read_records(fasta):
        size = next((size for size in _JAEGER_WINDOWS if len(record.sequence) >= size), None)
        if size is not None:
            records.setdefault(size, []).append(f">{record.name}\n{record.sequence.decode()}\n")
    found: dict[str, Said] = {}
    for size, texts in records.items():
        own = folder / str(size)
        make_folder(own)
        write_text(own / "records.fna", "".join(texts))
        window = [] if size == _JAEGER_WINDOWS[0] else ["--fsize", str(size), "--stride", str(size)]
        _run([program, "predict", "-i", str(own / "records.fna"), "-o", str(own / "out"), *window, "-f"], own / "out")
        found |= read_jaeger(_written(own / "out", "records_jaeger.tsv"))
    return found


def _run(words: Sequence[str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise FeatureError(f"{words[0]} ended with {done.returncode}: {last} (all of it is in {log})")


def _written(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if not found:
        raise FeatureError(f"there is no {pattern} below {folder}")
    return found[-1]


def run_vnp(checkpoint: str) -> Callable[[Path, Path], dict[str, Said]]:
    """What calls by ``predict``, with the default call."""

    def run(fasta: Path, folder: Path) -> dict[str, Said]:
        call_windows(fasta, checkpoint, folder, {})
        rows = _rows(folder / "predictions.tsv", ("name", "probability", "call"))
        return {
            row["name"]: Said(float(row["probability"]), row["call"] == "viral") for row in rows if row["probability"]
        }

    return run


def train_kmers(genomes: Path, folder: Path, count: int, seed: int) -> Path:
    """Train a classifier of hashed k-mers on windows of the units that were not kept for the test; its checkpoint.

    ``genomes`` is the packed set of a training, which knows its split. There are ``count`` windows of each label, of
    500 to 5,000 bases.

    Raises:
        FeatureError: a step failed.
        UsageError: there are no such units of a label.
    """
    make_folder(folder)
    held = DeviceGenomes(load_genomes(genomes), torch.device("cpu"))
    known = held.genomes
    pieces = draw(held, known.part != TEST, _SHORTEST, _LONGEST, count, seed)
    groups = ["record\tgroup"]
    texts: dict[bool, list[str]] = {True: [], False: []}
    for place, (record, start, length) in enumerate(zip(*(column.tolist() for column in pieces), strict=True)):
        bases = _LETTERS[known.codes[start : start + length]].tobytes().decode()
        texts[bool(known.viral[record])].append(f">w{place}\n{bases}\n")
        groups.append(f"w{place}\t{known.units[known.unit[record]]}")
    sheet = ["path,label,group"]
    for viral, name in ((True, "viral"), (False, "host")):
        write_text(folder / f"{name}.fna", "".join(texts[viral]))
        sheet.append(f"{name}.fna,{name},")
    write_text(folder / "sheet.csv", "\n".join([*sheet, ""]))
    write_text(folder / "groups.tsv", "\n".join([*groups, ""]))
    run, checkpoint = folder / "run", folder / "kmers.pth"
    for words in (
        ["extract", folder / "sheet.csv", "--out", run, "--dna", "kmer", "--protein", "kmer", "--cluster", "inline"],
        ["reduce", run],
        [
            "train",
            run,
            "--groups",
            folder / "groups.tsv",
            "--recipe",
            "adamw",
            "--epochs",
            "20",
            "--test",
            "0",
            "--out",
            checkpoint,
        ],
    ):
        _run([sys.executable, "-m", f"jobs.{words[0]}", *map(str, words[1:])], folder / str(words[0]))
    return checkpoint


def draw_windows(genomes: Path, fasta: Path, lengths: Sequence[int], count: int, seed: int) -> int:
    """Write windows of the units kept for the test, named by truth, group, length and number; gives how many.

    ``genomes`` is the packed set of a training, which knows its split; ``count`` is that of each label and length.

    Raises:
        FeatureError: the set is damaged.
        UsageError: no unit was kept for the test, or none of a label.
    """
    held = DeviceGenomes(load_genomes(genomes), torch.device("cpu"))
    known = held.genomes
    chosen = known.part == TEST
    for label, name in ((True, "viral"), (False, "host")):
        if not (chosen & (known.viral == label) & (known.lengths >= max(lengths))).any():
            raise UsageError(f"{genomes}: no {name} record of {max(lengths):,} bases was kept for the test")
    lines = []
    for length in lengths:
        pieces = draw(held, chosen, length, length, count, seed)
        for place, (record, start) in enumerate(zip(pieces.record.tolist(), pieces.start.tolist(), strict=True)):
            truth = "viral" if known.viral[record] else "host"
            bases = _LETTERS[known.codes[start : start + length]].tobytes().decode()
            lines.append(f">{truth}-{known.groups[known.group[record]]}-{length}-{place}\n{bases}\n")
    write_text(fasta, "".join(lines))
    return len(lines)


def score_windows(names: Sequence[str], said: Mapping[str, Said]) -> list[Score]:
    """Measure what a contestant said of windows of ``draw_windows``, by name, length by length."""
    parts = [name.split("-") for name in names]
    length = np.array([int(part[2]) for part in parts])
    viral = np.array([part[0] == "viral" for part in parts])
    group = np.array([part[1] for part in parts])
    lowest = min((one.score for one in said.values()), default=0.0) - 1
    score = np.array([said[name].score if name in said else lowest for name in names])
    call = np.array([name in said and said[name].viral for name in names])
    unscored = np.array([name not in said for name in names])
    return [
        _score(int(size), *(column[length == size] for column in (viral, group, score, call, unscored)))
        for size in np.unique(length)
    ]


def _score(
    length: int,
    viral: Bool[np.ndarray, "n"],
    group: np.ndarray,
    score: Float64[np.ndarray, "n"],
    call: Bool[np.ndarray, "n"],
    unscored: Bool[np.ndarray, "n"],
) -> Score:
    phages = np.isin(group, _PHAGE_GROUPS)
    return Score(
        length, len(viral), int(unscored.sum()), roc_auc(viral, score), roc_auc(viral[phages], score[phages]),
        recall_at(viral, score), float(call[viral].mean()), float((~call[~viral]).mean()),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """A contestant: why it did not run, or its scores and how many of the phages it calls viral."""

    name: str
    why: str
    scores: Sequence[Score]
    phages: int | None


def contest(
    contestants: Mapping[str, Callable[[Path, Path], dict[str, Said]] | str],
    fasta: Path,
    phages: Path | None,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> list[Line]:
    """Run all on the same windows, of ``draw_windows``, and the same phage genomes, if any, and measure them alike.

    Contestants are what runs each, or why it cannot.
    """
    names = [record.name for record in read_records(fasta)]
    lines = []
    for name, run in contestants.items():
        if isinstance(run, str):
            lines.append(Line(name, run, (), None))
            continue
        say(f"{name}: {len(names):,} windows")
        own = folder / name.replace("/", "_")
        try:
            scores = score_windows(names, run(fasta, own / "windows"))
            called = None
            if phages is not None:
                called = sum(one.viral for one in run(phages, own / "phages").values())
        except FeatureError as error:
            lines.append(Line(name, str(error), (), None))
            continue
        lines.append(Line(name, "", scores, called))
    return lines


def markdown(lines: Sequence[Line], lengths: Sequence[int], phages: int | None) -> str:
    """Rows of the table of docs/accuracy.md."""
    sizes = [f"{length:,}" for length in lengths]
    header = ["", *sizes, *(f"phage {size}" for size in sizes), *(f"recall {size}" for size in sizes)]
    header += [] if phages is None else [f"of {phages} phages"]
    rows = [header, ["---", *["--:"] * (len(header) - 1)]]
    for line in lines:
        if line.why:
            continue
        groups = [[getattr(one, name) for one in line.scores] for name in ("roc_auc", "phage_roc_auc", "recall_at_99")]
        # What says nothing of any window of a length has no number there.
        known = [one.unscored < one.windows for one in line.scores]
        cells = [
            f"{value:.{3 if number < 2 else 2}f}" if there else "-"
            for number, values in enumerate(groups)
            for value, there in zip(values, known, strict=True)
        ]
        rows.append([line.name, *cells, *([] if phages is None else [str(line.phages)])])
    table = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"- {line.name}: {line.why}" for line in lines if line.why]
    for line in lines:
        without = [f"{one.unscored} of {one.windows} at {one.length:,}" for one in line.scores if one.unscored]
        notes += (
            [f"- {line.name} says nothing of {', '.join(without)}; they count as its lowest score"] if without else []
        )
    return "\n".join([*table, *([""] if notes else []), *notes, ""])


@command("python -m benchmarks peers genomes.npz --phages phages.fna.gz --out PEERS")
@click.argument("genomes", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@click.option("--phages", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Genomes, all viral.")
@click.option("--checkpoint", multiple=True, default=("native",), help="As predict takes it; may be given again.")
@click.option("--genomad", default="genomad", help="The program, or its path.")
@click.option("--jaeger", default="jaeger", help="The program, or its path.")
@click.option("--peers/--no-peers", "others", default=True, help="Run the other programs too.")
@click.option(
    "--kmers",
    type=click.IntRange(min=0),
    default=0,
    help="Also train hashed k-mers on so many windows of each label, of units not kept for the test.",
)
@click.option("--lengths", default="500,1000,3000,10000", help="Bases of windows, with commas between.")
@click.option("--windows", type=click.IntRange(10), default=1000, help="Of each label and length.")
@click.option("--seed", type=click.IntRange(min=0), default=21, help="Of what is drawn.")
@click.option("--force", is_flag=True, help="Write over what is there.")
def main(
    genomes: Path,
    out: Path,
    phages: Path | None,
    checkpoint: tuple[str, ...],
    genomad: str,
    jaeger: str,
    others: bool,
    kmers: int,
    lengths: str,
    windows: int,
    seed: int,
    force: bool,
) -> None:
    """Score vnp and other programs on windows of genomes that a training kept for the test.

    GENOMES is the genomes.npz that finetune packed. Writes windows.fna, peers.json and peers.md, whose rows are those
    of docs/accuracy.md. A program that is not installed, or fails, is named with the reason.
    """
    sizes = lengths_of(lengths)
    made = [out / name for name in ("windows.fna", "peers.json", "peers.md")]
    require_free(made, force=force)
    make_folder(out)
    if force:
        shutil.rmtree(out / "runs", ignore_errors=True)
    count = draw_windows(genomes, made[0], sizes, windows, seed)
    print(f"{count:,} windows: {made[0]}")
    contestants: dict[str, Any] = {f"vnp {Path(one).stem}": run_vnp(one) for one in checkpoint}
    if kmers:
        contestants["k-mers"] = run_vnp(str(train_kmers(genomes, out / "runs" / "training", kmers, seed)))
    if others:
        for name, program, run in (("geNomad", genomad, run_genomad), ("Jaeger", jaeger, run_jaeger)):
            found = shutil.which(program)
            contestants[name] = (
                (lambda fasta, folder, run=run, found=found: run(fasta, folder, found))
                if found
                else f"{program} is not installed here"
            )
    lines = contest(contestants, made[0], phages, out / "runs", print)
    total = None if phages is None else sum(1 for _ in read_records(phages))
    write_json(
        made[1], {"genomes": str(genomes), "seed": seed, "phages": total, "contestants": [_json(one) for one in lines]}
    )
    write_text(made[2], markdown(lines, sizes, total))
    print(made[2].read_text(encoding="utf-8"))


def _json(line: Line) -> dict[str, Any]:
    scores = [{name: _finite(getattr(one, name)) for name in Score.__slots__} for one in line.scores]
    return {"name": line.name, "why_not": line.why, "phages_called": line.phages, "windows": scores}


def _finite(value: float) -> float | None:
    return value if value == value else None
