"""What was found in one file, on the disk: so that a run that was killed goes on where it was.

A part is two files. ``KEY.bases`` has the bases of candidates, and records packed with zstd, as they came. ``KEY.npz``
has everything else; it is written last, so a part is there if and only if that file is.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard
from jaxtyping import Bool, Int64, UInt8, UInt64

from vnp.datasets.annotations.annotated import Annotated
from vnp.files.durable import replacing
from vnp.files.hashing import crc32
from vnp.files.records import parse_json

COUNTED = (
    "chunks", "ambiguous", "no_open_frame", "unannotated", "listed", "matched", "kept",
    "frames", "frames_unannotated", "frames_listed", "frames_matched", "frames_kept", "frames_annotated",
)  # fmt: skip
"""What is counted. Each chunk is one of ambiguous, without an open frame, without an annotated one, in a listed region,
matched by a viral genome, or kept; each open frame of unambiguous chunks is one of the last four. ``frames_annotated``
are those among the kept ones that lie in an annotated protein."""

Counts = list[dict[str, int]]
"""Of one organism group: by number of the length, the number of each of ``COUNTED``."""

_LEVEL = 1
_COLUMNS = {
    "record": np.int64, "length": np.uint8, "start": np.int64, "end": np.int64, "frames": np.uint8,
    "annotated": np.uint8, "key": np.uint64, "place": np.int64,
}  # fmt: skip
# So many beyond twice the limit, it is worth while to throw the highest keys away.
_SPARE = 1 << 12
# Blocks of candidates that are joined into one.
_FEW = 512


def no_counts(lengths: int) -> Counts:
    return [dict.fromkeys(COUNTED, 0) for _ in range(lengths)]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Candidates of one record and length, in order of place, 0-based and end exclusive, and the record's sequence.

    In ``frames``, which is never 0, bit ``k`` is set where frame ``k`` of F1 F2 F3 R1 R2 R3 can become a row; in
    ``annotated`` where it lies in an annotated protein besides.
    """

    start: Int64[np.ndarray, "n"]
    end: Int64[np.ndarray, "n"]
    frames: UInt8[np.ndarray, "n"]
    annotated: UInt8[np.ndarray, "n"]
    sequence: bytes

    def take(self, rows: Bool[np.ndarray, "n"] | Int64[np.ndarray, "m"]) -> Found:
        return Found(self.start[rows], self.end[rows], self.frames[rows], self.annotated[rows], self.sequence)

    def bases(self) -> Iterator[bytes]:
        for start, end in zip(self.start.tolist(), self.end.tolist(), strict=True):
            yield self.sequence[start:end]

    def open_frames(self) -> int:
        return int(np.bitwise_count(self.frames).sum())


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One record of a file; the numbers of its coding sequences are those of ``Annotated``.

    Its organism group is empty where it has a problem. ``place`` and ``packed`` say where the packed sequence lies in
    the file of bases; the place is -1 where it was not kept.
    """

    name: str
    genome: str
    group: str
    bases: int
    proteins: int
    mismatched: int
    untranslated: int
    unchecked: int
    problem: str | None
    place: int = -1
    packed: int = 0
    lineage: tuple[str, ...] = ()
    date: str = ""


class _Reservoir:
    """The candidates with the lowest keys of one genome and length, or all candidates where there is no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._small: list[list[np.ndarray]] = []
        self._blocks: list[list[np.ndarray]] = []
        self._count = 0
        self.below = np.uint64(np.iinfo(np.uint64).max)

    def add(self, columns: list[np.ndarray]) -> None:
        self._small.append(columns)
        self._count += len(columns[0])
        if self._limit is not None and self._count > 2 * self._limit + _SPARE:
            self.columns()
        elif len(self._small) == _FEW:
            # A million short records would otherwise be as many small arrays, which take more room than what they hold.
            self._blocks.append(_joined(self._small))
            self._small = []

    def columns(self) -> list[np.ndarray]:
        """What is kept, each column in one array."""
        columns = _joined([*self._blocks, *self._small])
        if self._limit is not None and len(columns[0]) > self._limit:
            key = columns[list(_COLUMNS).index("key")]
            lowest = np.argsort(key, kind="stable")[: self._limit]
            self.below = key[lowest[-1]]
            columns = [column[lowest] for column in columns]
        self._blocks, self._small = [columns], []
        self._count = len(columns[0])
        return columns


def _joined(blocks: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(column) for column in zip(*blocks, strict=True)]


