"""Genomes in which it is known where phages are: planted, or annotated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from vnp.encoders.models.sixframe import base_codes
from vnp.finetune.genomes import Genomes
from vnp.sequences.reading import read_records

SHORTEST, LONGEST = 10_000, 60_000
_HOST = 100_000
_FREE = ("archaea", "bacteria", "plasmid", "organelle", "fungi")
# One phage for so many bases of a host, and so far from each other at least.
_APART = 100_000
_ROOM = 20_000


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
        unknown = _unknown(genomes, host)
        yield _joined(f"host{at:03d}", genomes.record(host), pieces, unknown, random, at_end=at % 4 == 1)


def without_phages(genomes: Genomes, part: int) -> Iterator[Genome]:
    """Hosts of 10 kb and more into which ``plant`` puts none: prokaryotes, plasmids, organelles, fungi."""
    bacteria = genomes.groups.index("bacteria")
    for host in np.flatnonzero((genomes.part == part) & ~genomes.viral & (genomes.lengths >= SHORTEST)).tolist():
        group = genomes.groups[genomes.group[host]]
        if group in _FREE and not (genomes.group[host] == bacteria and genomes.lengths[host] >= _HOST):
            yield Genome(f"{group}{host}", genomes.record(host), np.zeros((0, 2), np.int64), _unknown(genomes, host))


def _unknown(genomes: Genomes, host: int) -> Int64[np.ndarray, "runs 2"]:
    """What of a record is ignored; a run of ignored bases may be of neighbouring records, too."""
    begins, behind = genomes.starts[host : host + 2].tolist()
    spans = np.stack((genomes.ignored[:, 0], genomes.ignored.sum(axis=1)), axis=1)
    own = spans[(spans[:, 1] > begins) & (spans[:, 0] < behind)]
    found: Int64[np.ndarray, "runs 2"] = np.clip(own, begins, behind) - begins
    return found


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
