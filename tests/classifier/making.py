"""Small features with something to learn in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vnp.features.layout import FeatureLayout, Part
from vnp.features.table import Records, Rows, Skipped, write_table

LAYOUT = FeatureLayout((Part("dna", "kmer", 8, 8, None), Part("protein", "kmer", 12, 12, None)))
ENCODERS = {
    "dna": {"name": "kmer", "width": 8, "algorithm": "kmer-dna-1", "revision": None, "precision": "fp32"},
    "protein": {"name": "kmer", "width": 12, "algorithm": "kmer-protein-1", "revision": None, "precision": "fp32"},
}


def write_features(
    path: Path,
    *,
    groups: Mapping[str, Sequence[int]],
    seed: int = 0,
    layout: FeatureLayout = LAYOUT,
    chunk: int = 300,
    encoders: Mapping[str, Any] = ENCODERS,
    inputs: Sequence[Mapping[str, Any]] = (),
    dtype: type[np.floating[Any]] = np.float16,
    parts: Mapping[str, int] | None = None,
) -> Path:
    """One record a group, one chunk for every two rows.

    Args:
        path: the file.
        groups: labels of the rows of each group.
        seed: of the numbers.
        layout: of the columns.
        chunk: in bases.
        encoders: for the provenance.
        inputs: for the provenance.
        dtype: of the numbers.
        parts: the part of the split of each group, where the data brings one.
    """
    chance = np.random.default_rng(seed)
    label = np.array([value for values in groups.values() for value in values], np.int8)
    record = np.repeat(np.arange(len(groups)), [len(values) for values in groups.values()])
    place = np.array([place for values in groups.values() for place in range(len(values))], np.int64)
    values = chance.normal(size=(len(label), layout.width)) + 0.8 * (2 * label[:, None] - 1) * (
        np.arange(layout.width) < 6
    )
    names = [name.encode() for name in groups]
    split = [(parts or {}).get(name, -1) for name in groups]
    write_table(
        path,
        rows=Rows(
            ids=[
                f"{name}_chunk_{n // 2 + 1}F{n % 2 + 1}".encode()
                for name, rows in groups.items()
                for n in range(len(rows))
            ],
            record=record,
            chunk=(place // 2 + 1).astype(np.int32),
            frame=(place % 2).astype(np.int8),
            start=place // 2 * chunk,
            end=(place // 2 + 1) * chunk,
            label=label,
            split=np.array([split[number] for number in record.tolist()], np.int8),
            group=[names[number] for number in record.tolist()],
        ),
        records=Records(
            ordinal=np.arange(len(groups)),
            name=names,
            length=np.array([chunk * len(values) for values in groups.values()]),
            chunks=np.array([max(1, len(values) // 2) for values in groups.values()], np.int32),
            input=np.zeros(len(groups), np.int32),
            label=np.array([values[0] if len(values) else -1 for values in groups.values()], np.int8),
            split=np.array(split, np.int8),
            group=names,
        ),
        skipped=Skipped(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8), []),
        arrays={"features": values.astype(dtype)},
        attributes={
            "kind": "features",
            "run": "r" * 64,
            "layout": layout.to_json(),
            "chunk": chunk,
            "provenance": json.dumps({"encoders": encoders, "inputs": list(inputs), "shards": {"0": "s" * 64}}),
        },
    )
    return path


def both_classes(groups: int = 10, rows: int = 20) -> dict[str, list[int]]:
    """So many viral and so many host groups."""
    named = {f"virus_{number}": [1] * rows for number in range(groups)}
    return named | {f"host_{number}": [0] * rows for number in range(groups)}
