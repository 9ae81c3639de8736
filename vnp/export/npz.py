"""Features as one ``.npz`` file, written in windows: numpy can only save an array that it holds in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vnp.errors import FeatureError
from vnp.features.read import Features
from vnp.files.durable import replacing
from vnp.sequences.frames import FRAME_NAMES

_MOST_PADDING = 1 << 30
_NUMBERS = {"labels": "label", "split": "split", "record": "record", "chunk": "chunk", "start": "start", "end": "end"}
_TEXTS = {"ids": "ids", "groups": "group"}


def write_npz(features: Features, path: Path, progress: Callable[[int], None]) -> None:
    """Write ``ids``, ``features``, ``labels``, ``split``, ``groups``, ``record``, ``chunk``, ``frame``, ``start``,
    ``end`` and ``layout``, each to be read with ``numpy.load`` and without pickles.

    Args:
        features: what to write.
        path: of the new file.
        progress: told how many rows were written since the last call.

    Raises:
        FeatureError: the source is damaged, or its ids are too long for numpy's strings of one width.
        StorageError: the disk is full or cannot be written.
    """  # noqa: D205 - a list of names that does not fit one line
    widths = {name: _longest(features, column) for name, column in _TEXTS.items()}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x", allowZip64=True) as archive:
        for name, column in _TEXTS.items():
            dtype = np.dtype(f"<U{widths[name]}")
            texts = (np.array(window, dtype) for window in features.text_windows(column))
            _add(archive, name, dtype, (features.rows,), texts)
        _add(archive, "features", np.dtype("<f4"), (features.rows, features.width), _values(features, progress))
        for name, column in _NUMBERS.items():
            dtype = next(features.number_windows(column), np.zeros(0, np.int64)).dtype.newbyteorder("<")
            _add(archive, name, dtype, (features.rows,), features.number_windows(column))
        names = np.array(FRAME_NAMES, "<U2")
        _add(archive, "frame", names.dtype, (features.rows,), (names[w] for w in features.number_windows("frame")))
        layout = np.array(features.layout.to_json())
        _add(archive, "layout", layout.dtype, (), [layout])


def _values(features: Features, progress: Callable[[int], None]) -> Iterator[np.ndarray]:
    for window in features.windows():
        yield window.values
        progress(len(window))


def _longest(features: Features, column: str) -> int:
    """Letters of the longest text."""
    longest = max((len(text) for texts in features.text_windows(column) for text in texts), default=1) or 1
    padded = 4 * longest * features.rows
    if padded > max(_MOST_PADDING, 4 * features.width * features.rows):
        raise FeatureError(
            f"{features.path}: one of its {column} has {longest:,} letters, and numpy would pad all to as many "
            f"({padded / 1e9:,.0f} GB): export to parquet, or shorten the names of the records"
        )
    return longest


def _add(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], windows: Iterable[np.ndarray]
) -> None:
    # A ZipInfo made here has a fixed date, so that the same features give the same bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for window in windows:
            member.write(np.ascontiguousarray(window, dtype).tobytes())
