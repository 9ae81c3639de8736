"""The parts of all files put together, in the order of the set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from vnp import __version__
from vnp.datasets.choosing.part import Part, PartRecord, add_up, rows
from vnp.datasets.choosing.sample import Pool
from vnp.datasets.choosing.split import Unit, UnitRecord
from vnp.datasets.recipe import Asked
from vnp.datasets.sheet import Source
from vnp.datasets.writing.write import SCHEMA, Chosen, Records
from vnp.errors import InputError
from vnp.features.split import PARTS

_BLOCK = 1 << 12


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The records that can be used, and the candidates, of all files.

    Attributes:
        parts: of the files, in the order of the sheet.
        records: that can be used, in the order of the files.
        source: index of each record's file.
        number: of each record in its file.
        record: of each candidate, an index into ``records``; candidates are in order of file, record, start, end.
        first: the first candidate of each file, and the number of all.
    """

    parts: Sequence[Part]
    records: Sequence[UnitRecord]
    source: Int64[np.ndarray, "records"]
    number: Int64[np.ndarray, "records"]
    record: Int64[np.ndarray, "candidates"]
    first: Int64[np.ndarray, "sources+1"]

    def column(self, name: str) -> Any:
        """A column of all candidates."""
        return np.concatenate([getattr(part, name) for part in self.parts])

    def sequence(self, record: int) -> bytes:
        """The bases of a record."""
        return self.parts[int(self.source[record])].sequence(int(self.number[record]))

    def pool(self) -> Pool:
        """The candidates, for sampling."""
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
        """The records as the written table refers to them."""
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
    """Put the parts of all files together.

    Raises:
        InputError: two files have a record of the same name.
    """
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


def told(items: Iterable[bytes], tell: Callable[[int], None]) -> Iterator[bytes]:
    """Pass items on, and tell now and then how many there were since the last time."""
    count = 0
    for item in items:
        yield item
        count += 1
        if count == _BLOCK:
            tell(count)
            count = 0
    tell(count)


_SAMPLES = 20


def summarise(
    asked: Asked,
    found: Gathered,
    records: Records,
    units: Mapping[str, Unit],
    chosen: Int64[np.ndarray, "chosen"],
    fasta_sha256: str,
) -> dict[str, Any]:
    """Count what a set consists of; nothing in it depends on when, where or how fast it was made.

    Args:
        asked: recipe and files.
        found: records and candidates of all files.
        records: the same records with unit and part.
        units: by name.
        chosen: positions of the chosen candidates.
        fasta_sha256: of the FASTA file.
    """
    names = asked.recipe.lengths.names
    frames = np.bitwise_count(found.column("frames")).astype(np.int64)
    group = np.array(records.organism_group)[found.record[chosen]]
    problems = [
        {"file": source.name, "record": record.name, "problem": record.problem}
        for source, part in zip(asked.sources, found.parts, strict=True)
        for record in part.records
        if record.problem is not None
    ]
    labels = np.array([source.label for source in asked.sources])[found.source[found.record[chosen]]]
    return {
        "schema": SCHEMA,
        "code": __version__,
        "command": asked.recipe.command(asked.sheet),
        "settings": asked.recipe.settings(),
        "prophages_sha256": asked.prophages,
        "fasta_sha256": fasta_sha256,
        "chunks": len(chosen),
        "rows": int(frames[chosen].sum()),
        "bases": int((found.column("end") - found.column("start"))[chosen].sum()),
        "labels": [
            {"label": name, "chunks": int(own.sum()), "rows": int(frames[chosen[own]].sum())}
            for name, own in (("viral", labels == 1), ("host", labels == 0))
        ],
        "files": [
            _file(source, digest, part)
            for source, digest, part in zip(asked.sources, asked.digests, found.parts, strict=True)
        ],
        "problems": problems[:_SAMPLES],
        "problem_count": len(problems),
        "counts": [
            {"organism_group": name, "length": length, **numbers}
            for name, length, numbers in rows(add_up((part.counts for part in found.parts), len(names)), names)
        ],
        "sample": list(_sample(found, records, chosen, group, names)),
        "units": len(units),
        "genomes": len({(record.label, record.genome) for record in found.records}),
        "split": list(_split(found, records, units, chosen, group, frames)),
    }


def _file(source: Source, digest: Mapping[str, str], part: Part) -> dict[str, Any]:
    usable = [record for record in part.records if record.problem is None]
    return {
        "path": source.name,
        "label": "viral" if source.label else "host",
        "group": source.group,
        "organism_group": source.organism_group,
        **digest,
        "records": len(part.records),
        "unusable": len(part.records) - len(usable),
        "bases": sum(record.bases for record in usable),
        **{
            name: sum(getattr(record, name) for record in usable)
            for name in ("proteins", "mismatched", "untranslated", "unchecked")
        },
        "without_proteins": sum(not record.proteins for record in usable),
    }


def _sample(
    found: Gathered,
    records: Records,
    chosen: Int64[np.ndarray, "chosen"],
    group: np.ndarray,
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Chosen chunks and rows of each organism group and length, and the genomes that they are from."""
    length = found.column("length")[chosen]
    frames = np.bitwise_count(found.column("frames"))[chosen].astype(np.int64)
    genomes = np.array([record.genome for record in found.records])[found.record[chosen]]
    for name in sorted(set(records.organism_group)):
        for number, size in enumerate(names):
            own = (group == name) & (length == number)
            _, shares = np.unique(genomes[own], return_counts=True)
            yield {
                "organism_group": name,
                "length": size,
                "genomes": len(shares),
                "chunks": int(own.sum()),
                "rows": int(frames[own].sum()),
                "least_of_a_genome": int(shares.min()) if len(shares) else 0,
                "most_of_a_genome": int(shares.max(initial=0)),
            }


def _split(
    found: Gathered,
    records: Records,
    units: Mapping[str, Unit],
    chosen: Int64[np.ndarray, "chosen"],
    group: np.ndarray,
    frames: np.ndarray,
) -> Iterator[dict[str, Any]]:
    """Units, chunks and rows of each organism group and part."""
    part = records.part[found.record[chosen]]
    part_of_unit = dict(zip(records.unit, records.part.tolist(), strict=True))
    for name in sorted(set(records.organism_group)):
        for number, title in enumerate(PARTS):
            own = (group == name) & (part == number)
            yield {
                "organism_group": name,
                "part": title,
                "units": sum(
                    about.organism_group == name and part_of_unit[unit] == number for unit, about in units.items()
                ),
                "chunks": int(own.sum()),
                "rows": int(frames[chosen[own]].sum()),
            }
