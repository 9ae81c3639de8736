"""Viral regions inside the records of a run, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vnp.classifier.classifier import Classifier, margins
from vnp.encoders.models.sixframe import base_codes
from vnp.errors import ChangedInputError
from vnp.prediction.calls import Judged, Judges
from vnp.prediction.genes import Genes, find_genes
from vnp.prediction.scores import Source
from vnp.prediction.stretches import CELL, FINE, SHORTEST, WINDOW, Border, Span, Track, joined
from vnp.runs.planning.plan import planned_records
from vnp.runs.request import PlannedInput
from vnp.sequences.record import Record

SHORTEST_RECORD = 10_000
"""Bases of the shortest record that is looked at; a shorter one is called as a whole."""
SCORES, CONTRAST = "scores", "contrast"
"""What speaks for a region."""
# Log-odds are those of windows of so many bases, whatever their size: calibration by length is for whole records.
_LENGTH = 2_000
# Bases to either side among which a border is looked for.
_REACH = 5_000

Score = Callable[[Sequence[str]], np.ndarray]
"""Logits of windows."""
INSIDE, LEFT, RIGHT, WHOLE = "inside", "left_edge", "right_edge", "whole"


@dataclass(frozen=True, slots=True)
class Region:
    """A viral stretch of a record."""

    record: str
    number: int  # within its record, from 1
    start: int  # 0-based
    end: int  # exclusive
    record_length: int
    windows: int  # that lie at least half in it
    mean: float  # log-odds, over them
    best: float  # log-odds of the surest
    probability: float  # of the mean, for the region's length
    kind: str  # the likeliest of the viral kinds
    found_by: str  # ``SCORES``, or ``CONTRAST`` where the log-odds alone are too low
    host: str  # the likeliest of the other kinds, over the windows outside of regions; empty where there are none
    bases: bytes
    ordinal: int  # of the record, over the whole run, from 0

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.record}_region_{self.number}"

    @property
    def place(self) -> str:
        """Which ends of the record it reaches."""
        left, right = self.start == 0, self.end == self.record_length
        return WHOLE if left and right else LEFT if left else RIGHT if right else INSIDE


class Finder:
    """Finds the regions of a run's records.

    Args:
        source: the scores.
        judges: who made them.
        score: gives logits of finer windows.
    """

    def __init__(self, source: Source, judges: Judges, score: Score) -> None:
        self._source = source
        self._judges = judges
        self._score = score
        self._kinds = judges.classifier.kinds
        viral = judges.classifier.viral
        self._viral = np.array([kind in viral for kind in self._kinds])

    def regions(self) -> Iterator[Region]:
        """All regions, in the order of the input; a record at a time is in memory.

        Raises:
            ChangedInputError: an input holds other bytes than when the run was planned.
        """
        sequences = _Sequences(self._source.inputs)
        for batch in self._source.batches():
            long = batch.records.length >= SHORTEST_RECORD
            if not long.any():
                continue
            judged = self._judges.judge(batch.rows)
            borders = np.searchsorted(batch.owner, np.arange(len(batch.records) + 1))
            for at in np.flatnonzero(long & (np.diff(borders) > 0)).tolist():
                rows = slice(int(borders[at]), int(borders[at + 1]))
                ordinal, name = batch.first + at, batch.records.name[at].decode()
                odds = log_odds(self._judges.classifier, judged.margin[rows])
                track = Track(
                    batch.rows.start[rows], batch.rows.end[rows], odds, int(batch.records.length[at]),
                    partial(_genes, sequences, ordinal),
                )  # fmt: skip
                found = self._found(track, sequences, ordinal)
                if found:
                    yield from self._of_record(
                        ordinal, name, sequences.of(ordinal).sequence, found, track, judged, rows
                    )
        sequences.close()

    def _found(self, track: Track, sequences: _Sequences, ordinal: int) -> list[Span]:
        """Stretches of a record, before their borders are refined."""
        viral: list[Span] = []
        for first, behind in track.looked_at():
            count = max(1, -(-(behind - first - WINDOW) // CELL) + 1)
            start = np.linspace(first, max(first, behind - WINDOW), count).round().astype(np.int64)
            odds = self._scored(sequences.of(ordinal).sequence, start, WINDOW)
            viral += track.viral((first, behind), start, odds)
        return joined(viral, track.contrasting())

    def _of_record(
        self,
        ordinal: int,
        name: str,
        sequence: bytes,
        found: list[Span],
        track: Track,
        judged: Judged,
        rows: slice,
    ) -> Iterator[Region]:
        middle = (track.start + track.end) // 2
        inside = {
            span: (span[0] <= middle) & (middle < span[1])
            for span in self._refined(sequence, found, track)
            if span[1] - span[0] >= SHORTEST
        }
        # What has no window of its own, because its bases could not be read, has no score.
        inside = {span: own for span, own in inside.items() if own.any()}
        outside = ~np.any(list(inside.values()), axis=0) if inside else np.ones(len(middle), np.bool_)
        margin, kinds = judged.margin[rows], judged.kinds
        logits = np.zeros((len(middle), len(self._kinds))) if kinds is None else kinds[rows]
        host = self._likeliest(logits[outside], ~self._viral) if outside.any() else ""
        for number, ((first, last), own) in enumerate(inside.items(), start=1):
            mean = float(margin[own].mean())
            chance = self._judges.classifier.probability(np.array([mean]), np.array([last - first]))
            by = SCORES if track.odds[own].mean() > 0 else CONTRAST
            yield Region(
                name, number, first, last, len(sequence), int(own.sum()), mean, float(margin[own].max()),
                float(chance[0]), self._likeliest(logits[own], self._viral), by, host, sequence[first:last],
                ordinal,
            )  # fmt: skip

    def _likeliest(self, logits: np.ndarray, among: Bool[np.ndarray, " k"]) -> str:
        return self._kinds[int(np.where(among, logits.mean(axis=0), -np.inf).argmax())]

    def _refined(self, sequence: bytes, found: list[Span], track: Track) -> list[Span]:
        """Stretches with borders looked for anew."""
        middle = (track.start + track.end) // 2
        levels = []
        for first, behind in found:
            own = track.odds[(first <= middle) & (middle < behind)]
            # Halfway between the two sides; where the virus is sure of itself, even odds.
            levels.append(min(0.0, (track.usual + float(own.mean())) / 2) if len(own) else 0.0)
        # No border is looked for beyond the middle of the stretch that it ends.
        edges = [place for span in found for place in span]
        cuts = [0, *((one + other) // 2 for one, other in pairwise(edges)), len(sequence)]
        borders = [
            Border(
                place,
                max(cuts[at], place - _REACH),
                min(cuts[at + 1], place + _REACH),
                levels[at // 2],
                viral_behind=at % 2 == 0,
            )
            for at, place in enumerate(edges)
            if 0 < place < len(sequence)
        ]
        starts = [one.starts for one in borders]
        odds = self._scored(sequence, np.concatenate([np.zeros(0, np.int64), *starts]), FINE)
        moved, done = {}, 0
        for one in borders:
            moved[one.place] = one.refined(odds[done : done + len(one.starts)])
            done += len(one.starts)
        return [(moved.get(first, first), moved.get(behind, behind)) for first, behind in found]

    def _scored(self, sequence: bytes, start: Int64[np.ndarray, " w"], size: int) -> Float64[np.ndarray, " w"]:
        """Log-odds of windows of a record."""
        classifier = self._judges.classifier
        windows = [sequence[at : at + size].decode("ascii") for at in start.tolist()]
        return log_odds(classifier, margins(self._score(windows), classifier.kinds, classifier.viral))


def log_odds(classifier: Classifier, margin: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Calibrated log-odds of windows."""
    probability = classifier.probability(margin, np.full(len(margin), _LENGTH))
    least = np.finfo(np.float64).tiny
    odds: Float64[np.ndarray, " n"] = np.log(np.maximum(probability, least)) - np.log(
        np.maximum(1 - probability, least)
    )
    return odds


def _genes(sequences: _Sequences, ordinal: int) -> Genes:
    return find_genes(base_codes(sequences.of(ordinal).sequence.decode("ascii")))


class _Sequences:
    """Records of a run's inputs, asked for in their order; what lies between is read and forgotten."""

    def __init__(self, inputs: Sequence[PlannedInput]) -> None:
        self._inputs = inputs
        self._entry: PlannedInput | None = None
        self._last: tuple[int, Record] | None = None
        self._records: Iterator[Record] = iter(())
        self._next = 0

    def of(self, ordinal: int) -> Record:
        """The record of this place in the run, which may be asked for again."""
        if self._last is not None and self._last[0] == ordinal:
            return self._last[1]
        entry = next(one for one in self._inputs if one.first_record <= ordinal < one.first_record + one.records)
        if entry is not self._entry:
            self.close()
            self._entry, self._records, self._next = entry, planned_records(entry), entry.first_record
        for record in self._records:
            self._next += 1
            if self._next > ordinal:
                self._last = ordinal, record
                return record
        raise ChangedInputError(f"has fewer records than when it was planned: {entry.path}")

    def close(self) -> None:
        """Read to the end of the file, where its bytes are known to be those that were planned."""
        for _ in self._records:
            pass
