"""Merging tables: blocks into a shard, shards into ``features.h5``.

Sources are taken in order. Their rows must go on where the last one ended, strictly rising by record, chunk and
frame: names of records are unique, so no id can be there twice.

Arrays of numbers are contiguous in their files, so they are copied as bytes where they lie, at the speed of the disk
and in bounded memory. Reads, copies and writes of large buffers release Python's lock, which lets hashing go on beside
them; and unlike mapped files they do not count the page cache as this process's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest
from pathlib import Path

import h5py
import numpy as np

from vnp.errors import FeatureError
from vnp.features.hdf5 import Extent, allocate, as_array, as_bytes, column_type, extent, guarded_file, widest
from vnp.features.table import (
    COLUMNS,
    CONTENT,
    SCHEMA,
    Checksums,
    Column,
    Reading,
    all_finite,
    arrays_of,
    checked,
    checksums,
    cut_by_borders,
    first_repeated,
    read_checksums,
    require_finite,
    require_schema,
    seal,
    windows,
)
from vnp.files.machine import require_room

# Small enough to stay in a core's cache between reading, checking and writing.
WINDOW_BYTES = 1 << 20
_ALL = [column for columns in COLUMNS.values() for column in columns]


@dataclass(frozen=True, slots=True)
class Merged:
    """What was merged."""

    rows: int  # rows written
    records: int  # input records
    skipped: dict[str, int]  # entries without a row, by reason
    ids_sha256: str  # of the ids, a line feed after each
    source_ids_sha256: list[str]  # the same of each source
    widths: dict[str, int]  # columns of each number array
    content: str  # the digest that the file carries


@dataclass(frozen=True, slots=True)
class _Source:
    """Sizes of one source file, so that all are known before the target is made."""

    path: Path
    rows: int
    records: int
    first_record: int
    last_record: int
    skipped: int
    text: dict[str, int]
    arrays: dict[str, Extent]
    sums: Mapping[str, np.ndarray] | None  # checksums of its arrays; None in a file of an earlier version

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """Open it for a while, for what reads some rows of an array and raises FeatureError where they have changed."""
        with h5py.File(self.path, "r", locking=False) as file:
            yield checked(file, self.sums, self.path)


def merge(
    sources: Sequence[Path],
    target: Path,
    *,
    arrays: Mapping[str, Sequence[str]],
    attributes: Mapping[str, str | int],
    contents: Iterable[str] = (),
    more: Callable[[h5py.File], None] = lambda _file: None,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Merged:
    """Merge tables, in input order, into a new file; the caller gives a temporary name.

    ``arrays`` has for each number array of the target those of the sources that stand side by side in it, ``contents``
    the digest that each source must carry, where somebody has noted them, and ``""`` for any. ``more`` writes what else
    belongs into the file; ``progress`` is told how many rows were copied since the last call.

    Raises:
        FeatureError: a source has changed since it was written, or is of an earlier version and holds NaN or infinity;
            or sources do not fit together, miss a record, or repeat a row.
        OSError: the disk is full or cannot be read.
    """
    noted = chain(contents, repeat(""))
    surveyed = [_survey(path, arrays, content) for path, content in zip(sources, noted, strict=False)]
    _require_fit(surveyed)
    cut = cut_by_borders((source.path, source.first_record, source.last_record) for source in surveyed)
    totals = {
        "": sum(source.rows for source in surveyed),
        "records": sum(source.records for source in surveyed) - sum(cut),
        "skipped": sum(source.skipped for source in surveyed),
    }
    _require_room(target, surveyed, totals, arrays)
    sums = {name: Checksums() for name in (*(column.path for column in _ALL), *arrays)}
    with guarded_file(target) as file:
        file.attrs.update({"schema": SCHEMA, **attributes})
        extents = _make(file, target, surveyed, totals, arrays)
        digests, reasons = _copy_columns(file, surveyed, cut, sums)
        more(file)
        file.flush()
        first = 0
        with write_behind(target) as nudge:
            for source in surveyed:
                for name, parts in arrays.items():
                    _copy_array(source, name, parts, extents[name], first, sums[name])
                nudge()
                first += source.rows
                progress(source.rows)
        known = {name: one.found() for name, one in sums.items()}
        seal(file, {name: known.get(name) or checksums(array) for name, array in arrays_of(file).items()})
        content = str(file.attrs[CONTENT])
    widths = {name: found.width for name, found in extents.items()}
    return Merged(totals[""], totals["records"], reasons, digests[-1], digests[:-1], widths, content)


def _survey(path: Path, arrays: Mapping[str, Sequence[str]], content: str) -> _Source:
    with h5py.File(path, "r", locking=False) as file:
        require_schema(file, path)
        try:
            sums = read_checksums(file, content)
        except FeatureError as error:
            raise FeatureError(str(error), path=path) from error
        text = {column.path: _widest(file[column.path]) for column in _ALL if column.dtype is None}
        ordinals = file["records/ordinal"]
        needed = {part for parts in arrays.values() for part in parts}
        return _Source(
            path,
            len(file["ids"]),
            len(ordinals),
            int(ordinals[0]),
            int(ordinals[-1]),
            len(file["skipped/reason"]),
            text,
            {part: extent(path, file[part]) for part in sorted(needed)},
            sums,
        )


def _widest(column: h5py.Dataset) -> int:
    if column.dtype.kind == "S":
        return int(column.dtype.itemsize)
    return max((widest(as_bytes(column[window])) for window in windows(len(column))), default=1)


def _require_fit(surveyed: Sequence[_Source]) -> None:
    leader = surveyed[0]
    for source in surveyed:
        for part, found in source.arrays.items():
            expected = leader.arrays[part]
            if (found.width, found.dtype) != (expected.width, expected.dtype):
                raise FeatureError(
                    f"{part} is {found.width} wide of {found.dtype}, "
                    f"in {leader.path.name} it is {expected.width} wide of {expected.dtype}",
                    path=source.path,
                )
            if found.rows != source.rows:
                raise FeatureError(f"{part} has {found.rows} rows, there are {source.rows} ids", path=source.path)


def _require_room(
    target: Path, surveyed: Sequence[_Source], totals: Mapping[str, int], arrays: Mapping[str, Sequence[str]]
) -> None:
    """Look at the free space first: HDF5 prints tracebacks and can crash when a disk fills up under it."""
    leader = surveyed[0]
    needed = sum(totals[""] * leader.arrays[part].row_bytes for parts in arrays.values() for part in parts)
    needed += sum(totals[column.group] * _bytes(column, surveyed) for column in _ALL)
    require_room(target.parent, needed)


def _bytes(column: Column, surveyed: Sequence[_Source]) -> int:
    """Of one value of a column; of text, of the longest."""
    return np.dtype(column.dtype).itemsize if column.dtype else max(source.text[column.path] for source in surveyed)


def _make(
    file: h5py.File,
    target: Path,
    surveyed: Sequence[_Source],
    totals: Mapping[str, int],
    arrays: Mapping[str, Sequence[str]],
) -> dict[str, Extent]:
    for column in _ALL:
        dtype = column.dtype or column_type(_bytes(column, surveyed))
        file.create_dataset(column.path, shape=(totals[column.group],), dtype=dtype, track_times=False)
    leader = surveyed[0].arrays
    for name, parts in arrays.items():
        width = sum(leader[part].width for part in parts)
        allocate(file, name, totals[""], width, leader[parts[0]].dtype)
    file.flush()
    return {name: extent(target, file[name]) for name in arrays}


def _copy_columns(
    file: h5py.File, surveyed: Sequence[_Source], cut: Sequence[int], sums: Mapping[str, Checksums]
) -> tuple[list[str], dict[str, int]]:
    """Copy everything but the number arrays; returns digests of each source's ids and of all, and counts."""
    digests: list[str] = []
    whole = hashlib.sha256()
    reasons: Counter[str] = Counter()
    at = {"": 0, "records": 0, "skipped": 0}
    last_key = -1
    for source, repeated in zip(surveyed, cut, strict=True):
        with source.reading() as found:
            digest = hashlib.sha256()
            for window in windows(source.rows):
                columns = _copy_window(found, file, "", window, at, sums)
                ids = as_bytes(columns["ids"])
                row, last_key = first_repeated(columns["record"], columns["chunk"], columns["frame"], last_key)
                if row is not None:
                    twice = f"the id {ids[row].decode()!r} is there twice or out of order (row {window.start + row})"
                    raise FeatureError(twice, path=source.path)
                text = b"".join(name + b"\n" for name in ids)
                digest.update(text)
                whole.update(text)
            digests.append(digest.hexdigest())
            for window in windows(source.records, repeated):
                _copy_window(found, file, "records", window, at, sums)
            for window in windows(source.skipped):
                copied = _copy_window(found, file, "skipped", window, at, sums)["reason"]
                reasons.update(reason.decode() for reason in as_bytes(copied))
    return [*digests, whole.hexdigest()], dict(reasons)


