"""Reads regions of records from a BED file, to tell which chunks overlap them.

Source of the format: the BED specification 1.0 of GA4GH. Starts are 0-based, ends are one past the last base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from vnp.errors import InputError
from vnp.sequences.opening import one_line_end, stream

_HEADERS = ("track", "browser")


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """By record name, starts and ends of regions in order, none of which touch; and the number of lines of the file."""

    spans: dict[str, tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]]
    count: int

    def overlaps(
        self, record: str, start: Int64[np.ndarray, "n"], end: Int64[np.ndarray, "n"]
    ) -> Bool[np.ndarray, "n"]:
        """Tell which stretches of a record, 0-based and end exclusive, share a base with a region."""
        starts, ends = self.spans.get(record, (np.empty(0, dtype=np.int64),) * 2)
        if not len(starts):
            return np.zeros(len(start), dtype=np.bool_)
        # The first region that ends after the stretch begins is the only one that need be looked at.
        place = np.searchsorted(ends, start, side="right")
        near = np.minimum(place, len(starts) - 1)
        return (place < len(starts)) & (starts[near] < end) & (start < end)


def read_regions(bed: str | Path) -> Regions:
    """Read a BED file, plain or compressed; InputError where it cannot be read or a line is not BED."""
    bed = Path(bed)
    given: dict[str, list[tuple[int, int]]] = {}
    count = 0
    _, blocks = stream(bed)
    text = b"".join(one_line_end(blocks)).decode("utf-8", "backslashreplace").removeprefix("\ufeff")
    for number, line in enumerate(text.split("\n"), start=1):
        first = (line.split() or ["#"])[0]
        if first.startswith("#") or first in _HEADERS:
            continue
        words = line.split("\t") if "\t" in line else line.split()
        start, end = _span(words, bed, number)
        given.setdefault(words[0].strip(), []).append((start, end))
        count += 1
    return Regions({name: _joined(spans) for name, spans in given.items()}, count)


def _span(words: list[str], path: Path, line: int) -> tuple[int, int]:
    numbers = [word.strip() for word in words[1:3]]
    if not words[0].strip() or [bool(re.fullmatch(r"[0-9]{1,15}", number)) for number in numbers] != [True, True]:
        raise InputError(
            "is not BED: a line is a record's name, a start and an end (whole numbers, the first base is 0), separated "
            "by tabs",
            path=path,
            line=line,
        )
    start, end = map(int, numbers)
    if start > end:
        raise InputError(f"the region ends ({end:,}) before it starts ({start:,})", path=path, line=line)
    return start, end


def _joined(spans: list[tuple[int, int]]) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """Order regions, and make one of those that touch."""
    table = np.array(sorted(spans), dtype=np.int64).reshape(-1, 2)
    table = table[table[:, 0] < table[:, 1]]
    furthest = np.maximum.accumulate(table[:, 1])
    new = np.ones(len(table), dtype=np.bool_)
    new[1:] = table[1:, 0] > furthest[:-1]
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(table))[: len(first)] - 1
    return table[first, 0], furthest[last]
