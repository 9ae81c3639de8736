"""Finds names that occur twice among up to a billion, in bounded memory.

Each name becomes a 64-bit hash. Hashes are collected in memory; every few million are sorted and written to a
temporary file. At the end, equal hashes are found one range of hashes at a time. Two names that differ may share a
hash (a billion different names hold such a pair in one check of forty), so what comes out are suspects: whoever asks
reads their names once more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Self

import numpy as np
from jaxtyping import Int64

from vnp.errors import storage_error

# 64 MB of hashes.
_IN_MEMORY = 8_000_000
# A range of a billion hashes then holds 4 million.
_RANGES = 256

Pairs = np.dtype([("hash", np.uint64), ("ordinal", np.int64)])


class NameCheck:
    """Collects names and finds those that may occur more than once.

    Use it as a context manager: the temporary file (16 bytes a name) goes with it. ``in_memory`` names are held before
    the first are written out; after ``limit`` groups of suspects it looks no further.
    """

    def __init__(self, *, in_memory: int = _IN_MEMORY, limit: int = 100) -> None:
        self._in_memory = in_memory
        self._limit = limit
        self._waiting: list[Int64[np.ndarray, "n"]] = []
        self._waiting_count = 0
        self._count = 0
        self._file: IO[bytes] | None = None
        self._runs: list[Int64[np.ndarray, "ranges+1"]] = []
        self._full = False

    def __enter__(self) -> Self:
        """Start collecting."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the temporary file."""
        if self._file is not None:
            self._file.close()

    def add(self, names: Sequence[str]) -> None:
        """Add names; the first ever has position 0. ``StorageError`` where they cannot be written to a file."""
        # Python's own hash of strings: 64 bits, keyed by the process, and computed without a loop here.
        hashes = np.fromiter(map(hash, names), dtype=np.int64, count=len(names))
        self._count += len(names)
        if self._full:
            return
        self._waiting.append(hashes)
        self._waiting_count += len(hashes)
        if self._waiting_count >= self._in_memory:
            self._spill()

    def suspects(self) -> list[tuple[int, ...]]:
        """List groups of positions whose names share a hash.

        Returns:
            Groups of two or more positions, each in ascending order, by the second position; at most ``limit``.
            Empty if and only if all names differ.

        Raises:
            StorageError: the temporary file cannot be read or written.
        """
        groups: list[tuple[int, ...]] = []
        if self._file is None:
            groups = _groups(self._sorted_waiting(), self._limit)
        else:
            if self._waiting_count:
                self._spill()
            for part in self._ranges():
                groups += _groups(part, self._limit - len(groups))
                if len(groups) >= self._limit:
                    break
        return sorted(groups, key=lambda group: (group[1], group[0]))

    def _sorted_waiting(self) -> np.ndarray:
        hashes = np.concatenate([np.zeros(0, dtype=np.int64), *self._waiting]).view(np.uint64)
        pairs = np.empty(len(hashes), dtype=Pairs)
        order = np.argsort(hashes, kind="stable")
        pairs["hash"] = hashes[order]
        pairs["ordinal"] = order + (self._count - len(hashes))
        return pairs

    def _spill(self) -> None:
        pairs = self._sorted_waiting()
        self._waiting, self._waiting_count = [], 0
        # Where many names repeat within one run, more names would only make the ranges large.
        self._full = int(np.count_nonzero(pairs["hash"][1:] == pairs["hash"][:-1])) >= self._limit
        firsts = np.arange(_RANGES, dtype=np.uint64) << np.uint64(64 - (_RANGES - 1).bit_length())
        borders = np.searchsorted(pairs["hash"], firsts).astype(np.int64)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
            start = self._file.seek(0, 2) // Pairs.itemsize
            self._file.write(pairs.tobytes())
            self._file.flush()
        except OSError as error:
            raise storage_error(error, "writing names to a temporary file") from error
        self._runs.append(np.append(borders, len(pairs)) + start)

    def _ranges(self) -> Iterator[np.ndarray]:
        """Go through the written hashes, one range of hashes at a time, sorted."""
        assert self._file is not None
        for index in range(_RANGES):
            parts = []
            for edges in self._runs:
                first, last = int(edges[index]), int(edges[index + 1])
                self._file.seek(first * Pairs.itemsize)
                parts.append(np.frombuffer(self._file.read((last - first) * Pairs.itemsize), dtype=Pairs))
            part = np.concatenate(parts)
            yield part[np.argsort(part["hash"], kind="stable")]


def _groups(pairs: np.ndarray, limit: int) -> list[tuple[int, ...]]:
    """Find runs of equal hashes in sorted pairs."""
    hashes = pairs["hash"]
    repeats = np.flatnonzero(hashes[1:] == hashes[:-1])
    groups: list[tuple[int, ...]] = []
    while len(repeats) and len(groups) < limit:
        first = int(repeats[0])
        last = int(np.searchsorted(hashes, hashes[first], side="right"))
        groups.append(tuple(pairs["ordinal"][first:last][:limit].tolist()))
        repeats = repeats[np.searchsorted(repeats, last - 1) :]
    return groups
