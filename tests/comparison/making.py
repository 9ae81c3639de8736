"""Predictions and cases that are made up, with what is known of them by counting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int8, Int64

from vnp.comparison._cases import Frames
from vnp.features.layout import FeatureLayout, Part
from vnp.features.read import Features, open_features
from vnp.features.table import Records, Rows, Skipped, write_table


def predictions(
    rows: int, groups: int, *, seed: int = 0, skill: float = 1.5
) -> tuple[Int8[np.ndarray, "n"], Float64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """Labels by group, probabilities that know something of them, and groups that err together."""
    random = np.random.default_rng(seed)
    group = np.sort(random.integers(groups, size=rows))
    label = (group % 2).astype(np.int8)
    margin = skill * (2 * label - 1) + random.normal(size=rows) + random.normal(size=groups)[group]
    return label, 1 / (1 + np.exp(-margin)), group


def frames(records: int = 12, *, per_chunk: int = 2, chunks: int = 3) -> Frames:
    """Records of equal numbers of chunks and frames, every other one viral."""
    count = records * chunks * per_chunk
    number = np.arange(count)
    return Frames(
        record=number // (chunks * per_chunk),
        chunk=(number // per_chunk % chunks + 1).astype(np.int32),
        frame=(number % per_chunk).astype(np.int8),
        span=np.full(count, 300),
        names=[f"r{index}" for index in range(records)],
        label=(np.arange(records) % 2).astype(np.int8),
        group=[f"g{index // 2}" for index in range(records)],
        organism=["viral" if index % 2 else "bacteria" for index in range(records)],
        length=np.arange(1, records + 1) * 1000,
    )


def write_features(
    path: Path,
    found: Frames,
    *,
    chunk: int = 300,
    values: np.ndarray | None = None,
    order: Sequence[int] | None = None,
    split: Sequence[int] | None = None,
) -> Features:
    """A file of merged features of some frames.

    Args:
        path: to write.
        found: the frames; their organisms become the input files.
        chunk: bases of a chunk.
        values: the features, of width 6; by default zeros.
        order: of the records in the file.
        split: the part of each record; by default none has one.
    """
    order = list(range(len(found.names)) if order is None else order)
    part = np.full(len(order), -1, np.int8) if split is None else np.array([split[one] for one in order], np.int8)
    place = {record: index for index, record in enumerate(order)}
    rows = sorted(range(len(found)), key=lambda row: (place[int(found.record[row])], row))
    record = np.array([place[int(found.record[row])] for row in rows])
    files = sorted(set(found.organism))
    write_table(
        path,
        rows=Rows(
            ids=[f"{found.names[found.record[row]]}_{found.chunk[row]}_{found.frame[row]}".encode() for row in rows],
            record=record,
            chunk=found.chunk[rows],
            frame=found.frame[rows],
            start=np.zeros(len(rows), np.int64),
            end=found.span[rows],
            label=found.label[found.record[rows]],
            split=part[record],
            group=[found.group[found.record[row]].encode() for row in rows],
        ),
        records=Records(
            ordinal=np.arange(len(order)),
            name=[found.names[one].encode() for one in order],
            length=found.length[order],
            chunks=np.full(len(order), 3, np.int32),
            input=np.array([files.index(found.organism[one]) for one in order], np.int32),
            label=found.label[order],
            split=part,
            group=[found.group[one].encode() for one in order],
        ),
        skipped=Skipped(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int8), []),
        arrays={"features": (np.zeros((len(rows), 6)) if values is None else values[rows]).astype(np.float32)},
        attributes={
            "kind": "features",
            "layout": FeatureLayout((Part("dna", "kmer", 2, 2, None), Part("protein", "kmer", 4, 4, None))).to_json(),
            "chunk": chunk,
            "run": "digest",
            "provenance": json.dumps({"inputs": [{"path": f"/data/{name}.fna.gz"} for name in files]}),
        },
    )
    return open_features(path)
