"""Sequences that are the same, which need to be embedded only once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64
    from numpy.typing import NDArray


def distinct(ids: Sequence[NDArray[np.integer]]) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " n"]]:
    """Find sequences that are the same.

    Args:
        ids: token ids of each sequence.

    Returns:
        Where each distinct sequence comes first, in that order, and which of those each sequence is.
    """
    seen: dict[bytes, int] = {}
    whole = (each if each.dtype == np.int64 else each.astype(np.int64) for each in ids)
    places = np.array([seen.setdefault(each.tobytes(), len(seen)) for each in whole], np.int64)
    return np.unique(places, return_index=True)[1], places
