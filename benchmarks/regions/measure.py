"""Viral regions against what is known: phages put into bacterial genomes, and prophages that were annotated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from benchmarks._commands import command, options
from benchmarks.regions.cells import print_weights
from benchmarks.regions.genes import print_odds
from benchmarks.regions.genomes import Genome, annotated, plant, without_phages
from vnp.finetune.genomes import TEST, VALIDATION, load_genomes, within

_LETTERS = bytes.maketrans(bytes(range(5)), b"ACGTN")
_PARTS = {"validation": VALIDATION, "test": TEST}
# Bases of the copies between which an element stands that put itself into a genome, and how far they may be from where
# it was found to begin and end.
_COPY, _AROUND = 20, 4_000


@dataclass(frozen=True, slots=True)
class Figures:
    """Regions that were found beside those that are there."""

    records: int
    host_bases: int
    phages: int
    phage_bases: int
    regions: int
    found: float  # share of the phages' bases that are in regions
    right: float  # share of the regions' bases that are in phages
    mcc: float  # Matthews correlation over bases
    missed: int  # phages of which less than half was found
    false: int  # regions without a base of a phage
    flanked: int  # of them, those that stand between two copies of 20 bases, as what put itself there does
    false_a_mbp: float  # of host
    border: float  # median error of a border, bases


def compare(genomes: Sequence[Genome], called: dict[str, list[tuple[int, int]]]) -> Figures:
    """Compare regions with where phages are, over some records together."""
    counts = np.zeros((2, 2), np.int64)
    errors: list[int] = []
    missed = false = between = regions = phages = 0
    for genome in genomes:
        size = len(genome.codes)
        spans = np.array(called.get(genome.name, []), np.int64).reshape(-1, 2)
        viral, region, unknown = (_marked(one, size) for one in (genome.viral, spans, genome.unknown))
        counted = viral | ~unknown
        np.add.at(counts, (viral[counted].astype(int), region[counted].astype(int)), 1)
        regions += len(spans)
        phages += len(genome.viral)
        for start, end in spans.tolist():
            if not viral[start:end].any() and not unknown[start:end].mean() > 0.5:
                false += 1
                between += flanked(genome.codes, start, end)
        for start, end in genome.viral.tolist():
            missed += bool(region[start:end].mean() < 0.5)
            shared = np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start)
            if len(spans) and shared.max() > 0:
                first, last = spans[int(shared.argmax())].tolist()
                errors += [abs(first - start)] * (start > 0) + [abs(last - end)] * (end < size)
    (host, wrong), (lost, there) = counts.astype(float)
    product = (there + wrong) * (there + lost) * (host + wrong) * (host + lost)
    return Figures(
        records=len(genomes),
        host_bases=int(host + wrong),
        phages=phages,
        phage_bases=int(there + lost),
        regions=regions,
        found=round(there / max(1.0, there + lost), 4),
        right=round(there / max(1.0, there + wrong), 4),
        mcc=round((there * host - wrong * lost) / max(1.0, product**0.5), 4),
        missed=missed,
        false=false,
        flanked=between,
        false_a_mbp=round(false / max(1.0, host + wrong) * 1e6, 4),
        border=float(np.median(errors)) if errors else float("nan"),
    )


def flanked(codes: UInt8[np.ndarray, " size"], start: int, end: int) -> bool:
    """Whether 20 bases around one border of a region stand around the other, too, in the same direction."""
    around = min(_AROUND, (end - start) // 2)
    left, right = (codes[max(0, place - around) : place + around].tobytes() for place in (start, end))
    copies = {left[at : at + _COPY] for at in range(len(left) - _COPY + 1)}
    return any(
        right[at : at + _COPY] in copies and 4 not in right[at : at + _COPY] for at in range(len(right) - _COPY + 1)
    )


def _marked(spans: Int64[np.ndarray, "n 2"], size: int) -> Bool[np.ndarray, " size"]:
    return within(np.stack((spans[:, 0], spans[:, 1] - spans[:, 0]), axis=1), size)


def call(genomes: Sequence[Genome], out: Path, checkpoint: str, device: str) -> dict[str, list[tuple[int, int]]]:
    """The regions that ``predict`` finds, by record."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "genomes.fna").open("wb") as file:
        for one in genomes:
            file.write(b">%s\n%s\n" % (one.name.encode(), one.codes.tobytes().translate(_LETTERS)))
    words = ["predict", out / "genomes.fna", "--out", out / "calls", "--regions", "--no-fasta", "--cluster", "inline"]
    words += ["--checkpoint", checkpoint, "--device", device, "--force"]
    subprocess.run([sys.executable, "-m", "jobs", *map(str, words)], check=True, stdout=sys.stderr)
    called: dict[str, list[tuple[int, int]]] = {}
    for line in (out / "calls" / "regions.bed").read_text().splitlines():
        name, start, end, *_ = line.split("\t")
        called.setdefault(name, []).append((int(start), int(end)))
    return called


@command("python -m benchmarks regions SET/genomes.npz --prophages prophages/ --out REGIONS")
@click.argument("packed", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the figures.")
@click.option("--part", type=click.Choice(list(_PARTS)), default="test", help="Whose units.")
@click.option("--half", type=click.IntRange(0, 1), help="Only every second host of the part, from this one on.")
@click.option("--free", is_flag=True, help="The hosts of the part into which no phage is put, too.")
@click.option(
    "--prophages",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of NAME.fna.gz with NAME.bed: genomes with annotated prophages.",
)
@click.option("--checkpoint", default="native", help="As predict takes it: native, or a folder of finetune.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to run.")
@click.option("--genes", is_flag=True, help="Only print what lengths and strands of genes say, of training units.")
@click.option("--cells", is_flag=True, help="Only print what cells of held-out genomes say; scores stay in OUT.")
@options.as_json
def main(
    packed: Path, out: Path, part: str, half: int | None, free: bool, prophages: Path | None, checkpoint: str,
    device: str, genes: bool, cells: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure predict --regions.

    Held-out phages of 10 to 60 kb of PACKED, the genomes.npz of a training, are put into its held-out bacteria; every
    third stays free of them. Writes regions.json.
    """
    genomes = load_genomes(packed)
    if genes:
        print_odds(genomes)
        return
    if cells:
        print_weights(genomes, out, checkpoint, device)
        return
    planted = list(plant(genomes, _PARTS[part]))
    cases = [(part, planted if half is None else planted[half::2])]
    if free:
        cases.append((f"{part}-free", list(without_phages(genomes, _PARTS[part]))))
    if prophages is not None:
        names = [path.name.removesuffix(".fna.gz") for path in sorted(prophages.glob("*.fna.gz"))]
        cases += zip(names, annotated(prophages), strict=True)
    figures = {name: compare(records, call(records, out / name, checkpoint, device)) for name, records in cases}
    found = {name: asdict(one) for name, one in figures.items()}
    (out / "regions.json").write_text(json.dumps(found, indent=2))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(
        "| | bases found | right | MCC | missed | false a Mbp of host | border, median |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for name, one in figures.items():
        false = f"{one.false_a_mbp:.2f} ({one.false}, {one.flanked} between copies)"
        counts = f"{one.missed} of {one.phages}", false, f"{one.border:,.0f}"
        print(f"| {name} | {one.found:.3f} | {one.right:.3f} | {one.mcc:.3f} | {' | '.join(counts)} |")
    others = [one.mcc for name, one in figures.items() if not name.startswith(part)]
    if others:
        print(f"\nMCC, mean over {len(others)} genomes with annotated prophages: {np.mean(others):.3f}")
