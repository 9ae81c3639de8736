"""Counts the edits between sequences and the stretches that they fit best, many pairs at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int16, Int64, UInt8

BAND = 32
"""Bases by which a sequence may slide against its window to either side."""
_LOOK = 32


def fewest_edits(
    sequences: UInt8[np.ndarray, "pairs length"], windows: UInt8[np.ndarray, "pairs length+2*BAND"], limit: int
) -> Int64[np.ndarray, "pairs"]:
    """Count the substitutions, insertions and deletions that turn each sequence into a stretch of its window.

    The dynamic programme of Sellers (Journal of Algorithms 1980, 1:359), on the diagonals within the band: each row is
    one base of the sequences, for all pairs at once.

    Args:
        sequences: letters; all of one length.
        windows: letters; a sequence that lies in the middle of its window is on the band's middle diagonal.
        limit: edits beyond which the number need not be exact.

    Returns:
        The edits, or some number above the limit.
    """
    count, length = sequences.shape
    edits = np.full(count, limit + 1, dtype=np.int64)
    width = 2 * BAND + 1
    alive = np.arange(count)
    rows, texts = np.ascontiguousarray(sequences.T), np.ascontiguousarray(windows.T)
    ramp = np.arange(width, dtype=np.int16)[:, None]
    cost: Int16[np.ndarray, "width alive"] = np.zeros((width, count), dtype=np.int16)
    for row in range(length):
        following = cost + (texts[row : row + width] != rows[row])
        np.minimum(following[:-1], cost[1:] + np.int16(1), out=following[:-1])
        # A base of the window that is passed over costs one more than what stands to the left of it.
        following -= ramp
        np.minimum.accumulate(following, axis=0, out=following)
        following += ramp
        cost = following
        if row % _LOOK == _LOOK - 1:
            near = cost.min(axis=0) <= limit
            if not near.all():
                alive, cost = alive[near], np.ascontiguousarray(cost[:, near])
                rows, texts = np.ascontiguousarray(rows[:, near]), np.ascontiguousarray(texts[:, near])
            if not len(alive):
                return edits
    edits[alive] = cost.min(axis=0)
    return edits
