"""Predictions and cases that are made up, with what is known of them by counting."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int8, Int64

from vnp.evaluation.cases import Frames


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