class PartWriter:
    """Takes what is found in one file; candidates of each genome and length are kept up to a limit."""

    def __init__(self, file: BinaryIO, lengths: int, limit: int | None) -> None:
        self._file = file
        self._lengths = lengths
        self._limit = limit
        self._place = 0
        self._crc = 0
        self._records: list[PartRecord] = []
        self._counts: dict[str, Counts] = {}
        self._reservoirs: dict[tuple[str, str, int], _Reservoir] = {}

    def add_record(self, record: Annotated, group: str, *, keep: bool) -> int:
        """Enter a record, and its sequence where that is to be kept; returns its number."""
        place, packed = -1, b""
        if keep:
            place, packed = self._place, zstandard.ZstdCompressor(level=_LEVEL).compress(record.sequence)
            self._write(packed)
        self._records.append(
            PartRecord(
                record.name, record.genome, group, len(record.sequence), len(record.proteins), record.mismatched,
                record.untranslated, record.unchecked, record.problem, place, len(packed), record.lineage, record.date,
            )
        )  # fmt: skip
        return len(self._records) - 1

    def counts(self, group: str) -> Counts:
        return self._counts.setdefault(group, no_counts(self._lengths))

    def add_chunks(self, number: int, length: int, keys: UInt64[np.ndarray, "n"], found: Found) -> None:
        """Keep the candidates of one record and length, as far as their keys are among the lowest of the genome."""
        record = self._records[number]
        place = ("", "", 0) if self._limit is None else (record.group, record.genome, length)
        reservoir = self._reservoirs.setdefault(place, _Reservoir(self._limit))
        rows = np.flatnonzero(keys <= reservoir.below)
        if self._limit is not None and len(rows) > self._limit:
            rows = np.sort(rows[np.argsort(keys[rows], kind="stable")[: self._limit]])
        found, keys = found.take(rows), keys[rows]
        sizes = found.end - found.start
        at = self._place + np.cumsum(sizes) - sizes
        self._write(b"".join(found.bases()))
        columns = (
            np.full(len(rows), number), np.full(len(rows), length), found.start, found.end, found.frames,
            found.annotated, keys, at,
        )  # fmt: skip
        reservoir.add([column.astype(kind) for column, kind in zip(columns, _COLUMNS.values(), strict=True)])

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = crc32(data, self._crc)
        self._place += len(data)

    def content(self) -> dict[str, np.ndarray]:
        none = [np.zeros(0, kind) for kind in _COLUMNS.values()]
        joined = _joined([none, *(reservoir.columns() for reservoir in self._reservoirs.values())])
        columns = dict(zip(_COLUMNS, joined, strict=True))
        order = np.lexsort((columns["end"], columns["start"], columns["record"]))
        about = {
            "bases": self._place,
            "crc32": self._crc,
            "records": list(map(asdict, self._records)),
            "counts": self._counts,
        }
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        return {name: column[order] for name, column in columns.items()} | {"about": text}


@contextmanager
def writing_part(folder: Path, key: str, lengths: int, limit: int | None) -> Iterator[PartWriter]:
    """Write the part of a name, which is there if the block ends well; StorageError where it cannot be written."""
    with replacing(folder / f"{key}.bases") as temporary, temporary.open("xb", buffering=1 << 20) as file:
        writer = PartWriter(file, lengths, limit)
        yield writer
    content = writer.content()
    with replacing(folder / f"{key}.npz") as temporary, temporary.open("xb") as file:
        np.savez(file, **content)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What was found in one file; its columns are those of ``Found``, and more."""

    records: tuple[PartRecord, ...]  # of the file, in order
    counts: dict[str, Counts]  # by organism group
    # of each candidate, the record's number; candidates are in order of record, start, end
    record: Int64[np.ndarray, "n"]
    length: UInt8[np.ndarray, "n"]  # number of the length it was cut at
    start: Int64[np.ndarray, "n"]
    end: Int64[np.ndarray, "n"]
    frames: UInt8[np.ndarray, "n"]
    annotated: UInt8[np.ndarray, "n"]
    key: UInt64[np.ndarray, "n"]  # the candidate's number in sampling
    place: Int64[np.ndarray, "n"]  # where its bases begin in the text
    text: UInt8[np.ndarray, "bytes"]

    def bases(self, rows: Int64[np.ndarray, "m"]) -> Iterator[bytes]:
        for first, size in zip(self.place[rows].tolist(), (self.end - self.start)[rows].tolist(), strict=True):
            yield self.text[first : first + size].tobytes()

    def sequence(self, number: int) -> bytes:
        record = self.records[number]
        packed = self.text[record.place : record.place + record.packed]
        return zstandard.ZstdDecompressor().decompress(packed.tobytes(), max_output_size=record.bases)


def has_part(folder: Path, key: str) -> bool:
    """Whether a part is there and whole; numpy compares what is in the .npz with its sums."""
    try:
        read_part(folder, key)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
    return True


def read_part(folder: Path, key: str) -> Part:
    """Read a part, but for its bases, which stay on the disk; ValueError, or what numpy raises, where it is damaged."""
    with np.load(folder / f"{key}.npz", allow_pickle=False) as file:
        columns = {name: file[name] for name in _COLUMNS}
        about = parse_json(file["about"].tobytes())
    path = folder / f"{key}.bases"
    text = np.memmap(path, np.uint8, "r") if about["bases"] else np.zeros(0, np.uint8)
    if (len(text), crc32(text)) != (about["bases"], about["crc32"]):
        raise ValueError(f"{path} is not what was written")
    return Part(
        records=tuple(PartRecord(**{**one, "lineage": tuple(one["lineage"])}) for one in about["records"]),
        counts=about["counts"],
        text=text,
        **columns,
    )
