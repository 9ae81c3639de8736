"""The units of a run in input order, as planning and the tasks both read them.

A unit is one chunk of one record; a record without a chunk (empty, or with letters that are no bases) is one unit
too, so that it belongs to exactly one shard and is not lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from vnp.runs.request import START, PlannedInput, Position
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.reading import Record, read_records

BATCH_UNITS = 8_192
_BATCH_BASES = 8_000_000


@dataclass(frozen=True, slots=True)
class UnitBatch:
    """Consecutive units of one input file.

    Args:
        input: index of the input file.
        records: the records touched; a record cut by the batch's border is in both batches.
        ordinals: ordinal of each of these records within the file.
        counts: chunks of each whole record.
        chunks: the chunks in this batch; ``sequence`` points into ``sequences``.
        sequences: the bases of each record, without those before its first chunk here.
        shifts: how many bases were left out in front of each sequence.
        owner: for each unit, index into ``records``.
        unit_chunk: for each unit, index into ``chunks``, or -1 for a record without a chunk.
    """

    input: int
    records: list[Record]
    ordinals: Int64[np.ndarray, "r"]
    counts: Int64[np.ndarray, "r"]
    chunks: Chunks
    sequences: list[bytes]
    shifts: Int64[np.ndarray, "r"]
    owner: Int64[np.ndarray, "u"]
    unit_chunk: Int64[np.ndarray, "u"]

    def __len__(self) -> int:
        return len(self.owner)

    def numbers(self) -> Int32[np.ndarray, "u"]:
        """Number of each unit's chunk within its record, 1-based; 0 for a record without a chunk."""
        numbers = np.zeros(len(self), np.int32)
        has_chunk = self.unit_chunk >= 0
        numbers[has_chunk] = self.chunks.number[self.unit_chunk[has_chunk]]
        return numbers


def read_units(inputs: Sequence[PlannedInput], chunk: int, start: Position, units: int) -> Iterator[UnitBatch]:
    """Read so many units from a position on, across files.

    Args:
        inputs: the run's files.
        chunk: bases of a chunk.
        start: the first unit.
        units: how many to read.

    Yields:
        Batches of at most ``BATCH_UNITS`` units.

    Raises:
        InputError: a file cannot be read.
    """
    left = units
    for index in range(start.input, len(inputs)):
        if left <= 0:
            return
        here = start if index == start.input else Position(index, *START)
        records = iter_records(Path(inputs[index].path), here)
        for batch in batch_units(records, chunk, index, here):
            kept = window(batch, 0, left)
            left -= len(kept)
            yield kept
            if left <= 0:
                return


def iter_records(path: Path, start: Position, hasher: Any = None) -> Iterator[Record]:
    """The records of one file from a position on, read from the record's byte where that is known."""
    if start.offset > 0:
        yield from read_records(path, offset=start.offset, line=start.line)
        return
    for ordinal, record in enumerate(read_records(path, hasher=hasher)):
        if ordinal >= start.record:
            yield record


def batch_units(records: Iterator[Record], chunk: int, index: int, start: Position) -> Iterator[UnitBatch]:
    """Gather records into batches of units.

    Args:
        records: from the start's record on.
        chunk: bases of a chunk.
        index: of the input file.
        start: its ``record`` numbers the first record, its ``chunk`` is the first chunk taken of that record.
    """
    waiting: list[Record] = []
    number = Chunking(chunk).number
    bases = units = 0
    ordinal, skip = start.record, start.chunk
    for record in records:
        waiting.append(record)
        bases += len(record.sequence)
        units += max(1, number(len(record.sequence)))
        if bases >= _BATCH_BASES or units - skip >= BATCH_UNITS:
            yield from _cut_batches(waiting, chunk, index, ordinal, skip)
            ordinal += len(waiting)
            waiting, bases, units, skip = [], 0, 0, 0
    if waiting:
        yield from _cut_batches(waiting, chunk, index, ordinal, skip)


