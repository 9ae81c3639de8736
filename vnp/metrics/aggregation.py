"""From frames to the chunks and records that they are of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64

from vnp.metrics.rules import BEST_FRAME, find_rule

LEVELS = ("frame", "chunk", "record")


@dataclass(frozen=True, slots=True, eq=False)
class Aggregated:
    """Predictions of chunks or records, made of those of their frames; m of them, in ascending order of their keys."""

    key: Int64[np.ndarray, "m"]  # what the frames had in common
    probability: Float64[np.ndarray, "m"]  # of viral
    frames: Int64[np.ndarray, "m"]  # how many frames went into it
    best: Int64[np.ndarray, "m"]  # row of the frame that is surest
    first: Int64[np.ndarray, "m"]  # row of the first frame, to look up what all share, such as the label

    def __len__(self) -> int:
        return len(self.key)


def chunk_keys(record: Int64[np.ndarray, "n"], chunk: Int32[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """One number for each chunk of each record, ascending as they are."""
    return np.asarray(record, np.int64) << 32 | np.asarray(chunk, np.int64)


def aggregate(
    probability: Float64[np.ndarray, "n"],
    key: Int64[np.ndarray, "n"],
    *,
    rule: str = BEST_FRAME,
    length: Int64[np.ndarray, "n"] | None = None,
) -> Aggregated:
    """Frames to chunks (``key`` from ``chunk_keys``) or to records (``key`` the record).

    Args:
        probability: of viral, for every frame.
        key: what each frame belongs to.
        rule: one of ``RULES``.
        length: bases of each frame, its weight; all count the same without it.

    Raises:
        UsageError: the rule is unknown.
    """
    combine = find_rule(rule).combine
    probability = np.asarray(probability, np.float64)
    if not len(probability):
        none = np.empty(0, np.int64)
        return Aggregated(none, np.empty(0), none, none, none)
    # Within a key the surest frame comes last, viral behind host where both are as sure.
    order = np.lexsort((probability, np.maximum(probability, 1 - probability), key))
    ordered = np.asarray(key)[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    frames = np.diff(np.r_[start, len(order)])
    best = order[start + frames - 1]
    weight = np.ones(len(order)) if length is None else np.asarray(length, np.float64)
    combined = combine(probability, weight, order, start, best)
    return Aggregated(ordered[start], combined, frames, best, np.minimum.reduceat(order, start))
