"""Puts the parts of all files together, in the order of the set, and counts what it consists of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from vnp import __version__
from vnp.datasets.choosing._part import Counts, Part, PartRecord, no_counts
from vnp.datasets.choosing._sample import Pool
from vnp.datasets.choosing._split import Unit, UnitRecord
from vnp.datasets.recipe import Request
from vnp.datasets.sheet import LABEL_NAMES, Source
from vnp.datasets.writing.write import SCHEMA, Chosen, Records
from vnp.errors import InputError
from vnp.features.split import PARTS

_SAMPLES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The records that can be used, and the candidates, of all files, in the order of the sheet."""

    parts: Sequence[Part]  # of the files
    records: Sequence[UnitRecord]  # that can be used
    source: Int64[np.ndarray, "records"]  # index of each record's file
    number: Int64[np.ndarray, "records"]  # of each record in its file
    # of each candidate, an index into ``records``; candidates are in order of file, record, start, end
    record: Int64[np.ndarray, "candidates"]
    first: Int64[np.ndarray, "sources+1"]  # the first candidate of each file, and the number of all

    def column(self, name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in self.parts])

    def sequence(self, record: int) -> bytes:
        return self.parts[int(self.source[record])].sequence(int(self.number[record]))

    def pool(self) -> Pool:
        groups = {record.organism_group: record.label for record in self.records}
        group_names = sorted(groups)
        genome_names = sorted({record.genome for record in self.records})
        group_numbers = {name: number for number, name in enumerate(group_names)}
        genome_numbers = {name: number for number, name in enumerate(genome_names)}
        group = np.array([group_numbers[record.organism_group] for record in self.records], np.int64)
        genome = np.array([genome_numbers[record.genome] for record in self.records], np.int64)
        return Pool(
            group=group[self.record],
            genome=genome[self.record],
            length=self.column("length").astype(np.int64),
            key=self.column("key"),
            groups=group_names,
            labels=[groups[name] for name in group_names],
            genomes=genome_names,
        )

    def table(self, units: Sequence[str], split: Mapping[str, int]) -> Records:
        return Records(
            name=[record.name for record in self.records],
            source=self.source,
            unit=units,
            organism_group=[record.organism_group for record in self.records],
            part=np.array([split[unit] for unit in units], np.int8),
        )

    def chosen(self, rows: Int64[np.ndarray, "chosen"]) -> Chosen:
        """Some of the candidates; ``rows`` ascend."""
        start, end, frames, annotated = (self.column(name)[rows] for name in ("start", "end", "frames", "annotated"))
        return Chosen(self.record[rows], start, end, frames, annotated)

    def bases(self, rows: Int64[np.ndarray, "chosen"]) -> Iterator[bytes]:
        """The bases of some of the candidates; ``rows`` ascend."""
        edges = np.searchsorted(rows, self.first)
        for index, part in enumerate(self.parts):
            yield from part.bases(rows[edges[index] : edges[index + 1]] - self.first[index])


def gather(sources: Sequence[Source], parts: Sequence[Part]) -> Gathered:
    """Put the parts of all files together; InputError where two files have a record of the same name."""
    records: list[UnitRecord] = []
    places: list[tuple[int, int]] = []
    seen: dict[str, Source] = {}
    of_candidates = []
    for index, (source, part) in enumerate(zip(sources, parts, strict=True)):
        own = np.full(len(part.records), -1)
        for number, about in enumerate(part.records):
            if about.problem is not None:
                continue
            other = seen.setdefault(about.name, source)
            if other is not source:
                raise InputError(
                    f"the record stands in {other.path} too; remove one of the two", path=source.path, record=about.name
                )
            own[number] = len(records)
            places.append((index, number))
            records.append(_record(source, about))
        of_candidates.append(own[part.record])
    pairs = np.array(places, np.int64).reshape(-1, 2)
    first = np.cumsum([0, *map(len, of_candidates)])
    return Gathered(parts, records, pairs[:, 0], pairs[:, 1], np.concatenate(of_candidates), first)


def _record(source: Source, about: PartRecord) -> UnitRecord:
    genome = about.genome
    if source.group is not None and genome == about.name:
        # The file does not say whose the record is, as FASTA does not; the contigs of a given group are one genome.
        genome = source.group
    return UnitRecord(about.name, genome, source.label, about.group, about.bases, source.group, str(source.path))


