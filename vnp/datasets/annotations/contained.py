"""Tells which of many short proteins lie inside a set of long ones: an exact substring test, linear in the size.

For each length that occurs among the queries, every window of that length is hashed in one pass over the long proteins:
a window's hash is the sum over its letters of ``value(letter) * BASE**place`` modulo 2**64, taken from a running sum
and brought to place 0 with the inverse of the base (Karp and Rabin, IBM Journal of Research and Development 1987,
31:249). Windows that no query can equal are dropped by a table of bits. What is left is compared letter by letter,
so that two texts of one hash are never taken for the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xD6E8FEB86659FD93)
# So small that what a pass works on stays in the processor's cache.
_BLOCK = 1 << 15
_QUERIES = 1 << 13
# A plain search is faster for few queries, in short texts above all. Measured in letters that it passes over in the
# same time: what it costs to start, what hashing costs to start, and what hashing a letter costs.
_START_SEARCH = 4_000
_START_HASHING = 1_000_000
_HASHING = 50
_BETWEEN = b"\0"
_VALUES = np.random.default_rng(1).integers(1, 1 << 63, 256, dtype=np.uint64)


@lru_cache(maxsize=8)
def _table_of_powers(factor: int, count: int) -> UInt64[np.ndarray, "count"]:
    powers = np.full(count, factor, dtype=np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def _powers(factor: int, count: int) -> UInt64[np.ndarray, "count"]:
    # Of a few sizes only, so that they are made once and not for each record.
    return _table_of_powers(factor, 1 << (count - 1).bit_length())[:count]


class ContainmentIndex:
    """The proteins of one annotation, ASCII without zero bytes, to ask which sequences are part of one of them."""

    def __init__(self, proteins: Sequence[bytes]) -> None:
        different = dict.fromkeys(proteins)
        if any(0 in protein for protein in different):
            raise ValueError("a protein holds a zero byte")
        self._any = bool(different)
        self._longest = max(map(len, different), default=0)
        # A zero byte between two proteins, which no query holds, keeps a query from matching across their border.
        self._text = _BETWEEN.join(different)

    def contains(
        self, proteins: UInt8[np.ndarray, "residues"], offsets: Int64[np.ndarray, "rows+1"]
    ) -> Bool[np.ndarray, "rows"]:
        """Tell which queries are a substring of an annotated protein, as ``any(query in p for p in proteins)`` would.

        Query ``i`` has the letters ``offsets[i]`` to ``offsets[i + 1]``; a zero byte in one is a ValueError.
        """
        if not proteins.all():
            raise ValueError("a query holds a zero byte")
        lengths = np.diff(offsets)
        size = len(self._text)
        found = np.zeros(len(lengths), dtype=np.bool_)
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            if length == 0:
                found[rows] = self._any
            elif length > self._longest:
                continue
            elif len(rows) * (size + _START_SEARCH) < _START_HASHING + _HASHING * size:
                found[rows] = [proteins[at : at + length].tobytes() in self._text for at in offsets[rows].tolist()]
            else:
                found[rows] = self._same_length(proteins, offsets[rows], length)
        return found

    def _same_length(
        self, letters: UInt8[np.ndarray, "residues"], starts: Int64[np.ndarray, "rows"], length: int
    ) -> Bool[np.ndarray, "rows"]:
        """Look up queries of one length."""
        hashes = self._hash_queries(letters, starts, length)
        known, place = self._windows(hashes, length)
        found = np.zeros(len(starts), dtype=np.bool_)
        if not len(known):
            return found
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        rows = np.flatnonzero(known[at] == hashes)
        text = np.frombuffer(self._text, dtype=np.uint8)
        inside = np.arange(length)
        for first in range(0, len(rows), _QUERIES):
            some = rows[first : first + _QUERIES]
            same = text[place[at[some]][:, None] + inside] == letters[starts[some][:, None] + inside]
            found[some] = same.all(axis=1)
            for row in some[~found[some]].tolist():
                found[row] = letters[starts[row] : starts[row] + length].tobytes() in self._text
        return found

    def _hash_queries(
        self, letters: UInt8[np.ndarray, "residues"], starts: Int64[np.ndarray, "rows"], length: int
    ) -> UInt64[np.ndarray, "rows"]:
        powers = _powers(_BASE, length)
        hashes = np.empty(len(starts), dtype=np.uint64)
        inside = np.arange(length)
        for first in range(0, len(starts), _QUERIES):
            some = slice(first, first + _QUERIES)
            hashes[some] = (_VALUES[letters[starts[some][:, None] + inside]] * powers).sum(axis=1)
        return hashes

    def _windows(
        self, wanted: UInt64[np.ndarray, "rows"], length: int
    ) -> tuple[UInt64[np.ndarray, "windows"], Int64[np.ndarray, "windows"]]:
        """Find the different hashes of windows that a query may equal, in order, and the first place of each."""
        # Many more places than queries, so that few windows pass by chance.
        shift = np.uint64(64 - max(16, (16 * len(wanted)).bit_length()))
        listed = np.zeros(1 << (64 - int(shift)), dtype=np.bool_)
        listed[wanted * _MIX >> shift] = True
        hashes, places = [], []
        for start, block in self._hash_windows(length):
            near = np.flatnonzero(listed[block * _MIX >> shift])
            hashes.append(block[near])
            places.append(near + start)
        known, first = np.unique(np.concatenate(hashes), return_index=True)
        return known, np.concatenate(places)[first]

    def _hash_windows(self, length: int) -> Iterator[tuple[int, UInt64[np.ndarray, "windows"]]]:
        """Hash the windows of the text block by block, also those across two proteins."""
        text = np.frombuffer(self._text, dtype=np.uint8)
        step = min(max(_BLOCK, length), len(text) - length + 1)
        powers, inverse = _powers(_BASE, step + length - 1), _powers(_INVERSE, step)
        for start in range(0, len(text) - length + 1, step):
            values = _VALUES[text[start : start + step + length - 1]]
            values *= powers[: len(values)]
            sums = np.zeros(len(values) + 1, dtype=np.uint64)
            np.cumsum(values, out=sums[1:])
            windows = sums[length:] - sums[:-length]
            windows *= inverse[: len(windows)]
            yield start, windows
