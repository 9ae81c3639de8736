"""The front end of a task: a block of units becomes the strings to embed and the columns that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int8, Int64, UInt8

from vnp.features.split import NO_SPLIT
from vnp.features.table import Records, Rows, Skipped
from vnp.runs.planning.plan import Selection
from vnp.runs.request import PlannedInput
from vnp.runs.units import UnitBatch
from vnp.sequences.frames import Frames, Reason, frame_ids, open_frames

ONLY_X = b"only ambiguous codons"
_Part = TypeVar("_Part", Rows, Records, Skipped)
_REASONS = [reason.text.encode() for reason in Reason]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One block, ready to be embedded.

    Args:
        rows: its columns, n rows.
        records: the input records that it touches.
        skipped: what has no row.
        dna: n DNA sequences, each on its frame's own strand.
        protein: n proteins.
        units: how many units the block covers.
    """

    rows: Rows
    records: Records
    skipped: Skipped
    dna: list[str]
    protein: list[str]
    units: int


def prepare(
    block: Sequence[UnitBatch], inputs: Sequence[PlannedInput], selections: Mapping[int, Selection] | None = None
) -> Prepared:
    """Find and translate the open frames of a block; of a dataset's records those that it lists.

    Args:
        block: consecutive units, possibly of several files.
        inputs: the run's files.
        selections: what datasets say of the records of these units, by the index of the input.

    Raises:
        InputError: a sequence holds letters that are no nucleotides.
    """
    chosen = selections or {}
    parts = [_prepare(batch, inputs[batch.input], chosen.get(batch.input)) for batch in block]
    records = _join(Records, [part.records for part in parts])
    fresh = np.diff(records.ordinal, prepend=-1) > 0
    return Prepared(
        rows=_join(Rows, [part.rows for part in parts]),
        records=_keep(records, fresh),
        skipped=_join(Skipped, [part.skipped for part in parts]),
        dna=[text for part in parts for text in part.dna],
        protein=[text for part in parts for text in part.protein],
        units=sum(part.units for part in parts),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Said:
    """What is known of each record of a batch."""

    label: Int8[np.ndarray, "r"]
    split: Int8[np.ndarray, "r"]
    group: list[bytes]
    frames: UInt8[np.ndarray, "r"] | None


def _said(batch: UnitBatch, entry: PlannedInput, names: list[bytes], selection: Selection | None) -> _Said:
    count = len(names)
    if selection is None:
        label, split = (np.full(count, value, np.int8) for value in (entry.label, NO_SPLIT))
        return _Said(label, split, names if entry.group is None else [entry.group.encode()] * count, None)
    at = selection.at(batch.ordinals)
    group = [selection.units[number] for number in selection.unit[at].tolist()]
    return _Said(selection.label[at], selection.split[at], group, selection.frames[at])


def _prepare(batch: UnitBatch, entry: PlannedInput, selection: Selection | None) -> Prepared:
    names = [entry.record_name(record.name) for record in batch.records]
    encoded = [name.encode() for name in names]
    said = _said(batch, entry, encoded, selection)
    only = None if said.frames is None else said.frames[batch.chunks.sequence]
    frames = open_frames(batch.sequences, batch.chunks, only)
    ordinals = batch.ordinals + entry.first_record
    owner = batch.chunks.sequence[frames.chunk]
    return Prepared(
        rows=Rows(
            ids=[name.encode() for name in frame_ids(names, batch.chunks, frames)],
            record=ordinals[owner],
            chunk=batch.chunks.number[frames.chunk],
            frame=frames.frame,
            start=frames.start + batch.shifts[owner],
            end=frames.end + batch.shifts[owner],
            label=said.label[owner],
            split=said.split[owner],
            group=[said.group[index] for index in owner.tolist()],
        ),
        records=Records(
            ordinal=ordinals,
            name=encoded,
            length=np.array([len(record.sequence) for record in batch.records], np.int64),
            chunks=batch.counts.astype(np.int32),
            input=np.full(len(names), batch.input, np.int32),
            label=said.label,
            split=said.split,
            group=said.group,
        ),
        skipped=_skipped(batch, frames, ordinals),
        dna=frames.nucleotides(),
        protein=frames.proteins(),
        units=len(batch),
    )


def _skipped(batch: UnitBatch, frames: Frames, ordinals: Int64[np.ndarray, "r"]) -> Skipped:
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
    reasons += [_REASONS[code] for code in frames.reason[closed].tolist()] + [ONLY_X] * len(beside)
    order = np.lexsort((frame, chunk, record))
    return Skipped(record[order], chunk[order], frame[order], [reasons[index] for index in order.tolist()])


def _join(kind: type[_Part], parts: Sequence[_Part]) -> _Part:
    columns: dict[str, Any] = {}
    for name in kind.__slots__:
        values = [getattr(part, name) for part in parts]
        columns[name] = (
            np.concatenate(values)
            if isinstance(values[0], np.ndarray)
            else [text for value in values for text in value]
        )
    return kind(**columns)


def _keep(records: Records, kept: np.ndarray) -> Records:
    """The records marked in ``kept``: one cut by a border inside the block is there twice."""
    if kept.all():
        return records
    columns: dict[str, Any] = {}
    for name in Records.__slots__:
        values = getattr(records, name)
        columns[name] = (
            values[kept]
            if isinstance(values, np.ndarray)
            else [text for text, keep in zip(values, kept.tolist(), strict=True) if keep]
        )
    return Records(**columns)