def summarise(
    request: Request,
    found: Gathered,
    records: Records,
    units: Mapping[str, Unit],
    chosen: Int64[np.ndarray, "chosen"],
    fasta_sha256: str,
) -> dict[str, Any]:
    """Count what a set consists of, for the data card and ``--json``.

    Nothing in it depends on when, where or how fast it was made.
    """
    names = request.recipe.lengths.names
    frames = np.bitwise_count(found.column("frames")[chosen]).astype(np.int64)
    record = found.record[chosen]
    labels = np.array([source.label for source in request.sources])[found.source[record]]
    files = list(zip(request.sources, request.digests, found.parts, strict=True))
    problems = [
        {"file": source.name, "record": one.name, "problem": one.problem}
        for source, _, part in files
        for one in part.records
        if one.problem is not None
    ]
    return {
        "schema": SCHEMA,
        "code": __version__,
        "command": request.recipe.command(request.sheet),
        "settings": request.recipe.settings(),
        "prophages_sha256": request.prophages,
        "fasta_sha256": fasta_sha256,
        "chunks": len(chosen),
        "rows": int(frames.sum()),
        "bases": int((found.column("end") - found.column("start"))[chosen].sum()),
        "labels": [
            {
                "label": LABEL_NAMES[label],
                "chunks": int((labels == label).sum()),
                "rows": int(frames[labels == label].sum()),
            }
            for label in (1, 0)
        ],
        "files": [{**source.about(), **digest, **_counted(part)} for source, digest, part in files],
        "problems": problems[:_SAMPLES],
        "problem_count": len(problems),
        "counts": [
            {"organism_group": group, "length": length, **numbers}
            for group, own in _counts(found.parts, len(names)).items()
            for length, numbers in zip(names, own, strict=True)
        ],
        "sample": list(_sample(found, records, chosen, frames, names)),
        "units": len(units),
        "genomes": len({(one.label, one.genome) for one in found.records}),
        "split": list(_split(records, units, record, frames)),
    }


def _counted(part: Part) -> dict[str, int]:
    usable = [record for record in part.records if record.problem is None]
    sums = ("bases", "proteins", "mismatched", "untranslated", "unchecked")
    return {
        "records": len(part.records),
        "unusable": len(part.records) - len(usable),
        **{name: sum(getattr(record, name) for record in usable) for name in sums},
        "without_proteins": sum(not record.proteins for record in usable),
    }


def _counts(parts: Sequence[Part], lengths: int) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for part in parts:
        for group, own in part.counts.items():
            for into, numbers in zip(total.setdefault(group, no_counts(lengths)), own, strict=True):
                for name, number in numbers.items():
                    into[name] += number
    return dict(sorted(total.items()))


def _sample(
    found: Gathered,
    records: Records,
    chosen: Int64[np.ndarray, "chosen"],
    frames: Int64[np.ndarray, "chosen"],
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Chosen chunks and rows of each organism group and length, and the genomes that they are from."""
    record, length = found.record[chosen], found.column("length")[chosen]
    groups = np.array(records.organism_group)[record]
    genomes = np.array([one.genome for one in found.records])[record]
    for group in sorted(set(records.organism_group)):
        for number, size in enumerate(names):
            own = (groups == group) & (length == number)
            _, shares = np.unique(genomes[own], return_counts=True)
            yield {
                "organism_group": group,
                "length": size,
                "genomes": len(shares),
                "chunks": int(own.sum()),
                "rows": int(frames[own].sum()),
                "least_of_a_genome": int(shares.min()) if len(shares) else 0,
                "most_of_a_genome": int(shares.max(initial=0)),
            }


def _split(
    records: Records,
    units: Mapping[str, Unit],
    record: Int64[np.ndarray, "chosen"],
    frames: Int64[np.ndarray, "chosen"],
) -> Iterator[dict[str, Any]]:
    """Units, chunks and rows of each organism group and part; ``record`` is that of each chosen chunk."""
    groups = np.array(records.organism_group)[record]
    part_of_unit = dict(zip(records.unit, records.part.tolist(), strict=True))
    count = Counter((about.organism_group, part_of_unit[unit]) for unit, about in units.items())
    for group in sorted(set(records.organism_group)):
        for number, part in enumerate(PARTS):
            own = (groups == group) & (records.part[record] == number)
            yield {
                "organism_group": group,
                "part": part,
                "units": count[group, number],
                "chunks": int(own.sum()),
                "rows": int(frames[own].sum()),
            }
