"""What is measured: labelled frames of feature files over the same records, and the chunks and records they make up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int32, Int64

from vnp.errors import FeatureError, UsageError
from vnp.features.columns import organisms_of
from vnp.features.read import Features
from vnp.features.split import some
from vnp.metrics.rules import BEST_FRAME, LEVELS, Aggregated, aggregate, chunk_keys

STRATA = ("organism", "length", "frames", "chunk")
_USUAL, _NEARLY_ALL = 0.02, 0.95
_CHUNK_LENGTHS = (100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 800, 1_000, 1_500, 2_000)
_LENGTHS = (300, 500, 1_000, 3_000, 10_000, 30_000, 100_000)
_CHUNK_FRAMES = (1, 2, 3, 4, 5, 6)
_RECORD_FRAMES = (1, 2, 6, 21, 101)
_NONE = np.empty(0, np.int64)
_SUFFIXES = {".gz", ".bz2", ".xz", ".zst", ".fna", ".fa", ".fasta", ".fq", ".fastq", ".ffn", ".fas", ".txt"}


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Labelled frames, n of them, of r records."""

    record: Int64[np.ndarray, "n"]  # which record each is of, below r
    chunk: Int32[np.ndarray, "n"]  # number of its chunk within the record
    frame: Int8[np.ndarray, "n"]  # index into ``vnp.sequences.frames.FRAME_NAMES``
    span: Int64[np.ndarray, "n"]  # bases of the frame
    names: list[str]  # of the records
    label: Int8[np.ndarray, "r"]  # of each record: 1 viral, 0 host
    group: list[str]  # of each record: what is drawn as a whole for intervals
    organism: list[str]  # of each record: the group of organisms it belongs to
    length: Int64[np.ndarray, "r"]  # of each record, in bases
    # bases of a chunk; a record that is shorter is a chunk of its own length. None where that is not known
    size: int | None = None

    def __len__(self) -> int:
        return len(self.record)

    def only(self, kept: Bool[np.ndarray, "n"] | Int64[np.ndarray, "m"]) -> Frames:
        """Some of the frames, by a mask or by their numbers; the records stay."""
        return replace(
            self, record=self.record[kept], chunk=self.chunk[kept], frame=self.frame[kept], span=self.span[kept]
        )

    def keys(self) -> Int64[np.ndarray, "n"]:
        """One number for each frame: record, chunk and frame."""
        # A row that is a chunk has the frame -1.
        found: Int64[np.ndarray, "n"] = chunk_keys(self.record, self.chunk) << 3 | (self.frame + 1)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """Frames, chunks or records to measure, m of them.

    Where chunks are not all of one length, as those of mixed training sets and reads are, ``strata`` has ``chunk``.
    """

    level: str  # ``frame``, ``chunk`` or ``record``
    record: Int64[np.ndarray, "m"]  # which record each is, or is of
    label: Int8[np.ndarray, "m"]  # 1 viral, 0 host
    group: Int64[np.ndarray, "m"]  # what is drawn as a whole, as a number below ``groups``
    groups: int  # how many there are
    # for each way of telling them apart, the name of each case's stratum, as a number, and the names
    strata: dict[str, tuple[Int64[np.ndarray, "m"], list[str]]]

    def __len__(self) -> int:
        return len(self.label)

    def only(self, kept: Int64[np.ndarray, "k"]) -> Cases:
        """Some of the cases, by their numbers."""
        drawn, group = np.unique(self.group[kept], return_inverse=True)
        strata = {by: (number[kept], names) for by, (number, names) in self.strata.items()}
        return Cases(self.level, self.record[kept], self.label[kept], group, len(drawn), strata)

    def parts(self) -> Iterator[tuple[str, str, Bool[np.ndarray, "m"]]]:
        """Each way of telling the cases apart, the name of a stratum that has any, and which belong to it."""
        for by in STRATA:
            number, names = self.strata.get(by, (_NONE, []))
            for index in np.unique(number):
                yield by, names[index], number == index


