"""What a training set consists of, in numbers: the content of its data card and of ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from vnp import __version__
from vnp.datasets.choosing.chosen import Records
from vnp.datasets.choosing.counts import add_up, rows
from vnp.datasets.choosing.part import Part
from vnp.datasets.choosing.split import PARTS, Unit
from vnp.datasets.recipe import Asked
from vnp.datasets.sheet import Source
from vnp.datasets.writing.gather import Gathered
from vnp.datasets.writing.write import SCHEMA

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
