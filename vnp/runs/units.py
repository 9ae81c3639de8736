"""The units of a run in input order, as planning and the tasks both read them, and the rows that they become.

A unit is one chunk of one record; a record without a chunk (empty, or with letters that are no bases) is one unit
too, so that it belongs to exactly one shard and is not lost.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int32, Int64

from vnp.features.scores import LONGEST_DESCRIPTION, NOT_COUNTED, Facts, Scores
from vnp.features.split import NO_SPLIT
from vnp.features.table import Records, Rows, Skipped
from vnp.files.tables import table_lines
from vnp.runs.planning.plan import Selection, records_of
from vnp.runs.request import PlannedInput, Position
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.ends import UNKNOWN, terminal_repeat
from vnp.sequences.frames import CODON, FRAME_TEXTS, Frames, Reason, frame_ids, open_frames, whole_chunks
from vnp.sequences.opening import Watch
from vnp.sequences.reading import Record
from vnp.sequences.record import base_counts
from vnp.sequences.samplesheet import SECOND

BATCH_UNITS = 8_192
SKIPPED_COLUMNS = ("record", "input", "length", "chunk", "frame", "reason")
_BATCH_BASES = 8_000_000


@dataclass(frozen=True, slots=True)
class UnitBatch:
    """Consecutive units of one input file."""

    input: int  # index of the input file
    records: list[Record]  # the records touched; a record cut by the batch's border is in both batches
    ordinals: Int64[np.ndarray, "r"]  # ordinal of each of these records within the file
    counts: Int64[np.ndarray, "r"]  # chunks of each whole record
    chunks: Chunks  # the chunks in this batch; ``sequence`` points into ``records``
    owner: Int64[np.ndarray, "u"]  # for each unit, index into ``records``
    unit_chunk: Int64[np.ndarray, "u"]  # for each unit, index into ``chunks``, or -1 for a record without a chunk

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def sequences(self) -> list[bytes]:
        """The bases of each record."""
        return [record.sequence for record in self.records]

    def numbers(self) -> Int32[np.ndarray, "u"]:
        """Number of each unit's chunk within its record, 1-based; 0 for a record without a chunk."""
        numbers = np.zeros(len(self), np.int32)
        has_chunk = self.unit_chunk >= 0
        numbers[has_chunk] = self.chunks.number[self.unit_chunk[has_chunk]]
        return numbers


def read_units(
    inputs: Sequence[PlannedInput], chunk: int, start: Position, units: int, watches: Mapping[int, Watch] | None = None
) -> Iterator[UnitBatch]:
    """Read so many units from a position on, across files, in batches of at most ``BATCH_UNITS``.

    ``watches`` compare the bytes of each file, by its index, with those that were planned.

    Raises:
        InputError: a file cannot be read.
        ChangedInputError: it is another.
    """
    left = units
    for index in range(start.input, len(inputs)):
        if left <= 0:
            return
        if inputs[index].mates == SECOND:
            # They came with the first.
            continue
        here = start if index == start.input else Position(index)
        records = records_of(inputs, index, here, watches)
        for batch in batch_units(records, chunk, index, here, left):
            kept = window(batch, 0, left)
            left -= len(kept)
            yield kept
            if left <= 0:
                return


def batch_units(
    records: Iterator[Record], chunk: int, index: int, start: Position, wanted: int = sys.maxsize
) -> Iterator[UnitBatch]:
    """Gather the records of one file, from the start's on, into batches of units from the start's chunk on.

    No record is taken behind the one that holds the last unit that is wanted.
    """
    waiting: list[Record] = []
    number = Chunking(chunk).number
    bases = units = 0
    ordinal, skip = start.record, start.chunk
    for record in records:
        waiting.append(record)
        bases += (size := len(record.sequence))
        # Most records of most inputs are reads, which are one unit.
        units += number(size) if size > chunk else 1
        if bases >= _BATCH_BASES or units - skip >= min(BATCH_UNITS, wanted):
            yield from _cut_batches(waiting, chunk, index, ordinal, skip)
            ordinal += len(waiting)
            wanted -= units - skip
            waiting, bases, units, skip = [], 0, 0, 0
    if waiting:
        yield from _cut_batches(waiting, chunk, index, ordinal, skip)


def _cut_batches(records: list[Record], chunk: int, index: int, ordinal: int, skip: int) -> Iterator[UnitBatch]:
    lengths = np.array([0 if record.problem else len(record.sequence) for record in records], np.int64)
    chunking = Chunking(chunk)
    counts, chunks = chunking.count(lengths), chunking.cut(lengths)
    owner = np.repeat(np.arange(len(records)), np.maximum(counts, 1))
    unit_chunk = np.full(len(owner), -1, np.int64)
    unit_chunk[counts[owner] > 0] = np.arange(len(chunks))
    whole = UnitBatch(
        input=index,
        records=records,
        ordinals=np.arange(len(records)) + ordinal,
        counts=counts,
        chunks=chunks,
        owner=owner,
        unit_chunk=unit_chunk,
    )
    for first in range(skip, len(owner), BATCH_UNITS):
        yield window(whole, first, min(first + BATCH_UNITS, len(owner)))


