"""Text columns in HDF5: fixed width where that is small, variable length where one long name would blow it up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np

WIDEST_FIXED = 256


def encode(texts: Iterable[str]) -> list[bytes]:
    """UTF-8 bytes of each text."""
    return [text.encode() for text in texts]


def widest(texts: Sequence[bytes]) -> int:
    """Bytes of the longest text, at least 1."""
    return max(map(len, texts), default=1) or 1


def column_type(width: int) -> np.dtype[Any]:
    """The HDF5 type of a column whose longest text has ``width`` bytes."""
    return h5py.string_dtype("utf-8", width if width <= WIDEST_FIXED else None)  # type: ignore[no-any-return]


def as_array(texts: Sequence[bytes], dtype: np.dtype[Any]) -> np.ndarray:
    """Texts as an array that a column of ``dtype`` takes."""
    if dtype.kind == "S":
        return np.array(texts, dtype=dtype)
    return np.array([text.decode() for text in texts], dtype=object)


def as_bytes(column: np.ndarray) -> list[bytes]:
    """What was read from a text column, as UTF-8 bytes."""
    values: list[bytes] = column.tolist()
    return values
