"""Scores of rows as HDF5: what a prediction keeps in place of the rows themselves.

A table of scores has the group ``scores`` (a classifier's logits, and which row they are of), and of the table of
features the records and what was skipped, as far as calls need them. Ids, labels and groups are left out, for they
follow from the rest, and columns are packed: of a read some ten bytes are left besides its logits and its name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float16, Float32, Int8, Int32, Int64

from vnp.errors import FeatureError
from vnp.features.hdf5 import WIDEST_FIXED, as_array, as_bytes, column_type, guarded_file, whole_file, widest
from vnp.features.table import CONTENT, Records, Skipped, content_digest, cut_by_borders, first_repeated, windows
from vnp.sequences.ends import UNKNOWN

SCHEMA = "vnp-scores/2"
GROUP = "scores"
SETTLED = -2
"""In place of a frame: the row is a window, as long as the native network reads, of a record that it settles. Its
number is that of the first chunk in it."""
NOT_COUNTED = -1
"""In place of a number of bases."""
LONGEST_DESCRIPTION = WIDEST_FIXED
# Rows and bytes of a piece of a column that is packed by itself; HDF5 keeps one of no more than a megabyte in memory.
_CHUNK_ROWS = 16_384
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Logits of n rows, in input order."""

    record: Int64[np.ndarray, "n"]  # ordinal of the input record over the whole run, 0-based
    chunk: Int32[np.ndarray, "n"]  # number of the chunk within its record, 1-based
    # index into ``vnp.sequences.frames.FRAME_NAMES``, -1 where a row is a chunk, or ``SETTLED``
    frame: Int8[np.ndarray, "n"]
    start: Int64[np.ndarray, "n"]  # where the row's DNA starts on the record, 0-based
    end: Int64[np.ndarray, "n"]  # where it ends, exclusive
    logits: Float32[np.ndarray, "n k"]  # of each kind
    novelty: Float16[np.ndarray, "n"]  # distance from what the classifier was trained on; NaN where it cannot tell

    def __len__(self) -> int:
        return len(self.record)

    def some(self, kept: np.ndarray) -> Scores:
        """Those of some rows, by a mask or by their places."""
        return Scores(*(getattr(self, one.name)[kept] for one in fields(self)))

    def followed_by(self, other: Scores) -> Scores:
        """These and those of the rows behind them."""
        return Scores(*(np.concatenate([getattr(one, it.name) for one in (self, other)]) for it in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Consecutive records, as calls need them."""

    ordinal: Int64[np.ndarray, "r"]  # position over the whole run, 0-based
    name: list[bytes]  # UTF-8
    length: Int64[np.ndarray, "r"]  # bases
    chunks: Int32[np.ndarray, "r"]  # number of chunks that the record is cut into

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What tables tell of records besides calls; of a record that a border cuts, where its first chunk is."""

    repeat: Int32[np.ndarray, "r"]  # as ``vnp.sequences.ends.terminal_repeat`` gives it, or ``UNKNOWN``
    gc: Int64[np.ndarray, "r"]  # bases that are G or C, or ``NOT_COUNTED``
    ambiguous: Int64[np.ndarray, "r"]  # letters that are none of the four bases, or ``NOT_COUNTED``
    description: list[bytes]  # what the header says behind the name, UTF-8, at most ``LONGEST_DESCRIPTION`` bytes

    def __len__(self) -> int:
        return len(self.repeat)

    @classmethod
    def unknown(cls, count: int) -> Facts:
        """Those of so many records that nobody looked at."""
        none = np.full(count, NOT_COUNTED, np.int64)
        return cls(np.full(count, UNKNOWN, np.int32), none, none, [b""] * count)


@dataclass(frozen=True, slots=True)
class Joined:
    """What was joined."""

    rows: int  # rows of which there are scores
    records: int  # input records
    skipped: dict[str, int]  # entries without a row, by reason
    keys_sha256: str  # of record, chunk and frame of the rows
    width: int  # logits of a row
    frames: int  # rows that are frames


_RECORDS = "records"
_SCORES, _FACTS = (tuple(one.name for one in fields(kind)) for kind in (Scores, Facts))
_NAMED = tuple(one.name for one in fields(Named))
_PARTS = {GROUP: _SCORES, _RECORDS: (*_NAMED, *_FACTS), "skipped": tuple(one.name for one in fields(Skipped))}
"""The columns of each group."""
_NUMBERS = {
    **dict.fromkeys(("record", "ordinal", "start", "end", "length", "gc", "ambiguous"), np.int64),
    **dict.fromkeys(("chunk", "chunks", "repeat"), np.int32),
    "frame": np.int8,
    "logits": np.float32,
    "novelty": np.float16,
}
_NEWER = "novelty"
"""What scores of earlier versions lack: NaN."""


def write_scores(
    path: Path,
    *,
    scores: Scores,
    facts: Facts,
    records: Records,
    skipped: Skipped,
    attributes: Mapping[str, str | int],
) -> None:
    """Write a table of scores that fits into memory to a new file; the caller gives a temporary name.

    Raises:
        FeatureError: a logit is not finite.
        OSError: the disk is full or cannot be written.
    """
    with whole_file(path) as file:
        file.attrs.update({"schema": SCHEMA, **attributes})
        _store(file, _RECORDS, Named(records.ordinal, records.name, records.length, records.chunks))
        add_scores(file, scores, facts)
        _store(file, "skipped", skipped)
        file.attrs[CONTENT] = content_digest(file)


def add_scores(file: h5py.File, scores: Scores, facts: Facts) -> None:
    """Put scores into a file that is being written."""
    if not np.isfinite(scores.logits).all():
        raise FeatureError("a score is NaN or infinite: with fp16 try --precision bf16 or fp32")
    _store(file, GROUP, scores)
    _store(file, _RECORDS, facts)


def _store(file: h5py.File, group: str, part: Any) -> None:
    for one in fields(part):
        values = getattr(part, one.name)
        shape = (len(part), *np.shape(values)[1:])
        dtype = _NUMBERS.get(one.name) or column_type(widest(values))
        target = _packed(file, f"{group}/{one.name}", shape, dtype)
        if len(part):
            target[:] = values if one.name in _NUMBERS else as_array(values, np.dtype(dtype))


def _packed(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    """A new column; neighbours are much alike, so that packed they take little."""
    if not shape[0]:
        return file.create_dataset(name, shape, dtype, track_times=False)
    row = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
    chunk = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // row, shape[0]))
    return file.create_dataset(
        name, shape, dtype, chunks=(chunk, *shape[1:]), compression="gzip", compression_opts=1, shuffle=True,
        track_times=False,
    )  # fmt: skip


def join_scores(sources: Sequence[Path], target: Path, attributes: Mapping[str, str | int]) -> Joined:
    """Join tables of scores, in input order, to a new file; the caller gives a temporary name.

    Raises:
        FeatureError: a source does not go on where the one before it ended, or is of another width.
        OSError: the disk is full or cannot be read.
    """
    with guarded_file(target) as file:
        file.attrs.update({"schema": SCHEMA, **attributes})
        return _join(file, sources, _PARTS)


def join_into(file: h5py.File, sources: Sequence[Path]) -> None:
    """Join the scores that stand beside features to a file that is being written."""
    _join(file, sources, {GROUP: _SCORES, _RECORDS: _FACTS})


def _join(file: h5py.File, sources: Sequence[Path], groups: Mapping[str, Sequence[str]]) -> Joined:
    # Held open, so that what begins in one source and ends in the next is packed once.
    cut = cut_by_borders(map(_span, sources))
    columns = {group: _make(file, group, names, sources, sum(cut)) for group, names in groups.items()}
    digest = hashlib.sha256()
    reasons: Counter[str] = Counter()
    counts = dict.fromkeys(columns, 0)
    last_key, frames = -1, 0
    for path, repeated in zip(sources, cut, strict=True):
        with h5py.File(path, "r", locking=False) as source:
            for group, names in groups.items():
                count = len(source[f"{group}/{names[0]}"])
                for window in windows(count, repeated if group == _RECORDS else 0):
                    _copy(source, columns[group], group, window, counts[group])
                    counts[group] += window.stop - window.start
            for window in windows(len(source[f"{GROUP}/record"])):
                key = [source[f"{GROUP}/{name}"][window] for name in ("record", "chunk", "frame")]
                row, last_key = first_repeated(key[0], key[1], key[2], last_key)
                if row is not None:
                    raise FeatureError(f"scores are there twice or out of order (row {row})", path=path)
                frames += int((key[2] >= 0).sum())
                for column in key:
                    digest.update(np.ascontiguousarray(column).data)
            for window in windows(len(source["skipped/reason"])):
                reasons.update(reason.decode() for reason in as_bytes(source["skipped/reason"][window]))
    width = int(file[f"{GROUP}/logits"].shape[1])
    return Joined(counts[GROUP], counts.get(_RECORDS, 0), dict(reasons), digest.hexdigest(), width, frames)


def _span(path: Path) -> tuple[Path, int, int]:
    with h5py.File(path, "r", locking=False) as source:
        ordinals = source["records/ordinal"]
        return path, int(ordinals[0]), int(ordinals[-1])


def _make(
    file: h5py.File, group: str, names: Sequence[str], sources: Sequence[Path], cut: int
) -> dict[str, h5py.Dataset]:
    """The columns of a group, of a length, type and width that all sources fit into; borders cut so many records."""
    rows = -cut if group == _RECORDS else 0
    types: dict[str, list[tuple[np.dtype[Any], tuple[int, ...]]]] = {name: [] for name in names}
    for path in sources:
        with h5py.File(path, "r", locking=False) as source:
            rows += len(source[f"{group}/{names[0]}"])
            for name, found in types.items():
                column = source.get(f"{group}/{name}")
                known = (np.dtype(_NUMBERS[name]), ()) if column is None else (column.dtype, column.shape[1:])
                found.append(known)
                if found[-1][1] != found[0][1]:
                    raise FeatureError(f"{name} is {found[-1][1]} wide, elsewhere {found[0][1]}", path=path)
    columns = {}
    for name, found in types.items():
        dtype = found[0][0]
        if name not in _NUMBERS:
            dtype = column_type(max(one.itemsize if one.kind == "S" else WIDEST_FIXED + 1 for one, _ in found))
        columns[name] = _packed(file, f"{group}/{name}", (rows, *found[0][1]), dtype)
    return columns


def _copy(source: h5py.File, columns: dict[str, h5py.Dataset], group: str, window: slice, at: int) -> None:
    for name, target in columns.items():
        values = _column(source, f"{group}/{name}", window)
        if name not in _NUMBERS:
            values = as_array(as_bytes(values), target.dtype)
        if len(values):
            target[at : at + len(values)] = values


def read_scores(file: h5py.File, window: slice = slice(None)) -> Scores:
    """The scores of an open file, or a window of them."""
    return Scores(*(_column(file, f"{GROUP}/{name}", window) for name in _SCORES))


def _column(file: h5py.File, name: str, window: slice) -> Any:
    if name == f"{GROUP}/{_NEWER}" and name not in file:
        return np.full(len(file[f"{GROUP}/record"][window]), np.nan, np.float16)
    return file[name][window]


def read_named(file: h5py.File, window: slice = slice(None)) -> Named:
    """The records of an open file, of scores or of features, or a window of them."""
    ordinal, name, length, chunks = (file[f"{_RECORDS}/{name}"][window] for name in _NAMED)
    return Named(ordinal, as_bytes(name), length, chunks)


def read_facts(file: h5py.File, window: slice = slice(None)) -> Facts:
    """What tables tell of the records of an open file; nothing is known where features stand alone."""
    if not all(f"{_RECORDS}/{name}" in file for name in _FACTS):
        return Facts.unknown(len(file[f"{_RECORDS}/ordinal"][window]))
    repeat, gc, ambiguous, description = (file[f"{_RECORDS}/{name}"][window] for name in _FACTS)
    return Facts(repeat, gc, ambiguous, as_bytes(description))