def _copy_window(
    found: Reading, file: h5py.File, group: str, window: slice, at: dict[str, int], sums: Mapping[str, Checksums]
) -> dict[str, np.ndarray]:
    """Copy some rows of a group's columns; returns them by name, as they were read."""
    into = slice(at[group], at[group] + window.stop - window.start)
    at[group] = into.stop
    columns = {column.name: found(column.path, window) for column in COLUMNS[group]}
    for column in COLUMNS[group]:
        values = columns[column.name]
        if column.dtype is None:
            values = as_array(as_bytes(values), file[column.path].dtype)
        file[column.path][into] = values
        sums[column.path].add(values)
    return columns


def _copy_array(source: _Source, name: str, parts: Sequence[str], target: Extent, first: int, sums: Checksums) -> None:
    """Put a source's arrays side by side into rows ``first`` … of the target, and take in what is written."""
    found = [Checksums() for _ in parts]

    def check(values: np.ndarray, row: int) -> None:
        sums.add(values)
        # What is as its task wrote it is finite: the task looked.
        if source.sums is not None or all_finite(values):
            return
        with source.reading() as read:
            ids = as_bytes(read("ids", slice(row, row + len(values))))
        require_finite(values, name, ids, path=source.path)

    copy([source.arrays[part] for part in parts], target, first, check, () if source.sums is None else found)
    if source.sums is not None:
        for one, part in zip(found, parts, strict=True):
            one.require(source.sums[part], part, source.path)


