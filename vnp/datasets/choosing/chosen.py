"""The chunks that were chosen for a training set, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int64, UInt8


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """The records that chunks are taken from, in the order of the sheet and of its files.

    Attributes:
        name: of each record, no two alike.
        source: index of its file in the sheet.
        unit: what is never cut by the split.
        organism_group: such as ``viral`` or ``bacteria``.
        part: of the split, as ``vnp.datasets.choosing.split`` numbers them.
    """

    name: Sequence[str]
    source: Int64[np.ndarray, "records"]
    unit: Sequence[str]
    organism_group: Sequence[str]
    part: Int8[np.ndarray, "records"]

    def __len__(self) -> int:
        """Count the records."""
        return len(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The chosen chunks, in order of record, start, end.

    Attributes:
        record: index of the chunk's record.
        start: first base, 0-based.
        end: one past the last base.
        frames: bit ``k`` is set where frame ``k`` of F1 F2 F3 R1 R2 R3 is a row; never 0.
        annotated: the same where the frame lies in an annotated protein.
    """

    record: Int64[np.ndarray, "chunks"]
    start: Int64[np.ndarray, "chunks"]
    end: Int64[np.ndarray, "chunks"]
    frames: UInt8[np.ndarray, "chunks"]
    annotated: UInt8[np.ndarray, "chunks"]

    def __len__(self) -> int:
        """Count the chunks."""
        return len(self.record)

    @property
    def rows(self) -> int:
        """Frames that are rows."""
        return int(np.bitwise_count(self.frames).sum())

    def slice(self, first: int, last: int) -> Chosen:
        """Take the chunks from ``first`` up to, not including, ``last``; the arrays are views."""
        columns = (self.record, self.start, self.end, self.frames, self.annotated)
        return Chosen(*(column[first:last] for column in columns))
