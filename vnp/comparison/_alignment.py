"""Feature files over the same records: their labelled frames in one order, or the words that say why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int8, Int64

from vnp.comparison._cases import Frames
from vnp.errors import FeatureError
from vnp.features.read import Features
from vnp.features.split import look_up, some

_SUFFIXES = {".gz", ".bz2", ".xz", ".zst", ".fna", ".fa", ".fasta", ".fq", ".fastq", ".ffn", ".fas", ".txt"}


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The labelled frames of a feature file."""

    name: str
    features: Features
    frames: Frames
    row: Int64[np.ndarray, "n"]
    unlabelled: int
    part: Int8[np.ndarray, "n"]

    def groups(self) -> list[str]:
        """The group of every frame."""
        return [self.frames.group[record] for record in self.frames.record.tolist()]

    def ids(self) -> list[str]:
        """The id of every frame."""
        ids = self.features.ids()
        return [ids[row] for row in self.row.tolist()]


def read_table(
    name: str,
    features: Features,
    organisms: Mapping[str, str] | None = None,
) -> Table:
    """Read what the rows of a feature file are."""
    records = features.records()
    names = [text.decode() for text in records.name]
    group = [text.decode() for text in records.group]
    if organisms is None:
        stems = [_stem(entry["path"]) for entry in features.provenance["inputs"]]
        organism = [stems[number] for number in records.input]
    else:
        by_group = [organisms.get(key) for key in group]
        organism = look_up(names, [organisms, dict(zip(names, by_group, strict=True))], "group of organisms")
    columns = {
        column: np.concatenate([np.empty(0, np.int64), *features.number_windows(column)])
        for column in ("record", "chunk", "frame", "start", "end")
    }
    record = np.searchsorted(records.ordinal, columns["record"])
    frames = Frames(
        record=record,
        chunk=columns["chunk"].astype(np.int32),
        frame=columns["frame"].astype(np.int8),
        span=columns["end"] - columns["start"],
        names=names,
        label=records.label,
        group=group,
        organism=organism,
        length=records.length,
        size=features.chunk,
    )
    labelled = np.flatnonzero(records.label[record] >= 0)
    if not len(labelled):
        raise FeatureError("no row has a label; extract with a samplesheet that has labels", path=features.path)
    row = labelled[np.argsort(frames.only(labelled).keys(), kind="stable")]
    return Table(name, features, frames.only(row), row, features.rows - len(labelled), features.splits()[row])


def align(tables: Sequence[Table]) -> tuple[list[Table], bool]:
    """Number the records of all tables as the first does."""
    first = tables[0]
    aligned = [first]
    for table in tables[1:]:
        _require_same_records(first, table)
        number = {name: index for index, name in enumerate(first.frames.names)}
        of_first = np.array([number[name] for name in table.frames.names], np.int64)
        frames = replace(
            table.frames,
            record=of_first[table.frames.record],
            names=first.frames.names,
            label=first.frames.label,
            group=first.frames.group,
            organism=first.frames.organism,
            length=first.frames.length,
        )
        order = np.argsort(frames.keys(), kind="stable")
        aligned.append(replace(table, frames=frames.only(order), row=table.row[order], part=table.part[order]))
    keys = [table.frames.keys() for table in aligned]
    same_chunk = len({table.features.chunk for table in tables}) == 1
    return aligned, same_chunk and all(np.array_equal(key, keys[0]) for key in keys[1:])


def _require_same_records(first: Table, other: Table) -> None:
    number = {name: index for index, name in enumerate(first.frames.names)}
    theirs = set(other.frames.names)
    said = []
    for table, missing in (
        (first, [name for name in first.frames.names if name not in theirs]),
        (other, [name for name in other.frames.names if name not in number]),
    ):
        if missing:
            said.append(f"{len(missing):,} records are only in {table.name}: {some(missing)}")
    if not said:
        place = np.array([number[name] for name in other.frames.names], np.int64)
        for what, ours, others in (
            ("length", first.frames.length, other.frames.length),
            ("label", first.frames.label, other.frames.label),
            ("group", np.array(first.frames.group, object), np.array(other.frames.group, object)),
        ):
            differing = [other.frames.names[index] for index in np.flatnonzero(ours[place] != others)]
            if differing:
                said.append(f"{len(differing):,} records have another {what}: {some(differing)}")
    if said:
        raise FeatureError(
            f"{first.name} and {other.name} are not over the same records, so they cannot be compared.\n  "
            + "\n  ".join(said)
            + f"\n  {first.name}: {len(number):,} records of {first.features.path}"
            + f"\n  {other.name}: {len(theirs):,} records of {other.features.path}"
        )


def _stem(path: str) -> str:
    name = Path(path)
    while name.suffix.lower() in _SUFFIXES and name.stem:
        name = Path(name.stem)
    return name.name
