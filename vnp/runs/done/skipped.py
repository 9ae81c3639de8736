"""``skipped.tsv``: what has no row, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

import h5py
import numpy as np

from vnp.features.table import Records, Skipped, read_records, read_skipped, windows
from vnp.files.durable import replacing
from vnp.runs.request import PlannedInput, Run
from vnp.sequences.frames import FRAME_NAMES

COLUMNS = ("record", "input", "length", "chunk", "frame", "reason")
_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


class SkippedTable:
    """Writes the table, some entries at a time.

    Args:
        file: text file opened with ``newline=""``; the header is written at once.
        inputs: the run's files.
    """

    def __init__(self, file: TextIO, inputs: Sequence[PlannedInput]) -> None:
        self._inputs = inputs
        self._file = file
        self._file.write("\t".join(COLUMNS) + "\n")

    def add(self, records: Records, skipped: Skipped) -> None:
        """Write entries in their order.

        Args:
            records: consecutive records, those of the entries among them.
            skipped: the entries.
        """
        places = (skipped.record - records.ordinal[:1]).tolist()
        entries = zip(places, skipped.chunk.tolist(), skipped.frame.tolist(), skipped.reason, strict=True)
        self._file.writelines(
            "\t".join(
                (
                    _cell(records.name[at].decode()),
                    _cell(self._inputs[records.input[at]].path),
                    str(records.length[at]),
                    str(chunk or ""),
                    FRAME_NAMES[frame] if frame >= 0 else "",
                    _cell(reason.decode()),
                )
            )
            + "\n"
            for at, chunk, frame, reason in entries
        )


def _cell(text: str) -> str:
    # Names of records hold neither; paths, and what --prefix-ids makes of them, may.
    return text.translate(_BREAKS)


def write_skipped(run: Run) -> None:
    """Write every record, chunk or frame that has no row, in input order, with its reason.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with replacing(run.paths.skipped) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = SkippedTable(file, run.request.inputs)
        for number in range(run.request.shards):
            with h5py.File(run.paths.shard(number), "r", locking=False) as shard:
                for records, skipped in _windows(shard):
                    table.add(records, skipped)


def _windows(shard: h5py.File) -> Iterator[tuple[Records, Skipped]]:
    """Skipped entries with the records that they speak of, a bounded number of either at a time."""
    of_entry = shard["skipped/record"]
    ordinals = shard["records/ordinal"]
    for entries in windows(len(of_entry)):
        asked = of_entry[entries]
        # A shard's records are consecutive, so that an ordinal tells the place.
        first, last = int(asked[0] - ordinals[0]), int(asked[-1] - ordinals[0])
        for places in windows(last + 1, first):
            low, high = np.searchsorted(asked - ordinals[0], (places.start, places.stop))
            if low < high:
                yield read_records(shard, places), read_skipped(shard, slice(entries.start + low, entries.start + high))
