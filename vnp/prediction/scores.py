"""Scores of all rows on disk, 16 bytes a row in the order of the rows, and what else predictions read of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64

from vnp.errors import FeatureError
from vnp.features.read import Features
from vnp.features.table import Records, windows
from vnp.files.records import require_regular
from vnp.runs.request import PlannedInput

if TYPE_CHECKING:
    from vnp.classifier.checkpoint import Scorer

_NAMED_REASONS = 3
SCORE_TYPE = np.dtype([("score", "<f8"), ("probability", "<f8")])


def write_scores(
    features: Features, scorer: Scorer, path: Path, progress: Callable[[int], None] = lambda _rows: None
) -> None:
    """Score every row and write the scores as one NumPy array; the caller gives a temporary name."""
    header = {"descr": SCORE_TYPE.descr, "fortran_order": False, "shape": (features.rows,)}
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, values in features.stored_windows():
            found = scorer.scores(values)
            scores = np.empty(len(found), SCORE_TYPE)
            scores["score"], scores["probability"] = found.raw, found.probability
            file.write(scores.tobytes())
            progress(len(values))


def read_scores(path: Path, rows: int) -> np.ndarray:
    """Map scores into memory."""
    try:
        require_regular(path)
        scores: np.ndarray = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureError(f"cannot be read and is probably damaged ({error})", path=path) from error
    if scores.dtype != SCORE_TYPE or scores.shape != (rows,):
        raise FeatureError(f"holds {scores.shape} scores of {scores.dtype}, expected {rows:,} rows", path=path)
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive rows with their scores; no chunk is in two batches."""

    ids: list[bytes]  # of the rows
    record: Int64[np.ndarray, "n"]  # ordinal of the input record
    chunk: Int32[np.ndarray, "n"]  # number within the record, from 1
    frame: Int8[np.ndarray, "n"]  # index into ``vnp.sequences.frames.FRAME_NAMES``
    start: Int64[np.ndarray, "n"]  # where the frame's DNA starts on the record, 0-based
    end: Int64[np.ndarray, "n"]  # where it ends, exclusive
    score: Float64[np.ndarray, "n"]  # raw probability of viral
    probability: Float64[np.ndarray, "n"]  # the same, calibrated

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> Int64[np.ndarray, "n"]:
        """Bases of each frame."""
        length: Int64[np.ndarray, "n"] = self.end - self.start
        return length

    def part(self, first: int, last: int) -> Batch:
        """Rows ``first`` up to, not including, ``last``."""
        return Batch(*(getattr(self, name)[first:last] for name in self.__slots__))

    def followed_by(self, other: Batch) -> Batch:
        """These rows and others behind them."""
        arrays = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__[1:])
        return Batch(self.ids + other.ids, *arrays)


def batches(features: Features, scores: np.ndarray) -> Iterator[Batch]:
    """All rows with their scores, in order, some ten thousand at a time."""
    held: Batch | None = None
    for window in windows(features.rows):
        rows = features.rows_at(window)
        both = (np.ascontiguousarray(scores[window][name]) for name in ("score", "probability"))
        found = Batch(rows.ids, rows.record, rows.chunk, rows.frame, rows.start, rows.end, *both)
        if held is not None:
            found = held.followed_by(found)
        # The last chunk can go on in the next window.
        others = np.flatnonzero((found.record != found.record[-1]) | (found.chunk != found.chunk[-1]))
        border = int(others[-1]) + 1 if len(others) else 0
        if border:
            yield found.part(0, border)
        held = found.part(border, len(found))
    if held is not None:
        yield held


def planned_inputs(features: Features) -> list[PlannedInput]:
    """The files that the features were made of."""
    try:
        return [PlannedInput(**entry) for entry in features.provenance["inputs"]]
    except (KeyError, TypeError) as error:
        raise FeatureError(f"{features.path} does not say what it was made of ({error}): reduce it anew") from error


def record_windows(features: Features, count: int) -> Iterator[Records]:
    """The input records, some ten thousand at a time; a record's ordinal is its place among all."""
    for window in windows(count):
        records = features.records(window)
        if records.ordinal[0] != window.start or records.ordinal[-1] != window.stop - 1:
            raise FeatureError(f"{features.path}: records are missing. Make it again with jobs.reduce --force")
        yield records


def record_lengths(features: Features) -> np.ndarray:
    """Bases of every record, int64."""
    with features.reading() as read:
        return read("records/length", slice(None))


class Reasons:
    """Why records have no row, asked for in rising order of the records."""

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
        for skipped in features.skipped_windows():
            for place in np.flatnonzero(skipped.frame < 0).tolist():
                yield int(skipped.record[place]), skipped.reason[place].decode().replace("\t", " ")