def make_cases(frames: Frames, level: str) -> Cases:
    """The frames themselves, or the chunks or records that they make up, in the order that ``lift`` gives."""
    chunk = chunk_keys(frames.record, frames.chunk)
    if level == "frame":
        within = aggregate(np.zeros(len(frames)), chunk)
        record, count = frames.record, within.frames[np.searchsorted(within.key, chunk)]
    else:
        grouped = _grouped(frames, np.zeros(len(frames)), level, BEST_FRAME)
        record, count = frames.record[grouped.first], grouped.frames
    drawn, group = np.unique(_numbered(frames.group)[0][record], return_inverse=True)
    organism, organisms = _numbered(frames.organism)
    return Cases(
        level=level,
        record=record,
        label=frames.label[record],
        group=group,
        groups=len(drawn),
        strata={
            "organism": (organism[record], organisms),
            "length": _binned(frames.length[record], _LENGTHS, " bp"),
            "frames": _binned(count, _RECORD_FRAMES if level == "record" else _CHUNK_FRAMES, ""),
            **_by_chunk(frames, record),
        },
    )


def lift(
    frames: Frames, probability: Float64[np.ndarray, "n"], level: str, rule: str = BEST_FRAME
) -> Float64[np.ndarray, "m"]:
    """Probabilities of frames, or by a rule (see ``aggregate``) of the chunks or records that they make up."""
    return probability if level == "frame" else _grouped(frames, probability, level, rule).probability


def _grouped(frames: Frames, probability: Float64[np.ndarray, "n"], level: str, rule: str) -> Aggregated:
    if level not in LEVELS:
        raise UsageError(f"no level {level!r}: choose one of {', '.join(LEVELS)}")
    key = frames.record if level == "record" else chunk_keys(frames.record, frames.chunk)
    return aggregate(probability, key, rule=rule, length=frames.span)


def _by_chunk(frames: Frames, record: Int64[np.ndarray, "m"]) -> dict[str, tuple[Int64[np.ndarray, "m"], list[str]]]:
    """The length of each case's chunk; nothing where chunks are alike but for the short ends of records.

    Lengths are told apart one by one where a few of them hold nearly all cases, as in a set of 150, 300 and 500
    bases, and the ends of records go together; else, as of a range of lengths or of trimmed reads, they are binned.
    """
    if frames.size is None or not len(record):
        return {}
    bases = np.minimum(frames.length[record], frames.size)
    found, counts = np.unique(bases, return_counts=True)
    usual = found[counts >= _USUAL * len(bases)]
    if len(usual) and counts[np.isin(found, usual)].sum() >= _NEARLY_ALL * len(bases):
        if len(usual) < 2:
            return {}
        number = np.where(np.isin(bases, usual), np.searchsorted(usual, bases), len(usual))
        return {"chunk": (number, [*(f"{length:,} bp" for length in usual.tolist()), "other lengths"])}
    return {"chunk": _binned(bases, _CHUNK_LENGTHS, " bp")}


def _numbered(names: list[str]) -> tuple[Int64[np.ndarray, "r"], list[str]]:
    """Names as numbers, in alphabetical order."""
    found = {name: number for number, name in enumerate(sorted(set(names)))}
    return np.array([found[name] for name in names], np.int64), list(found)


def _binned(
    values: Int64[np.ndarray, "m"], edges: tuple[int, ...], unit: str
) -> tuple[Int64[np.ndarray, "m"], list[str]]:
    """Numbers of bins, and their names; a bin holds its lower edge."""
    names = [f"below {edges[0]:,}{unit}"]
    for low, high in pairwise(edges):
        names.append(f"{low:,}{unit}" if high == low + 1 else f"{low:,} to {high - 1:,}{unit}")
    return np.searchsorted(np.array(edges), values, side="right"), [*names, f"from {edges[-1]:,}{unit}"]


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


def read_table(name: str, features: Features, organisms: Mapping[str, str] | None = None) -> Table:
    """Read what the rows of a feature file are; without ``organisms`` these are called by the input file."""
    records = features.records()
    names = [text.decode() for text in records.name]
    group = [text.decode() for text in records.group]
    if organisms is None:
        stems = [_stem(entry["path"]) for entry in features.provenance["inputs"]]
        organism = [stems[number] for number in records.input]
    else:
        organism = organisms_of(features, organisms)
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
    """Number the records of all tables as the first does, and say whether they have the same frames too.

    Sets of another chunk size share only the records.
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
