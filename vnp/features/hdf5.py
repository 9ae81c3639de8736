"""HDF5 as vnp uses it: files that survive a full disk, text columns, arrays whose place in the file is known.

Left to write by itself, HDF5 prints tracebacks of its own on a full disk and can crash the process while it closes
the file. So small files are built in memory and written in one piece, and large ones through a guard; either raises
``OSError``. Text has a fixed width where that is small, and variable length where one long name would blow it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.errors import FeatureError


@contextmanager
def whole_file(path: Path) -> Iterator[h5py.File]:
    """Make a new file that fits into memory; it is written when the block ends well, or ``OSError`` raised."""
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with path.open("xb") as written:
        written.write(image)


@contextmanager
def guarded_file(path: Path) -> Iterator[h5py.File]:
    """Make a new file of any size, written while it is filled.

    HDF5 does not learn of a write that fails; it is raised when HDF5 has closed the file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with path.open("x+b", buffering=0) as raw:
        guard = _Guard(raw)
        try:
            with h5py.File(guard, "w", locking=False) as file:
                yield file
        except Exception as error:
            if guard.error is not None:
                raise guard.error from error
            raise
        if guard.error is not None:
            raise guard.error


class _Guard:
    """A file object that keeps the first failed write to itself; HDF5 would crash of it."""

    def __init__(self, raw: RawIOBase) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def read(self, size: int) -> bytes:
        found = bytearray(size)
        self.readinto(found)
        return bytes(found)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer; what is behind the end of the file, or was not written, reads as zeros."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        done = 0
        while count := self._raw.readinto(view[done:]):
            done += count
        return len(view)

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self._raw.write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            if self.error is None:
                self._raw.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Nothing waits here: writes go to the system at once."""


WIDEST_FIXED = 256


def widest(texts: Sequence[bytes]) -> int:
    """Bytes of the longest text, at least 1."""
    return max(map(len, texts), default=1) or 1


def column_type(width: int) -> np.dtype[Any]:
    """The HDF5 type of a column whose longest text has ``width`` bytes."""
    return h5py.string_dtype("utf-8", width if width <= WIDEST_FIXED else None)  # type: ignore[no-any-return]


def as_array(texts: Sequence[bytes], dtype: np.dtype[Any]) -> np.ndarray:
    """Texts as an array that a column of ``dtype`` takes."""
    if dtype.kind == "S":
        return np.array(texts, dtype=dtype)
    return np.array([text.decode() for text in texts], dtype=object)


def as_bytes(column: np.ndarray) -> list[bytes]:
    """What was read from a text column, as UTF-8 bytes."""
    values: list[bytes] = column.tolist()
    return values


@dataclass(frozen=True, slots=True)
class Extent:
    """Where an array (rows, width) lies in its file; ``offset`` is the byte of its first value."""

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
    """Find an array of an open file; ``FeatureError`` where it is no contiguous two-dimensional one."""
    offset = dataset.id.get_offset()
    if dataset.ndim != 2 or (offset is None and dataset.shape[0]):
        raise FeatureError(f"{dataset.name} is not a contiguous table of numbers", path=path)
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
