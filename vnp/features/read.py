"""Reads merged features: what ``reduce`` wrote, in windows of bounded memory, each checked as it is read.

``open_features("RUN")`` checks what the file says of itself, and its ``windows()`` yield float32 ``values`` (n, 1664)
beside ``columns``. A number that was changed after it was written is an error, never given out.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32, Int8, Int64

from vnp.errors import FeatureError, InputError, RunError, UsageError
from vnp.features import FEATURES_NAME, RUN_NAME
from vnp.features.hdf5 import as_bytes, extent
from vnp.features.layout import FeatureLayout
from vnp.features.split import look_up
from vnp.features.table import (
    CHECKED_ROWS,
    COLUMNS,
    Reading,
    Records,
    Rows,
    Skipped,
    all_finite,
    checked,
    read_checksums,
    read_records,
    read_rows,
    read_skipped,
    require_finite,
    require_schema,
    windows,
)
from vnp.files.records import parse_json, require_regular

log = logging.getLogger(__name__)

_WINDOW_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Consecutive rows."""

    first: int  # number of the first row
    columns: Rows  # what the rows are
    values: Float32[np.ndarray, "n width"]  # their features

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """A file of merged features. It is opened anew for each reading, so there is nothing to close."""

    path: Path  # the file
    rows: int  # how many it has
    layout: FeatureLayout  # what its columns are
    chunk: int  # bases of a chunk
    run: str  # digest of the run that it was merged from
    provenance: dict[str, Any]  # inputs, encoders, shards and versions, as ``reduce`` stored them
    # of every array, as ``reduce`` stored them; None in a file of an earlier version, which has none
    checksums: Mapping[str, Int64[np.ndarray, "k"]] | None = None
    columns: slice = field(default_factory=lambda: slice(None))  # which columns of the file the layout speaks of
    group_of: Mapping[int, bytes] | None = None  # groups by record, in place of the stored ones; None for those

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.layout.width

    def only(self, part: str) -> Features:
        """The same rows with the columns of one part, ``dna`` or ``protein``; ``LayoutError`` where there is none."""
        layout = self.layout.only(part)
        return replace(self, layout=layout, columns=self.layout.columns(part))

    def regrouped(self, groups: Mapping[str, str]) -> Features:
        """The same rows, of other groups.

        ``groups`` has the unit that a split must not cut, by the record's name.

        Raises:
            InputError: a record has none.
        """
        records = self.records()
        found = look_up([name.decode() for name in records.name], [groups], "group")
        by_record = zip(records.ordinal.tolist(), (group.encode() for group in found), strict=True)
        return replace(self, group_of=dict(by_record))

    def as_extracted(self) -> Features:
        """The same rows, of the groups that they were extracted with."""
        return replace(self, group_of=None)

    def ids(self) -> list[str]:
        """The id of every row."""
        return [text for texts in self.text_windows("ids") for text in texts]

    def labels(self) -> Int8[np.ndarray, "n"]:
        """1 viral, 0 host, -1 unlabelled, for every row."""
        with self.reading() as read:
            labels: Int8[np.ndarray, "n"] = read("label", slice(None))
            return labels

    def splits(self) -> Int8[np.ndarray, "n"]:
        """The part that came with the data: 0 train, 1 validation, 2 test, -1 none, for every row."""
        with self.reading() as read:
            splits: Int8[np.ndarray, "n"] = read("split", slice(None))
            return splits

    def groups(self) -> list[str]:
        """The unit that a split must not cut, for every row."""
        return [text for texts in self.text_windows("group") for text in texts]

    def records(self, window: slice = slice(None)) -> Records:
        """The input records, also those without a row, or a window of them."""
        with self.reading() as read:
            records = read_records(read, window)
        return replace(records, group=self._groups_of(records.ordinal, records.group))

    def text_windows(self, column: str) -> Iterator[list[str]]:
        """One text column (``ids`` or ``group``), some rows at a time."""
        for window in windows(self.rows):
            with self.reading() as read:
                texts = as_bytes(read(column, window))
                if column == "group":
                    texts = self._groups_of(read("record", window), texts)
            yield [text.decode() for text in texts]

    def number_windows(self, column: str) -> Iterator[np.ndarray]:
        """One column of numbers, such as ``start``, some rows at a time."""
        for window in windows(self.rows):
            with self.reading() as read:
                numbers = read(column, window)
            yield numbers

    def skipped_windows(self) -> Iterator[Skipped]:
        """What has no row, some entries at a time."""
        with self._opened() as file:
            count = len(file["skipped/reason"])
        for window in windows(count):
            with self.reading() as read:
                skipped = read_skipped(read, window)
            yield skipped

    def windows(self, first: int = 0, last: int | None = None, *, rows: int | None = None) -> Iterator[Window]:
        """Rows in order, widened to float32.

        They are those from ``first`` to one before ``last``, so many ``rows`` in a window; by default what fits in
        32 MiB.

        Raises:
            FeatureError: the file is damaged or holds NaN or infinity.
        """
        step = rows or self._step()
        end = self.rows if last is None else last
        for low in range(first, end, step):
            window = slice(low, min(low + step, end))
            with self.reading() as read:
                columns = read_rows(read, window)
                columns = replace(columns, group=self._groups_of(columns.record, columns.group))
                values = read("features", window)[:, self.columns].astype(np.float32, copy=False)
            # What is as reduce wrote it is finite: reduce looked.
            if self.checksums is None:
                require_finite(values, f"{self.path}: features", columns.ids)
            yield Window(low, columns, values)

    def stored_windows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Features in order as they are stored, float16 or float32, with the number of each window's first row.

        Raises:
            FeatureError: the file is damaged or holds NaN or infinity.
        """
        for low in range(0, self.rows, self._step()):
            window = slice(low, min(low + self._step(), self.rows))
            with self.reading() as read:
                values = read("features", window)[:, self.columns]
                if self.checksums is None and not all_finite(values):
                    require_finite(values, f"{self.path}: features", read_rows(read, window).ids)
            yield low, values

    def _step(self) -> int:
        """Rows of a window, of whole checksums."""
        return max(1, _WINDOW_BYTES // (4 * self.width * CHECKED_ROWS)) * CHECKED_ROWS

    def check(self, progress: Callable[[int], None] = lambda _rows: None) -> None:
        """Read all of a file that has checksums; ``FeatureError`` where something was changed after it was written."""
        for name in self.checksums or ():
            with self._opened() as file:
                count = len(file[name])
            for first in range(0, count, self._step()):
                window = slice(first, min(first + self._step(), count))
                with self.reading() as read:
                    read(name, window)
                if name == "features":
                    progress(window.stop - window.start)

    def mapped(self) -> np.ndarray:
        """Features as they are stored, read where they are touched, unchecked; ``FeatureError`` of a damaged file."""
        with self._opened() as file:
            place = extent(self.path, file["features"])
        if not place.rows:
            return np.empty((0, self.width), place.dtype)
        with damage(self.path):
            mapped: np.ndarray = np.memmap(self.path, place.dtype, "r", place.offset, (place.rows, place.width))
            return mapped[:, self.columns]

    def _groups_of(self, record: Int64[np.ndarray, "n"], stored: list[bytes]) -> list[bytes]:
        return stored if self.group_of is None else [self.group_of[number] for number in record.tolist()]

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reading]:
        """Open the file for a while.

        Yields:
            What reads some rows of an array by its name, and raises FeatureError where they have changed.
        """
        with self._opened() as file:
            yield checked(file, self.checksums, self.path, _remedy(self.path))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        with damage(self.path), h5py.File(self.path, "r", locking=False) as file:
            yield file


def open_features(path: Path | str) -> Features:
    """Open merged features and check that they are whole.

    The path is that of a run directory, or of a ``features.h5``.

    Raises:
        UsageError: the path is neither.
        RunError: the run has not been reduced.
        FeatureError: the file is damaged or of another version.
    """
    path = _find(Path(path))
    with damage(path), h5py.File(path, "r", locking=False) as file:
        require_schema(file, path)
        kind = file.attrs.get("kind")
        if kind != "features":
            raise FeatureError(f"{path} is a {kind}, not merged features: give the run, or its features.h5")
        try:
            checksums = read_checksums(file)
        except FeatureError as error:
            raise FeatureError(f"{path} is damaged: {error}. {_remedy(path)}") from error
        features = Features(
            path=path,
            rows=len(file["ids"]),
            layout=FeatureLayout.from_json(file.attrs["layout"]),
            chunk=int(file.attrs["chunk"]),
            run=str(file.attrs["run"]),
            provenance=dict(parse_json(file.attrs["provenance"])),
            checksums=checksums,
        )
        _require_whole(file, features)
    if checksums is None:
        log.warning("%s is of an earlier version of vnp and has no checksums: damage in it would not be seen", path)
    return features


@contextlib.contextmanager
def damage(path: Path) -> Iterator[None]:
    """Make what HDF5 says of a damaged file, or of one of another kind, a ``FeatureError`` for people."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        # No HDF5 at all, nor what is left of features.
        if path.name != FEATURES_NAME and os.access(path, os.R_OK) and not h5py.is_hdf5(path):
            raise FeatureError(
                f"{path} is no {FEATURES_NAME}: give a run that was reduced, or its {FEATURES_NAME}"
            ) from error
        raise FeatureError(f"{path} cannot be read and is probably damaged ({error}). {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    """How to come by whole features; only a run can make its own again."""
    again = f"Make it again with: python -m jobs.reduce {quote(str(path.parent))} --force"
    return again if (path.parent / RUN_NAME).exists() else "Bring it back, or make it again in its run"


def _find(path: Path) -> Path:
    if not path.exists():
        raise InputError("there is no such run or file; check the path", path=path)
    file = path / FEATURES_NAME if path.is_dir() else path
    if file.exists():
        try:
            require_regular(file)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", path=file) from error
        return file
    if (path / RUN_NAME).exists():
        raise RunError(f"{path} has no {FEATURES_NAME} yet. Merge its shards: python -m jobs.reduce {quote(str(path))}")
    raise UsageError(f"{path} is not a run: it has no {RUN_NAME} and no {FEATURES_NAME}")


def _require_whole(file: h5py.File, features: Features) -> None:
    shape = file["features"].shape
    if shape != (features.rows, features.width):
        raise FeatureError(
            f"{features.path}: features has the shape {shape}; expected {(features.rows, features.width)} by its ids "
            f"and its layout. {_remedy(features.path)}"
        )
    for column in COLUMNS[""]:
        found = file[column.path]
        if len(found) != features.rows or (column.dtype is None) != (found.dtype.kind in "SO"):
            raise FeatureError(
                f"{features.path}: the column {column.name} has {len(found)} rows of {found.dtype}, there are "
                f"{features.rows} ids. {_remedy(features.path)}"
            )
