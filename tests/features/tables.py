"""Small tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vnp.features.table import Records, Rows, Skipped, write_table


def make_rows(keys: Sequence[tuple[int, int, int]], name: str = "r{}") -> Rows:
    """Rows of (record, chunk, frame)."""
    record, chunk, frame = (np.array([key[i] for key in keys], np.int64) for i in range(3))
    return Rows(
        ids=[f"{name.format(r)}_chunk_{c}{'FR'[f // 3]}{f % 3 + 1}".encode() for r, c, f in keys],
        record=record,
        chunk=chunk.astype(np.int32),
        frame=frame.astype(np.int8),
        start=chunk * 300,
        end=chunk * 300 + 299,
        label=np.array([r % 3 - 1 for r in record.tolist()], np.int8),
        split=np.array([r % 4 - 1 for r in record.tolist()], np.int8),
        group=[f"g{r}".encode() for r in record.tolist()],
    )


def make_records(ordinals: Sequence[int], name: str = "r{}") -> Records:
    count = len(ordinals)
    return Records(
        ordinal=np.array(ordinals, np.int64),
        name=[name.format(ordinal).encode() for ordinal in ordinals],
        length=np.array([900 + ordinal for ordinal in ordinals], np.int64),
        chunks=np.full(count, 3, np.int32),
        input=np.zeros(count, np.int32),
        label=np.zeros(count, np.int8),
        split=np.array([ordinal % 4 - 1 for ordinal in ordinals], np.int8),
        group=[f"g{ordinal}".encode() for ordinal in ordinals],
    )


def make_skipped(entries: Sequence[tuple[int, int, int, str]] = ()) -> Skipped:
    return Skipped(
        np.array([entry[0] for entry in entries], np.int64),
        np.array([entry[1] for entry in entries], np.int32),
        np.array([entry[2] for entry in entries], np.int8),
        [entry[3].encode() for entry in entries],
    )


def write(
    path: Path,
    keys: Sequence[tuple[int, int, int]],
    records: Sequence[int],
    *,
    arrays: dict[str, np.ndarray] | None = None,
    skipped: Sequence[tuple[int, int, int, str]] = (),
    name: str = "r{}",
) -> Path:
    """Write a table; by default with an array ``a`` of four columns that tells rows apart."""
    if arrays is None:
        arrays = {"a": np.array([[r, c, f, r + c + f] for r, c, f in keys], np.float16).reshape(len(keys), 4)}
    write_table(
        path,
        rows=make_rows(keys, name),
        records=make_records(records, name),
        skipped=make_skipped(skipped),
        arrays=arrays,
        attributes={"kind": "test", "shard": 3},
    )
    return path
