"""``skipped.tsv``: every record, chunk or frame that has no row, with its reason."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from vnp.features.table import Records, Skipped
from vnp.runs.request import PlannedInput
from vnp.sequences.frames import FRAME_NAMES

COLUMNS = ("record", "input", "length", "chunk", "frame", "reason")


class SkippedTable:
    """Writes the table, some entries at a time.

    Args:
        file: text file opened with ``newline=""``; the header is written at once.
        inputs: the run's files.
    """

    def __init__(self, file: TextIO, inputs: Sequence[PlannedInput]) -> None:
        self._inputs = inputs
        self._table = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
        self._table.writerow(COLUMNS)

    def add(self, records: Records, skipped: Skipped) -> None:
        """Write entries in their order.

        Args:
            records: holds the record of every entry.
            skipped: the entries.
        """
        places = np.searchsorted(records.ordinal, skipped.record).tolist()
        entries = zip(places, skipped.chunk.tolist(), skipped.frame.tolist(), skipped.reason, strict=True)
        for at, chunk, frame, reason in entries:
            self._table.writerow(
                (
                    records.name[at].decode(),
                    self._inputs[records.input[at]].path,
                    records.length[at],
                    chunk or "",
                    FRAME_NAMES[frame] if frame >= 0 else "",
                    reason.decode(),
                )
            )
