"""Feature files over the same records: their labelled frames in one order, or the words that say why not."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vnp.errors import FeatureError, InputError
from vnp.evaluation.cases import Frames
from vnp.features.read import Features

_NAMED = 5
_SUFFIXES = {".gz", ".bz2", ".xz", ".zst", ".fna", ".fa", ".fasta", ".fq", ".fastq", ".ffn", ".fas", ".txt"}


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The labelled frames of a feature file.

    Args:
        name: what the file is called here.
        features: the file.
        frames: its labelled frames, in ascending order of their keys.
        row: which row of the file each is.
        unlabelled: rows that have no label and are left out.
    """

    name: str
    features: Features
    frames: Frames
    row: Int64[np.ndarray, "n"]
    unlabelled: int


def read_table(
    name: str,
    features: Features,
    *,
    groups: Mapping[str, str] | None = None,
    organisms: Mapping[str, str] | None = None,
) -> Table:
    """Read what the rows of a feature file are.

    Args:
        name: what to call the file.
        features: the file.
        groups: the group of a record that a split must not cut, by the record's name, in place of the stored one.
        organisms: the group of organisms by the name of the record, or of its group; by default it is the name of the
            input file.

    Raises:
        FeatureError: no row has a label.
        InputError: ``groups`` or ``organisms`` lack a record.
    """
    records = features.records()
    names = [text.decode() for text in records.name]
    group = [text.decode() for text in records.group]
    if groups is not None:
        group = _looked_up(names, [groups], "group")
    if organisms is None:
        stems = [_stem(entry["path"]) for entry in features.provenance["inputs"]]
        organism = [stems[number] for number in records.input]
    else:
        by_group = [organisms.get(key) for key in group]
        organism = _looked_up(names, [organisms, dict(zip(names, by_group, strict=True))], "group of organisms")
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
    )
    labelled = np.flatnonzero(records.label[record] >= 0)
    if not len(labelled):
        raise FeatureError("no row has a label; extract with a samplesheet that has labels", path=features.path)
    row = labelled[np.argsort(frames.only(labelled).keys(), kind="stable")]
    return Table(name, features, frames.only(row), row, features.rows - len(labelled))


def align(tables: Sequence[Table]) -> tuple[list[Table], bool]:
    """Number the records of all tables as the first does.

    Returns:
        The tables, and whether they have the same frames too: sets of another chunk size share only the records.

    Raises:
        FeatureError: the records are not the same; the message says which are where.
    """
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
        aligned.append(replace(table, frames=frames.only(order), row=table.row[order]))
    keys = [table.frames.keys() for table in aligned]
    same_chunk = len({table.features.chunk for table in tables}) == 1
    return aligned, same_chunk and all(np.array_equal(key, keys[0]) for key in keys[1:])


def read_names(path: Path) -> dict[str, str]:
    """Read which group each record is in.

    Args:
        path: a tab-separated file of two columns, the record's name and its group; a first line that begins with
            ``record`` or ``#`` is a heading.

    Raises:
        InputError: the file cannot be read, a line has not two columns, or a record stands in two groups.
    """
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, cells in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                if not cells or (line == 1 and (cells[0] == "record" or cells[0].startswith("#"))):
                    continue
                if len(cells) != 2 or not all(cell.strip() for cell in cells):
                    raise InputError(
                        f"has {len(cells)} columns; give record and group, with a tab", path=path, line=line
                    )
                record, group = (cell.strip() for cell in cells)
                if found.setdefault(record, group) != group:
                    raise InputError(f"puts {record} into {group} and into {found[record]}", path=path, line=line)
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", path=path) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error
    if not found:
        raise InputError("names no record", path=path)
    return found


def _looked_up(names: Sequence[str], sources: Sequence[Mapping[str, str | None]], what: str) -> list[str]:
    found = [next((source[name] for source in sources if source.get(name)), None) for name in names]
    missing = [name for name, value in zip(names, found, strict=True) if value is None]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(names):,} records have no {what} in the file given: {_some(missing)}. Add a "
            "line for each, with the record's name, a tab, and its group"
        )
    return [value for value in found if value is not None]


def _require_same_records(first: Table, other: Table) -> None:
    number = {name: index for index, name in enumerate(first.frames.names)}
    theirs = set(other.frames.names)
    said = []
    for table, missing in (
        (first, [name for name in first.frames.names if name not in theirs]),
        (other, [name for name in other.frames.names if name not in number]),
    ):
        if missing:
            said.append(f"{len(missing):,} records are only in {table.name}: {_some(missing)}")
    if not said:
        place = np.array([number[name] for name in other.frames.names], np.int64)
        for what, ours, others in (
            ("length", first.frames.length, other.frames.length),
            ("label", first.frames.label, other.frames.label),
            ("group", np.array(first.frames.group, object), np.array(other.frames.group, object)),
        ):
            differing = [other.frames.names[index] for index in np.flatnonzero(ours[place] != others)]
            if differing:
                said.append(f"{len(differing):,} records have another {what}: {_some(differing)}")
    if said:
        raise FeatureError(
            f"{first.name} and {other.name} are not over the same records, so they cannot be compared.\n  "
            + "\n  ".join(said)
            + f"\n  {first.name}: {len(number):,} records of {first.features.path}"
            + f"\n  {other.name}: {len(theirs):,} records of {other.features.path}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _stem(path: str) -> str:
    name = Path(path)
    while name.suffix.lower() in _SUFFIXES and name.stem:
        name = Path(name.stem)
    return name.name