def read_blocks(
    inputs: Sequence[PlannedInput],
    chunk: int,
    start: Position,
    sizes: Sequence[int],
    watches: Mapping[int, Watch] | None = None,
) -> Iterator[list[UnitBatch]]:
    """Read units as ``read_units`` does, grouped into blocks of these sizes, each at least one."""
    block: list[UnitBatch] = []
    left = iter(sizes)
    room = next(left, 0)
    for batch in read_units(inputs, chunk, start, sum(sizes), watches):
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
        owner=owner - low,
        unit_chunk=np.where(unit_chunk >= 0, unit_chunk - chunk_low, -1),
    )


ONLY_X = b"only ambiguous codons"
_MORE = "…".encode()
_Columns = TypeVar("_Columns", Rows, Records, Skipped, Facts, "Beside")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One block, ready to be embedded."""

    rows: Rows  # its columns, n rows
    records: Records  # the input records that it touches
    skipped: Skipped  # what has no row
    dna: list[str]  # n DNA sequences, each on its frame's own strand
    protein: list[str]  # n proteins; none where a row is a chunk
    beside: Beside | None = None  # chunks without an open frame, where these are asked for
    facts: Facts | None = None  # what tables tell of the records, where that is asked for
    settled: Settled | None = None  # records without a row because native settles them, where that is asked for


@dataclass(frozen=True, slots=True)
class Settled:
    """Records that are not embedded, because the native network is sure about them."""

    record: Int64[np.ndarray, "s"]  # their ordinals over the whole run, rising
    windows: Scores  # what it says of those of their windows that begin in the block


@dataclass(frozen=True, slots=True)
class Beside:
    """Chunks without an open frame that are long enough to be looked at as a whole."""

    record: Int64[np.ndarray, "c"]  # ordinal of the input record over the whole run
    chunk: Int32[np.ndarray, "c"]  # number within the record, from 1
    start: Int64[np.ndarray, "c"]  # on the record
    end: Int64[np.ndarray, "c"]
    dna: list[str]


def prepare(
    block: Sequence[UnitBatch],
    inputs: Sequence[PlannedInput],
    selections: Mapping[int, Selection] | None = None,
    shortest: int | None = None,
    beside: int | None = None,
    settled: Settled | None = None,
    *,
    facts: bool = False,
) -> Prepared:
    """Find and translate the open frames of a block, of a dataset's records those that it lists; or take its chunks.

    Args:
        selections: what datasets say of the records of these units, by the index of the input.
        shortest: None for open frames; else every chunk of so many bases or more is one row. Each record of a dataset
            is one chunk, which is a row because a frame of it is listed.
        beside: bases from which on a chunk without an open frame is taken beside the rows; None for none.
        settled: records whose chunks are passed over.
        facts: note what tables tell of records; of one that a border cuts, with its first chunk.

    Raises:
        InputError: a sequence holds letters that are no nucleotides.
    """
    chosen = selections or {}
    sure = None if settled is None else settled.record
    parts = [_prepare(batch, inputs[batch.input], chosen.get(batch.input), shortest, beside, sure) for batch in block]
    # A record that is cut by a border inside the block is there twice.
    ordinals = np.concatenate([part.records.ordinal for part in parts])
    new = np.diff(ordinals, prepend=-1) > 0
    return Prepared(
        rows=_join(Rows, [part.rows for part in parts]),
        records=_join(Records, [part.records for part in parts], new),
        skipped=_join(Skipped, [part.skipped for part in parts]),
        dna=[text for part in parts for text in part.dna],
        protein=[text for part in parts for text in part.protein],
        beside=None if beside is None else _join(Beside, [part.beside for part in parts if part.beside is not None]),
        facts=_join(Facts, [_facts(batch) for batch in block], new) if facts else None,
        settled=settled,
    )


def _facts(batch: UnitBatch) -> Facts:
    """What is to be told of records, where their first chunk is: of a chromosome it is looked for once."""
    begins = batch.numbers()[np.searchsorted(batch.owner, np.arange(len(batch.records)))] <= 1
    found = [
        (terminal_repeat(record.sequence), *base_counts(record.sequence))
        if begun and not record.problem
        else (UNKNOWN, NOT_COUNTED, NOT_COUNTED)
        for record, begun in zip(batch.records, begins.tolist(), strict=True)
    ]
    repeat, gc, ambiguous = np.array(found, np.int64).reshape(-1, 3).T
    return Facts(repeat.astype(np.int32), gc, ambiguous, [_shortened(record.description) for record in batch.records])


def _shortened(text: str) -> bytes:
    """A description as it is kept."""
    found = text.strip().encode()
    if len(found) <= LONGEST_DESCRIPTION:
        return found
    return found[: LONGEST_DESCRIPTION - len(_MORE)].decode(errors="ignore").encode() + _MORE


def _prepare(
    batch: UnitBatch,
    entry: PlannedInput,
    selection: Selection | None,
    shortest: int | None,
    beside: int | None,
    sure: Int64[np.ndarray, "s"] | None,
) -> Prepared:
    ordinals = batch.ordinals + entry.first_record
    if sure is not None and len(sure):
        batch = replace(batch, chunks=batch.chunks.some(~np.isin(ordinals, sure)[batch.chunks.sequence]))
    names = [entry.record_name(record.name) for record in batch.records]
    encoded = [name.encode() for name in names]
    only = None
    if selection is None:
        label, split = (np.full(len(names), value, np.int8) for value in (entry.label, NO_SPLIT))
        group = encoded if entry.group is None else [entry.group.encode()] * len(names)
    else:
        at = selection.at(batch.ordinals)
        label, split = selection.label[at], selection.split[at]
        group = [selection.units[number] for number in selection.unit[at].tolist()]
        only = selection.frames[at][batch.chunks.sequence]
    if shortest is None:
        frames = open_frames(batch.sequences, batch.chunks, only)
    else:
        frames = whole_chunks(batch.sequences, batch.chunks, shortest)
    owner = batch.chunks.sequence[frames.chunk]
    return Prepared(
        rows=Rows(
            ids=[name.encode() for name in frame_ids(names, batch.chunks, frames)],
            record=ordinals[owner],
            chunk=batch.chunks.number[frames.chunk],
            frame=frames.frame,
            start=frames.start,
            end=frames.end,
            label=label[owner],
            split=split[owner],
            group=[group[index] for index in owner.tolist()],
        ),
        records=Records(
            ordinal=ordinals,
            name=encoded,
            length=np.array([len(record.sequence) for record in batch.records], np.int64),
            chunks=batch.counts.astype(np.int32),
            input=np.full(len(names), batch.input, np.int32),
            label=label,
            split=split,
            group=group,
        ),
        skipped=_skipped(batch, frames, ordinals, shortest),
        dna=frames.nucleotides(),
        protein=frames.proteins() if shortest is None else [],
        beside=None if beside is None else _beside(batch, frames, ordinals, beside),
    )


def _beside(batch: UnitBatch, frames: Frames, ordinals: Int64[np.ndarray, "r"], shortest: int) -> Beside:
    closed = batch.chunks.some(frames.reason == Reason.NO_OPEN_FRAME)
    whole = whole_chunks(batch.sequences, closed, shortest)
    owner, number = closed.sequence[whole.chunk], closed.number[whole.chunk]
    return Beside(ordinals[owner], number, whole.start, whole.end, whole.nucleotides())


def _skipped(batch: UnitBatch, frames: Frames, ordinals: Int64[np.ndarray, "r"], shortest: int | None) -> Skipped:
    """Records that cannot be used, chunks without a row, and ambiguous frames beside rows, in input order."""
    whole = np.flatnonzero(batch.unit_chunk < 0)
    closed = np.flatnonzero(frames.reason != Reason.HAS_ROWS)
    beside = frames.ambiguous[frames.reason[frames.ambiguous[:, 0]] == Reason.HAS_ROWS]
    records = batch.owner[whole]
    chunks = np.concatenate([closed, beside[:, 0]])
    record = np.concatenate([ordinals[records], ordinals[batch.chunks.sequence[chunks]]])
    chunk = np.concatenate([np.zeros(len(whole), np.int32), batch.chunks.number[chunks]])
    frame = np.concatenate([np.full(len(whole) + len(closed), -1), beside[:, 1]]).astype(np.int8)
    reasons = [(batch.records[index].problem or "empty").encode() for index in records.tolist()]
    texts = [reason.text(shortest or CODON).encode() for reason in Reason]
    reasons += [texts[code] for code in frames.reason[closed].tolist()] + [ONLY_X] * len(beside)
    order = np.lexsort((frame, chunk, record))
    return Skipped(record[order], chunk[order], frame[order], [reasons[index] for index in order.tolist()])


def _join(kind: type[_Columns], parts: Sequence[_Columns], kept: np.ndarray | None = None) -> _Columns:
    columns: dict[str, Any] = {}
    for name in kind.__slots__:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], np.ndarray):
            whole = np.concatenate(values)
            columns[name] = whole if kept is None else whole[kept]
        else:
            texts = chain.from_iterable(values)
            columns[name] = list(texts if kept is None else compress(texts, kept.tolist()))
    return kind(**columns)


def skipped_lines(inputs: Sequence[PlannedInput], records: Records, skipped: Skipped) -> str:
    """The lines of some entries, in their order.

    ``records`` are consecutive, those of the entries among them.
    """
    places = (skipped.record - records.ordinal[:1]).tolist()
    return table_lines(
        (
            [records.name[at].decode() for at in places],
            [inputs[number].path for number in records.input[places].tolist()],
            list(map(str, records.length[places].tolist())),
            [str(chunk or "") for chunk in skipped.chunk.tolist()],
            [FRAME_TEXTS[frame] for frame in skipped.frame.tolist()],
            [reason.decode() for reason in skipped.reason],
        )
    )
