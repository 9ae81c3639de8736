"""What a dataset says of its records: label, unit, part of the split, and which of their frames become rows.

Planning takes it from the dataset's table and stores it in ``plan.h5``, so that a task needs neither the table nor
the library that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int8, Int32, Int64, UInt8

from vnp.datasets.choosing.split import PARTS
from vnp.errors import RunError
from vnp.features._strings import as_array, as_bytes, column_type, widest
from vnp.runs.request import PlannedInput
from vnp.runs.shard import Shard

NO_SPLIT = -1
_GROUP = "datasets"
_COLUMNS = ("label", "split", "frames", "unit")
_CHUNK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a dataset says of consecutive records of its FASTA, r of them.

    Args:
        first: place of the first of them in the file, 0-based.
        label: 1 viral, 0 host.
        split: 0 train, 1 validation, 2 test.
        frames: the frames that become rows, bit k for frame k of ``vnp.sequences.frames.FRAME_NAMES``.
        unit: index into ``units``.
        units: names of the units that a split must not cut, UTF-8.
    """

    first: int
    label: Int8[np.ndarray, "r"]
    split: Int8[np.ndarray, "r"]
    frames: UInt8[np.ndarray, "r"]
    unit: Int32[np.ndarray, "r"]
    units: list[bytes]

    def __len__(self) -> int:
        return len(self.label)

    def at(self, ordinals: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        """Where records of the file, by their place in it, stand in the columns.

        Raises:
            RunError: one of them is not among these.
        """
        places: Int64[np.ndarray, "m"] = ordinals - self.first
        if len(places) and (places[0] < 0 or places[-1] >= len(self)):
            raise RunError(
                f"the plan tells of {len(self):,} records of a dataset from record {self.first + 1:,} on, and record "
                f"{int(ordinals[-1]) + 1:,} was asked for; extract with --force starts the run anew"
            )
        return places


def write_selections(file: h5py.File, selections: Mapping[int, Selection]) -> None:
    """Store what whole datasets say into an open file.

    Args:
        file: open for writing.
        selections: by the index of the input.
    """
    for index, selection in selections.items():
        group = file.create_group(f"{_GROUP}/{index}")
        texts = as_array(selection.units, column_type(widest(selection.units)))
        for name, values in (*((name, getattr(selection, name)) for name in _COLUMNS), ("units", texts)):
            # Consecutive records are much alike: packed, ten million of them take a few megabytes.
            packed = {"chunks": (min(_CHUNK, len(values)),), "compression": "gzip", "compression_opts": 1}
            dtype = column_type(widest(selection.units)) if name == "units" else values.dtype
            group.create_dataset(name, data=values, dtype=dtype, shuffle=True, track_times=False, **packed)


def read_selections(
    file: h5py.File, inputs: Sequence[PlannedInput], shards: Sequence[Shard], number: int
) -> dict[int, Selection]:
    """Read what datasets say of the records of one shard, and no more than that.

    Args:
        file: open for reading.
        inputs: all files of the run.
        shards: all shards of the run.
        number: of the shard.

    Returns:
        By the index of the input; inputs that are no datasets are left out.
    """
    start = shards[number].start
    after = shards[number + 1].start if number + 1 < len(shards) else None
    last = len(inputs) - 1 if after is None else after.input
    found = {}
    for index in range(start.input, last + 1):
        low = start.record if index == start.input else 0
        high = inputs[index].records
        if after is not None and index == after.input:
            high = after.record + (after.chunk > 0)
        if inputs[index].dataset is not None and low < high:
            found[index] = _read(file[f"{_GROUP}/{index}"], low, high)
    return found


def _read(group: h5py.Group, low: int, high: int) -> Selection:
    label, split, frames, unit = (group[name][low:high] for name in _COLUMNS)
    lowest = int(unit.min())
    units = as_bytes(group["units"][lowest : int(unit.max()) + 1])
    return Selection(low, label, split, frames, unit - np.int32(lowest), units)


def part_counts(split: Int8[np.ndarray, "n"]) -> dict[str, int]:
    """How many rows are in each part; empty where no row has one. Rows without a part count as ``none``."""
    numbers, counts = np.unique(split, return_counts=True)
    found = {("none" if number < 0 else PARTS[number]): count for number, count in zip(numbers, counts, strict=True)}
    if set(found) <= {"none"}:
        return {}
    return {name: int(found[name]) for name in (*PARTS, "none") if name in found}


def table_of(entry: PlannedInput) -> Path | None:
    """The table of a dataset's FASTA, None for another file."""
    return None if entry.dataset is None else Path(entry.dataset)
