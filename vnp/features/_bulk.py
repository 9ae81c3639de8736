"""Copies number arrays between HDF5 files at the speed of the disk, in bounded memory.

Arrays are contiguous in their files, so their bytes can be read and written where they lie. Reads, copies and writes
of large buffers release Python's lock, which lets hashing go on beside them; and unlike mapped files they do not
count the page cache as this process's memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.errors import FeatureError

WINDOW_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """Where an array lies in its file.

    Args:
        path: the file.
        offset: byte of the first value.
        rows: number of rows.
        width: columns.
        dtype: of the values.
    """

    path: Path
    offset: int
    rows: int
    width: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize


def extent(path: Path, dataset: h5py.Dataset) -> Extent:
    """Find an array of an open file.

    Raises:
        FeatureError: it is not a contiguous two-dimensional array.
    """
    offset = dataset.id.get_offset()
    if dataset.ndim != 2 or (offset is None and dataset.shape[0]):
        raise FeatureError(f"{path}: {dataset.name} is not a contiguous table of numbers")
    return Extent(path, offset or 0, dataset.shape[0], dataset.shape[1], dataset.dtype)


def allocate(file: h5py.File, name: str, rows: int, width: int, dtype: np.dtype[Any]) -> h5py.Dataset:
    """Create a contiguous array whose bytes are in the file at once, to be written where they lie."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple((rows, width))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype), space, dcpl=properties)
    return file[name]


def copy(
    sources: Sequence[Extent],
    target: Extent,
    first: int,
    check: Callable[[np.ndarray, int], None] = lambda _values, _row: None,
) -> None:
    """Put arrays side by side into rows ``first`` … of another.

    Args:
        sources: arrays of the same rows; their widths add up to the target's.
        target: where to.
        first: row of the target that the sources' first row becomes.
        check: is shown every window (rows, width) with the sources' row number of its first row.

    Raises:
        FeatureError: a file ends early.
        OSError: the disk is full or cannot be read.
    """
    if not sources[0].rows:
        return
    with _files(sources, target) as (readers, writer):
        for low, high in _windows(sources[0].rows, target.row_bytes):
            values = _read_side_by_side(readers, sources, low, high, target)
            check(values, low)
            _write_all(writer, values, target.offset + (first + low) * target.row_bytes)


class _files:  # noqa: N801 - reads as a statement
    """Descriptors of the sources and the target, closed at the end."""

    def __init__(self, sources: Sequence[Extent], target: Extent) -> None:
        self._readers = [os.open(source.path, os.O_RDONLY) for source in sources]
        self._writer = os.open(target.path, os.O_WRONLY)

    def __enter__(self) -> tuple[list[int], int]:
        return self._readers, self._writer

    def __exit__(self, *_error: object) -> None:
        for descriptor in (*self._readers, self._writer):
            os.close(descriptor)


def _windows(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    step = max(1, WINDOW_BYTES // row_bytes)
    for low in range(0, rows, step):
        yield low, min(low + step, rows)


def _read_side_by_side(
    readers: Sequence[int], sources: Sequence[Extent], low: int, high: int, target: Extent
) -> np.ndarray:
    if len(sources) == 1:
        return _read(readers[0], sources[0], low, high)
    values = np.empty((high - low, target.width), target.dtype)
    column = 0
    for reader, source in zip(readers, sources, strict=True):
        values[:, column : column + source.width] = _read(reader, source, low, high)
        column += source.width
    return values


def _read(reader: int, source: Extent, low: int, high: int) -> np.ndarray:
    values = np.empty((high - low, source.width), source.dtype)
    view = values.view(np.uint8).reshape(-1).data
    done = 0
    while done < len(view):
        count = os.preadv(reader, [view[done:]], source.offset + low * source.row_bytes + done)
        if not count:
            raise FeatureError(f"{source.path} ends in the middle of its data")
        done += count
    return values


def _write_all(writer: int, values: np.ndarray, offset: int) -> None:
    view = values.view(np.uint8).reshape(-1).data
    done = 0
    while done < len(view):
        done += os.pwrite(writer, view[done:], offset + done)
