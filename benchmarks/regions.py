"""Viral regions against what is known: phages put into bacterial genomes, and prophages that were annotated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from benchmarks._commands import command, options
from vnp.encoders.models.sixframe import base_codes
from vnp.finetune.genomes import TEST, VALIDATION, Genomes, load_genomes, within
from vnp.sequences.reading import read_records

SHORTEST, LONGEST = 10_000, 60_000
_HOST = 100_000
# One phage for so many bases of a host, and so far from each other at least.
_APART = 100_000
_ROOM = 20_000
_LETTERS = bytes.maketrans(bytes(range(5)), b"ACGTN")
_PARTS = {"validation": VALIDATION, "test": TEST}


@dataclass(frozen=True, slots=True, eq=False)
class Genome:
    """One record, with phages in it or without.

    Attributes:
        name: of the record.
        codes: its bases, as ``base_codes`` has them.
        viral: start and end of each phage, 0-based, end exclusive.
        unknown: start and end of what resembles viruses in the host itself: neither right nor wrong.
    """

    name: str
    codes: UInt8[np.ndarray, " bases"]
    viral: Int64[np.ndarray, "phages 2"]
    unknown: Int64[np.ndarray, "runs 2"]


def plant(genomes: Genomes, part: int, seed: int = 7) -> Iterator[Genome]:
    """Put phages of 10 to 60 kb into bacteria of 100 kb and more; every third host stays free of them.

    A phage goes into the host whose G+C is nearest to its own among those that have room, on either strand. Of longer
    phages a piece is taken. In every fourth host with phages the first one stands at the record's end.

    Args:
        genomes: a packed set.
        part: ``VALIDATION`` or ``TEST``.
        seed: of places, strands and pieces.
    """
    random = np.random.default_rng(seed)
    lengths = genomes.lengths
    held = genomes.part == part
    hosts = np.flatnonzero(held & (genomes.group == genomes.groups.index("bacteria")) & (lengths >= _HOST))
    phages = np.flatnonzero(held & (genomes.group == genomes.groups.index("phage")) & (lengths >= SHORTEST))
    gc = {int(record): _gc(genomes.record(record)) for record in (*hosts, *phages)}
    with_room = {int(host): int(lengths[host] // _APART) for at, host in enumerate(hosts) if at % 3}
    chosen: dict[int, list[int]] = {int(host): [] for host in hosts}
    # A few at a time of each unit, so that relatives do not fill all places.
    order = _in_turn(genomes, random.permutation(phages))
    for phage in order:
        free = [host for host, room in with_room.items() if room > len(chosen[host])]
        if not free:
            break
        chosen[min(free, key=lambda host: abs(gc[host] - gc[phage]))].append(phage)
    for at, host in enumerate(hosts.tolist()):
        pieces = [_piece(genomes.record(phage), random) for phage in chosen[host]]
        ignored = genomes.ignored[genomes.ignored[:, 0] >= genomes.starts[host]]
        ignored = ignored[ignored[:, 0] < genomes.starts[host + 1]]
        unknown = np.stack((ignored[:, 0], ignored.sum(axis=1)), axis=1) - genomes.starts[host]
        yield _joined(f"host{at:03d}", genomes.record(host), pieces, unknown, random, at_end=at % 4 == 1)


def _gc(codes: UInt8[np.ndarray, " bases"]) -> float:
    counts = np.bincount(codes, minlength=5)[:4]
    return float((counts[1] + counts[2]) / max(1, counts.sum()))


def _in_turn(genomes: Genomes, phages: Int64[np.ndarray, " n"]) -> list[int]:
    """The first of each unit, then the second of each."""
    seen: dict[int, int] = {}
    ranked = []
    for place, phage in enumerate(phages.tolist()):
        unit = int(genomes.unit[phage])
        seen[unit] = seen.get(unit, 0) + 1
        ranked.append((seen[unit], place, phage))
    return [phage for _, _, phage in sorted(ranked)]


def _piece(codes: UInt8[np.ndarray, " bases"], random: np.random.Generator) -> UInt8[np.ndarray, " piece"]:
    if len(codes) > LONGEST:
        size = int(random.integers(SHORTEST, LONGEST + 1))
        first = int(random.integers(len(codes) - size + 1))
        codes = codes[first : first + size]
    return reverse_complement(codes) if random.random() < 0.5 else codes


def reverse_complement(codes: UInt8[np.ndarray, " bases"]) -> UInt8[np.ndarray, " bases"]:
    """The other strand."""
    other: UInt8[np.ndarray, " bases"] = np.array([3, 2, 1, 0, 4], np.uint8)[codes[::-1]]
    return other


def _joined(
    name: str,
    host: UInt8[np.ndarray, " bases"],
    phages: list[UInt8[np.ndarray, " piece"]],
    unknown: Int64[np.ndarray, "runs 2"],
    random: np.random.Generator,
    *,
    at_end: bool,
) -> Genome:
    """A host with phages at places that are apart."""
    count = len(phages)
    slack = len(host) - _ROOM * (count + 1)
    places = np.sort(random.integers(0, slack, count)) + _ROOM * np.arange(1, count + 1)
    if at_end and count:
        places[-1] = len(host)
    parts, viral, last, at = [], [], 0, 0
    moved = unknown.copy()
    for place, phage in zip(places.tolist(), phages, strict=True):
        parts += [host[last:place], phage]
        at += place - last
        viral.append((at, at + len(phage)))
        moved[unknown >= place] += len(phage)
        at, last = at + len(phage), place
    parts.append(host[last:])
    return Genome(name, np.concatenate(parts), np.array(viral, np.int64).reshape(-1, 2), moved)


def annotated(folder: Path) -> Iterator[list[Genome]]:
    """The records of each genome of a folder of NAME.fna.gz beside NAME.bed, which says where phages are."""
    for path in sorted(folder.glob("*.fna.gz")):
        lines = path.with_name(path.name.removesuffix(".fna.gz") + ".bed").read_text().splitlines()
        known = [(name, int(start), int(end)) for name, start, end, *_ in (line.split("\t") for line in lines)]
        found = []
        for record in read_records(path):
            own = [(start, end) for name, start, end in known if name == record.name]
            viral = np.array(own, np.int64).reshape(-1, 2)
            codes = base_codes(record.sequence.decode("ascii"))
            found.append(Genome(record.name, codes, viral, np.zeros((0, 2), np.int64)))
        yield found


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
    false_a_mbp: float  # of host
    border: float  # median error of a border, bases


def compare(genomes: Sequence[Genome], called: dict[str, list[tuple[int, int]]]) -> Figures:
    """Compare regions with where phages are, over some records together."""
    counts = np.zeros((2, 2), np.int64)
    errors: list[int] = []
    missed = false = regions = phages = 0
    for genome in genomes:
        size = len(genome.codes)
        spans = np.array(called.get(genome.name, []), np.int64).reshape(-1, 2)
        viral, region, unknown = (_marked(one, size) for one in (genome.viral, spans, genome.unknown))
        counted = viral | ~unknown
        np.add.at(counts, (viral[counted].astype(int), region[counted].astype(int)), 1)
        regions += len(spans)
        phages += len(genome.viral)
        for start, end in spans.tolist():
            false += not viral[start:end].any() and not unknown[start:end].mean() > 0.5
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
        false_a_mbp=round(false / max(1.0, host + wrong) * 1e6, 4),
        border=float(np.median(errors)) if errors else float("nan"),
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
@click.option(
    "--prophages",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of NAME.fna.gz with NAME.bed: genomes with annotated prophages.",
)
@click.option("--checkpoint", default="native", help="As predict takes it: native, or a folder of finetune.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to run.")
@options.as_json
def main(
    packed: Path, out: Path, part: str, prophages: Path | None, checkpoint: str, device: str, as_json: bool
) -> None:
    """Measure predict --regions.

    Held-out phages of 10 to 60 kb of PACKED, the genomes.npz of a training, are put into its held-out bacteria; every
    third stays free of them. Writes regions.json.
    """
    cases = [(part, list(plant(load_genomes(packed), _PARTS[part])))]
    if prophages is not None:
        names = [path.name.removesuffix(".fna.gz") for path in sorted(prophages.glob("*.fna.gz"))]
        cases += zip(names, annotated(prophages), strict=True)
    figures = {name: compare(genomes, call(genomes, out / name, checkpoint, device)) for name, genomes in cases}
    found = {name: asdict(one) for name, one in figures.items()}
    (out / "regions.json").write_text(json.dumps(found, indent=2))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(
        "| | bases found | right | MCC | missed | false a Mbp of host | border, median |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for name, one in figures.items():
        counts = f"{one.missed} of {one.phages}", f"{one.false_a_mbp:.2f} ({one.false})", f"{one.border:,.0f}"
        print(f"| {name} | {one.found:.3f} | {one.right:.3f} | {one.mcc:.3f} | {' | '.join(counts)} |")
    others = [one.mcc for name, one in figures.items() if name != part]
    if others:
        print(f"\nMCC, mean over {len(others)} genomes with annotated prophages: {np.mean(others):.3f}")


if __name__ == "__main__":
    main()
