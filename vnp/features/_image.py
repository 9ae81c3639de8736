"""HDF5 files made so that a full or failing disk raises ``OSError``.

Left to write by itself, HDF5 prints tracebacks of its own on a full disk and can crash the process while it closes
the file. So small files are built in memory and written in one piece, and large ones through a guard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

import h5py


@contextmanager
def whole_file(path: Path) -> Iterator[h5py.File]:
    """Make a new file; it is written when the block ends well.

    Args:
        path: file to create.

    Yields:
        The file to fill. It must fit into memory.

    Raises:
        OSError: the disk is full or cannot be written.
    """
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

    Args:
        path: file to create.

    Yields:
        The file to fill.

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
