"""Copies number arrays between HDF5 files at the speed of the disk, in bounded memory.

Arrays are contiguous in their files, so their bytes can be read and written where they lie. Reads, copies and writes
of large buffers release Python's lock, which lets hashing go on beside them; and unlike mapped files they do not
count the page cache as this process's memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from vnp.errors import FeatureError
from vnp.features.hdf5 import Extent

# Small enough to stay in a core's cache between reading, checking and writing.
WINDOW_BYTES = 1 << 20


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
    with _opened(sources, target) as (readers, writer):
        buffers = [np.empty((_step(target), source.width), source.dtype) for source in sources]
        beside = np.empty((_step(target), target.width), target.dtype) if len(sources) > 1 else buffers[0]
        for low in range(0, sources[0].rows, len(beside)):
            count = min(len(beside), sources[0].rows - low)
            column = 0
            for reader, source, buffer in zip(readers, sources, buffers, strict=True):
                _read(reader, source, low, buffer[:count])
                if buffer is not beside:
                    beside[:count, column : column + source.width] = buffer[:count]
                column += source.width
            check(beside[:count], low)
            _write_all(writer, beside[:count], target.offset + (first + low) * target.row_bytes)


class WriteBehind:
    """Sends what was written of a file on to the disk in a thread, so that the last flush finds little to do.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1)
        self._descriptor = os.open(self._path, os.O_RDONLY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        os.close(self._descriptor)
        if self._running is not None and error is None:
            self._running.result()

    def nudge(self) -> None:
        """Start a flush if none is under way.

        Raises:
            OSError: the flush before it failed.
        """
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._running = self._thread.submit(os.fdatasync, self._descriptor)


@contextlib.contextmanager
def _opened(sources: Sequence[Extent], target: Extent) -> Iterator[tuple[list[int], int]]:
    """Descriptors of the sources and of the target."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(source.path.open("rb", buffering=0)) for source in sources]
        writer = stack.enter_context(target.path.open("r+b", buffering=0))
        yield [file.fileno() for file in files], writer.fileno()


def _step(target: Extent) -> int:
    return max(1, WINDOW_BYTES // max(1, target.row_bytes))


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
