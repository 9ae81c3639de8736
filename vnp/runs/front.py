"""The front end of a task: a block of units becomes the strings to embed and the columns that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64

from vnp.features.table import Records, Rows, Skipped
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


def prepare(block: Sequence[UnitBatch], inputs: Sequence[PlannedInput]) -> Prepared:
    """Find and translate the open frames of a block.

    Args:
        block: consecutive units, possibly of several files.
        inputs: the run's files.

    Raises:
        InputError: a sequence holds letters that are no nucleotides.
    """
    parts = [_prepare(batch, inputs[batch.input]) for batch in block]
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


def _prepare(batch: UnitBatch, entry: PlannedInput) -> Prepared:
    frames = open_frames(batch.sequences, batch.chunks)
    names = [entry.record_name(record.name) for record in batch.records]
    encoded = [name.encode() for name in names]
    groups = encoded if entry.group is None else [entry.group.encode()] * len(names)
    ordinals = batch.ordinals + entry.first_record
    owner = batch.chunks.sequence[frames.chunk]
    count = len(frames)
    return Prepared(
        rows=Rows(
            ids=[name.encode() for name in frame_ids(names, batch.chunks, frames)],
            record=ordinals[owner],
            chunk=batch.chunks.number[frames.chunk],
            frame=frames.frame,
            start=frames.start + batch.shifts[owner],
            end=frames.end + batch.shifts[owner],
            label=np.full(count, entry.label, np.int8),
            group=[groups[index] for index in owner.tolist()],
        ),
        records=Records(
            ordinal=ordinals,
            name=encoded,
            length=np.array([len(record.sequence) for record in batch.records], np.int64),
            chunks=batch.counts.astype(np.int32),
            input=np.full(len(names), batch.input, np.int32),
            label=np.full(len(names), entry.label, np.int8),
            group=groups,
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
