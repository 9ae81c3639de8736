"""What predictions read from merged features besides numbers: rows, records and reasons, in windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from vnp.errors import FeatureError
from vnp.features.read import Features, damage
from vnp.features.table import Records, Rows, read_records, read_rows, read_skipped, windows
from vnp.runs.request import PlannedInput

_NAMED_REASONS = 3


def planned_inputs(features: Features) -> list[PlannedInput]:
    """The files that the features were made of.

    Raises:
        FeatureError: the features do not say.
    """
    try:
        return [PlannedInput(**entry) for entry in features.provenance["inputs"]]
    except (KeyError, TypeError) as error:
        raise FeatureError(f"{features.path} does not say what it was made of ({error}): reduce it anew") from error


@contextmanager
def _opened(features: Features) -> Iterator[h5py.File]:
    with damage(features.path), h5py.File(features.path, "r", locking=False) as file:
        yield file


def row_windows(features: Features) -> Iterator[tuple[int, Rows]]:
    """What the rows are, some ten thousand at a time, with the number of the first."""
    for window in windows(features.rows):
        with _opened(features) as file:
            rows = read_rows(file, window)
        yield window.start, rows


def count_records(features: Features) -> int:
    """How many input records there are."""
    with _opened(features) as file:
        return len(file["records/ordinal"])


def record_windows(features: Features) -> Iterator[Records]:
    """The input records, some ten thousand at a time; a record's ordinal is its place among all."""
    for window in windows(count_records(features)):
        with _opened(features) as file:
            records = read_records(file, window)
        if records.ordinal[0] != window.start or records.ordinal[-1] != window.stop - 1:
            raise FeatureError(f"{features.path}: records are missing. Make it again with jobs.reduce --force")
        yield records


def record_lengths(features: Features) -> np.ndarray:
    """Bases of every record, int64."""
    with _opened(features) as file:
        lengths: np.ndarray = file["records/length"][:]
    return lengths


class Reasons:
    """Why records have no row, asked for in rising order of the records.

    Args:
        features: where it is noted.
    """

    def __init__(self, features: Features) -> None:
        self._entries = self._whole(features)
        self._next = next(self._entries, None)

    def of(self, record: int) -> str:
        """The reasons of one record: its own, or those of its chunks, each once."""
        found: dict[str, None] = {}
        while self._next is not None and self._next[0] <= record:
            if self._next[0] == record:
                found[self._next[1]] = None
            self._next = next(self._entries, None)
        named = list(found)[:_NAMED_REASONS]
        return "; ".join(named) or "no open frame"

    @staticmethod
    def _whole(features: Features) -> Iterator[tuple[int, str]]:
        """Entries that speak of a whole record or chunk."""
        with _opened(features) as file:
            count = len(file["skipped/record"])
        for window in windows(count):
            with _opened(features) as file:
                skipped = read_skipped(file, window)
            for place in np.flatnonzero(skipped.frame < 0).tolist():
                yield int(skipped.record[place]), skipped.reason[place].decode().replace("\t", " ")