def _cut_batches(records: list[Record], chunk: int, index: int, ordinal: int, skip: int) -> Iterator[UnitBatch]:
    lengths = np.array([0 if record.problem else len(record.sequence) for record in records], np.int64)
    chunking = Chunking(chunk)
    counts = chunking.count(lengths)
    per_record = np.maximum(counts, 1)
    total = int(per_record.sum())
    ends = np.cumsum(per_record)
    chunks_before = np.cumsum(counts) - counts
    for first in range(skip, total, BATCH_UNITS):
        last = min(first + BATCH_UNITS, total)
        low = int(np.searchsorted(ends, first, side="right"))
        high = int(np.searchsorted(ends, last, side="left")) + 1
        units = np.arange(first, last)
        owner = np.searchsorted(ends, units, side="right")
        within = units - (ends - per_record)[owner]
        has_chunk = counts[owner] > 0
        row = (chunks_before[owner] + within)[has_chunk]
        rows = (int(row[0]), int(row[-1]) + 1) if len(row) else (0, 0)
        table = chunking.cut(lengths, first=rows[0], last=rows[1])
        unit_chunk = np.full(last - first, -1, np.int64)
        unit_chunk[has_chunk] = np.arange(len(table))
        yield _narrow(records, lengths, counts, table, owner, unit_chunk, low, high, index, ordinal)


def _narrow(
    records: list[Record],
    lengths: Int64[np.ndarray, "all"],
    counts: Int64[np.ndarray, "all"],
    table: Chunks,
    owner: Int64[np.ndarray, "u"],
    unit_chunk: Int64[np.ndarray, "u"],
    low: int,
    high: int,
    index: int,
    ordinal: int,
) -> UnitBatch:
    """Keep the records ``low`` to ``high`` and of their bases only those that the chunks need."""
    touched = records[low:high]
    shifts = np.zeros(high - low, np.int64)
    stops = lengths[low:high].copy()
    which = table.sequence - low
    if len(table):
        shifts[which[0]] = table.start[0]
        stops[which[-1]] = table.end[-1]
    sequences = [
        record.sequence if not shift and stop == len(record.sequence) else record.sequence[shift:stop]
        for record, shift, stop in zip(touched, shifts.tolist(), stops.tolist(), strict=True)
    ]
    moved = shifts[which] if len(table) else np.zeros(0, np.int64)
    return UnitBatch(
        input=index,
        records=touched,
        ordinals=np.arange(low, high) + ordinal,
        counts=counts[low:high],
        chunks=Chunks(which, table.number, table.start - moved, table.end - moved),
        sequences=sequences,
        shifts=shifts,
        owner=owner - low,
        unit_chunk=unit_chunk,
    )


def read_blocks(
    inputs: Sequence[PlannedInput], chunk: int, start: Position, sizes: Sequence[int]
) -> Iterator[list[UnitBatch]]:
    """Read units as ``read_units`` does, grouped into blocks of these sizes, each at least one."""
    block: list[UnitBatch] = []
    left = iter(sizes)
    room = next(left, 0)
    for batch in read_units(inputs, chunk, start, sum(sizes)):
        first = 0
        while first < len(batch):
            piece = window(batch, first, min(first + room, len(batch)))
            block.append(piece)
            first += len(piece)
            room -= len(piece)
            if room == 0:
                yield block
                block, room = [], next(left, 0)
    if block:
        yield block


def window(batch: UnitBatch, first: int, last: int) -> UnitBatch:
    """The units ``first`` to ``last`` of a batch."""
    if first == 0 and last >= len(batch):
        return batch
    owner = batch.owner[first:last]
    unit_chunk = batch.unit_chunk[first:last]
    low, high = int(owner[0]), int(owner[-1]) + 1
    rows = unit_chunk[unit_chunk >= 0]
    chunk_low, chunk_high = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    chunks = batch.chunks.slice(chunk_low, chunk_high)
    return UnitBatch(
        input=batch.input,
        records=batch.records[low:high],
        ordinals=batch.ordinals[low:high],
        counts=batch.counts[low:high],
        chunks=Chunks(chunks.sequence - low, chunks.number, chunks.start, chunks.end),
        sequences=batch.sequences[low:high],
        shifts=batch.shifts[low:high],
        owner=owner - low,
        unit_chunk=np.where(unit_chunk >= 0, unit_chunk - chunk_low, -1),
    )
