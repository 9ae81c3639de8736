"""Places where the input can be cut, kept in bounded memory whatever the size of the input."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

_MOST = 1 << 20
_PLACE = ("input", "record", "chunk", "offset", "line")
_WORK = ("units", "rows", "tokens", "bases")
_UNIT = len(_PLACE)
_TOKENS = _UNIT + 2


class Marks:
    """Every unit's place and the work before it; once there are too many units, every second, fourth … unit's.

    With 2^20 marks a cut is at most one part in half a million of the whole off its best place, so shards stay
    balanced to a per cent up to thousands of them.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._stride = 1
        self._kept: list[Int64[np.ndarray, "marks columns"]] = []
        self._count = 0
        self.units = 0
        self.rows = 0
        self.tokens = 0
        self.bases = 0

    def add(
        self,
        *,
        file: int,
        record: Int64[np.ndarray, "u"],
        chunk: Int64[np.ndarray, "u"],
        offset: Int64[np.ndarray, "u"],
        line: Int64[np.ndarray, "u"],
        rows: Int64[np.ndarray, "u"],
        tokens: Int64[np.ndarray, "u"],
        bases: Int64[np.ndarray, "u"],
    ) -> None:
        """Append units in input order."""
        count = len(record)
        chosen = np.arange((-self.units) % self._stride, count, self._stride)
        marks = np.empty((len(chosen), len(_PLACE) + len(_WORK)), np.int64)
        marks[:, 0] = file
        for column, values in enumerate((record, chunk, offset, line), start=1):
            marks[:, column] = values[chosen]
        marks[:, _UNIT] = self.units + chosen
        for column, (values, before) in enumerate(
            ((rows, self.rows), (tokens, self.tokens), (bases, self.bases)), start=_UNIT + 1
        ):
            marks[:, column] = (before + np.cumsum(values) - values)[chosen]
        self._kept.append(marks)
        self._count += len(chosen)
        self.units += count
        self.rows += int(rows.sum())
        self.tokens += int(tokens.sum())
        self.bases += int(bases.sum())
        while self._count > self._most:
            self._thin()

    def _thin(self) -> None:
        self._stride *= 2
        merged = np.concatenate(self._kept)
        kept = merged[merged[:, _UNIT] % self._stride == 0]
        self._kept = [kept]
        self._count = len(kept)

    def cut(self, shards: int) -> list[dict[str, int]]:
        """Cut the whole into at most so many pieces of nearly equal tokens.

        Args:
            shards: how many pieces are wanted; fewer are made if there are fewer marks.

        Returns:
            For each piece the place of its first unit (``input``, ``record``, ``chunk``, ``offset``, ``line``) and
            how many ``units``, ``rows``, ``tokens`` and ``bases`` it holds.
        """
        marks = np.concatenate(self._kept)
        total = np.array([self.units, self.rows, self.tokens, self.bases])
        # Units without tokens still have to be read: one token each keeps an input without open frames balanced.
        work = marks[:, _TOKENS] + marks[:, _UNIT]
        whole = int(total[2] + total[0])
        wanted = min(shards, len(marks))
        targets = (np.arange(wanted) * whole) // wanted
        right = np.searchsorted(work, targets)
        left = np.maximum(right - 1, 0)
        right = np.minimum(right, len(work) - 1)
        nearest = np.where(targets - work[left] <= work[right] - targets, left, right)
        firsts = _strictly_rising(nearest, len(marks))
        ends = np.vstack([marks[firsts[1:], _UNIT:], total])
        return [
            {
                **{name: int(marks[first, column]) for column, name in enumerate(_PLACE)},
                **{name: int(end[column] - marks[first, _UNIT + column]) for column, name in enumerate(_WORK)},
            }
            for first, end in zip(firsts, ends, strict=True)
        ]


def _strictly_rising(places: Int64[np.ndarray, "n"], bound: int) -> Int64[np.ndarray, "n"]:
    """Move places apart so that no piece is empty, staying below ``bound``."""
    steps = np.arange(len(places))
    apart = np.maximum.accumulate(places - steps) + steps
    return np.minimum(apart, bound - len(places) + steps)
