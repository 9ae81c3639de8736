"""Features to read and to export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vnp.features.layout import FeatureLayout, make_layout
from vnp.features.read import Features, open_features
from vnp.features.table import Records, Rows, Skipped, write_table
from vnp.sequences.frames import FRAME_NAMES

LAYOUT = make_layout("full", dna=("small_dna", 5), protein=("small_protein", 3))


LABELS = (1, 1, 0, 0, 0, -1, 1, 0, 0, 0, -1)


def values(rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((rows, width)).astype(np.float16)


def write_features(
    path: Path,
    *,
    labels: Sequence[int] = LABELS,
    names: Sequence[str] | None = None,
    layout: FeatureLayout = LAYOUT,
    array: np.ndarray | None = None,
    **attributes: Any,
) -> Path:
    count = len(labels)
    names = names or [f"rec{i}" for i in range(count)]
    encoded = [name.encode() for name in names]
    frame = np.arange(count, dtype=np.int8) % 6
    rows = Rows(
        ids=[
            f"{name}_chunk_{i + 1}{FRAME_NAMES[k]}".encode()
            for i, (name, k) in enumerate(zip(names, frame, strict=True))
        ],
        record=np.arange(count),
        chunk=np.arange(1, count + 1, dtype=np.int32),
        frame=frame,
        start=np.arange(count) * 10,
        end=np.arange(count) * 10 + 300,
        label=np.array(labels, np.int8),
        split=np.arange(count, dtype=np.int8) % 4 - 1,
        group=encoded,
    )
    records = Records(
        ordinal=np.arange(count),
        name=encoded,
        length=np.full(count, 300),
        chunks=np.ones(count, np.int32),
        input=np.zeros(count, np.int32),
        label=np.array(labels, np.int8),
        split=np.arange(count, dtype=np.int8) % 4 - 1,
        group=encoded,
    )
    skipped = Skipped(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8), [])
    stored: dict[str, str | int] = {
        "kind": "features",
        "run": "digest",
        "layout": layout.to_json(),
        "chunk": 300,
        "provenance": "{}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(
        path,
        rows=rows,
        records=records,
        skipped=skipped,
        arrays={"features": values(count, layout.width) if array is None else array},
        attributes={**stored, **attributes},
    )
    return path


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return open_features(write_features(tmp_path / "run/features.h5"))
