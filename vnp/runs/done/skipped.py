"""``skipped.tsv``: what has no row, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from vnp.features.table import Records, Skipped, read_records, read_skipped, windows
from vnp.files.durable import replacing
from vnp.runs.request import PlannedInput, Run
from vnp.sequences.frames import FRAME_NAMES

HEADER = "record\tinput\tlength\tchunk\tframe\treason\n"
_BREAKS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def skipped_lines(inputs: Sequence[PlannedInput], records: Records, skipped: Skipped) -> Iterator[str]:
    """The lines of some entries, in their order.

    Args:
        inputs: the run's files.
        records: consecutive records, those of the entries among them.
        skipped: the entries.
    """
    places = (skipped.record - records.ordinal[:1]).tolist()
    for at, chunk, frame, reason in zip(
        places, skipped.chunk.tolist(), skipped.frame.tolist(), skipped.reason, strict=True
    ):
        cells = (
            records.name[at].decode(),
            inputs[records.input[at]].path,
            str(records.length[at]),
            str(chunk or ""),
            FRAME_NAMES[frame] if frame >= 0 else "",
            reason.decode(),
        )
        # Names of records hold no breaks; paths, and what --prefix-ids makes of them, may.
        yield "\t".join([cell.translate(_BREAKS) for cell in cells]) + "\n"


def write_skipped(run: Run) -> None:
    """Write every record, chunk or frame that has no row, in input order, with its reason.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with replacing(run.paths.skipped) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        file.write(HEADER)
        for number in range(run.request.shards):
            with h5py.File(run.paths.shard(number), "r", locking=False) as shard:
                for records, skipped in _windows(shard):
                    file.writelines(skipped_lines(run.request.inputs, records, skipped))


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