def copy(
    sources: Sequence[Extent],
    target: Extent,
    first: int,
    check: Callable[[np.ndarray, int], None] = lambda _values, _row: None,
    sums: Sequence[Checksums] = (),
) -> None:
    """Put arrays side by side into rows ``first`` … of another; ``check`` is shown every window and its first row.

    ``sums`` take in what is read of each source, while it is in the processor's cache.

    Raises:
        FeatureError: a file ends early.
        OSError: the disk is full or cannot be read.
    """
    if not sources[0].rows:
        return
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(source.path.open("rb", buffering=0)).fileno() for source in sources]
        writer = stack.enter_context(target.path.open("r+b", buffering=0)).fileno()
        step = max(1, WINDOW_BYTES // max(1, target.row_bytes))
        buffers = [np.empty((step, source.width), source.dtype) for source in sources]
        joined = np.empty((step, target.width), target.dtype) if len(sources) > 1 else buffers[0]
        for low in range(0, sources[0].rows, len(joined)):
            count = min(len(joined), sources[0].rows - low)
            column = 0
            for reader, source, buffer, found in zip_longest(readers, sources, buffers, sums):
                _read(reader, source, low, buffer[:count])
                if found is not None:
                    found.add(buffer[:count])
                if buffer is not joined:
                    joined[:count, column : column + source.width] = buffer[:count]
                column += source.width
            check(joined[:count], low)
            _write_all(writer, joined[:count], target.offset + (first + low) * target.row_bytes)


@contextlib.contextmanager
def write_behind(path: Path) -> Iterator[Callable[[], None]]:
    """Send what was written of a file on to the disk in a thread, so that the last flush finds little to do.

    Yields:
        What starts a flush if none is under way; one that failed raises ``OSError`` there, or at the end.
    """
    running: Future[None] | None = None

    def nudge() -> None:
        nonlocal running
        if running is None or running.done():
            if running is not None:
                running.result()
            running = thread.submit(os.fdatasync, file.fileno())

    with path.open("rb") as file, ThreadPoolExecutor(1) as thread:
        yield nudge
    if running is not None:
        running.result()


def _read(reader: int, source: Extent, low: int, values: np.ndarray) -> None:
    """Fill ``values`` with rows ``low`` … of a source."""
    view = values.view(np.uint8).reshape(-1).data
    done = 0
    while done < len(view):
        count = os.preadv(reader, [view[done:]], source.offset + low * source.row_bytes + done)
        if not count:
            raise FeatureError("ends in the middle of its data", path=source.path)
        done += count


def _write_all(writer: int, values: np.ndarray, offset: int) -> None:
    view = values.view(np.uint8).reshape(-1).data
    done = 0
    while done < len(view):
        done += os.pwrite(writer, view[done:], offset + done)
