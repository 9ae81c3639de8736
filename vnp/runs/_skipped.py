"""``skipped.tsv``: what has no row, for people to read."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import h5py
import numpy as np

from vnp._durable import replacing
from vnp.features.table import Records, Skipped, read_records, read_skipped, windows
from vnp.runs.request import Run
from vnp.sequences.frames import FRAME_NAMES

COLUMNS = ("record", "input", "length", "chunk", "frame", "reason")


def write_skipped(run: Run) -> None:
    """Write every record, chunk or frame that has no row, in input order, with its reason.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with replacing(run.paths.skipped) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
        table.writerow(COLUMNS)
        for number in range(run.request.shards):
            with h5py.File(run.paths.shard(number), "r", locking=False) as shard:
                for records, skipped in _windows(shard):
                    table.writerows(_lines(run, records, skipped))


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


def _lines(run: Run, records: Records, skipped: Skipped) -> Iterator[tuple[object, ...]]:
    places = (skipped.record - records.ordinal[0]).tolist()
    for at, chunk, frame, reason in zip(
        places, skipped.chunk.tolist(), skipped.frame.tolist(), skipped.reason, strict=True
    ):
        name, entry = records.name[at].decode(), run.request.inputs[records.input[at]]
        frame_name = FRAME_NAMES[frame] if frame >= 0 else ""
        yield name, entry.path, records.length[at], chunk or "", frame_name, reason.decode()
