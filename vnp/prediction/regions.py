"""Viral stretches inside longer records, from the scores of windows.

A record is read as a chain of two states, host and virus (a hidden Markov model). A window speaks for the virus with
its calibrated log-odds, as loud as it has bases; every change of state costs, so a few doubtful windows neither make a
stretch nor cut one; the likeliest chain is Viterbi's. Temperate phages write like their hosts and seldom score as
viruses do, but they score above the rest of their record, and their genes are short and on one strand. So a second
chain hears log-odds told from what is usual in the record, outside of what has been found, together with the genes;
where scores alone find much of a stretch, its borders are theirs. Then each border is looked for anew among finer
windows around it, where those before and those behind differ most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vnp.classifier.classifier import margins
from vnp.encoders.models.sixframe import base_codes
from vnp.errors import ChangedInputError
from vnp.prediction.calls import Judged, Judges
from vnp.prediction.genes import find_genes
from vnp.prediction.scores import Source
from vnp.runs.planning.plan import planned_records
from vnp.runs.request import PlannedInput
from vnp.sequences.record import Record

SHORTEST_RECORD = 10_000
"""Bases of the shortest record that is looked at; a shorter one is called as a whole."""
SHORTEST = 5_000
"""Bases of the shortest region."""
BORDER = 8.0
"""What each border of a region has to be outweighed by, in log-odds of a window of 2,000 bases."""
_LOUD = 2_000
_CLIP = 4.0
CONTRAST_BORDER = 5.5
"""The same where what is usual in a record counts, in log-odds of a window of 3,000 bases."""
_CONTRAST_LOUD = 3_000
# Genes are no strangers to each other, nor to what the network sees.
_GENES = 0.5
# What speaks for neither is so far above the middle of the host's windows, and so many of their spreads.
_ABOVE = 0.3
_SPREADS = 3.0
# The spread where a record is too short to tell, and bases of one that is half believed.
_SPREAD = 0.6
_ENOUGH = 100_000
_LOOKS = 3
# Share of a stretch from which on the borders of what is viral by scores alone are the better ones.
_KNOWN = 0.3
SCORES, CONTRAST = "scores", "contrast"
"""What speaks for a region."""

FINE = 1_000
"""Bases of the windows that borders are looked for with."""
STEP = 250
"""Bases from one to the next."""
_FINE_CLIP = 4.0

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


def stretches(odds: Float64[np.ndarray, " n"], border: float = BORDER) -> Bool[np.ndarray, " n"]:
    """Which windows are viral in the likeliest chain.

    Args:
        odds: log-odds of each window, in their order.
        border: what every change between host and virus costs.
    """
    host = virus = 0.0
    left: list[bool] = []  # for each window: the likeliest chain that is host here came from the virus
    entered: list[bool] = []  # and the one that is virus here, from the host
    for place, one in enumerate(odds.tolist()):
        if place:
            left.append(virus - border > host)
            entered.append(host - border > virus)
            host, virus = max(host, virus - border), max(virus, host - border)
        virus += one
    viral = np.zeros(len(odds), np.bool_)
    here = virus > host
    for place in range(len(odds) - 1, -1, -1):
        viral[place] = here
        if place:
            here = not entered[place - 1] if here else left[place - 1]
    return viral


def find(
    odds: Float64[np.ndarray, " n"], bases: int, genes: Callable[[], Float64[np.ndarray, " n"]]
) -> Bool[np.ndarray, " n"]:
    """Which windows of a record are in a region.

    Args:
        odds: their log-odds.
        bases: of the record, which they cover.
        genes: gives the log-odds of the genes in each window; asked only where they may count.
    """
    alone = stretches(_within(odds) * (bases / len(odds) / _LOUD))
    found, of_genes = alone.copy(), None
    for _ in range(_LOOKS):
        # What was found is no measure of the host, unless it is most of the record.
        if 2 * found.sum() > len(odds):
            break
        over = odds - level(odds[~found], bases)
        if not (over > 0).any():
            break
        if of_genes is None:
            of_genes = _GENES * _within(genes())
        # An edge of the record costs as much as a border: what lies beyond is not seen.
        both = np.pad(_within(over) * (bases / len(odds) / _CONTRAST_LOUD) + of_genes, 1, constant_values=-np.inf)
        found = stretches(both, CONTRAST_BORDER)[1:-1]
    for first, behind in runs(found):
        if alone[first:behind].mean() >= _KNOWN:
            found[first:behind] = alone[first:behind]
    found |= alone
    return found


def runs(marked: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """First place of each run of marked ones, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marked.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def level(host: Float64[np.ndarray, " n"], bases: int) -> float:
    """The log-odds at which a window of a record speaks for neither: well above what its host's windows have.

    Args:
        host: log-odds of windows that are in no region.
        bases: of the record; the shorter it is, the less it says about itself.
    """
    share = bases / (bases + _ENOUGH)
    usual = float(np.median(host))
    spread = share * 1.4826 * float(np.median(np.abs(host - usual))) + (1 - share) * _SPREAD
    return share * (usual + _ABOVE + _SPREADS * spread)


def _within(odds: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    held: Float64[np.ndarray, " n"] = np.clip(odds, -_CLIP, _CLIP)
    return held


class Border:
    """One border of a stretch, and the finer windows around it.

    Args:
        place: where the windows that were there put it.
        viral_behind: whether the virus begins here, and does not end.
        low: first base that is looked at.
        high: one past the last.
        level: log-odds between those of the two sides.
    """

    def __init__(self, place: int, low: int, high: int, level: float, *, viral_behind: bool) -> None:
        self.place = place
        self.viral_behind = viral_behind
        self.level = level
        self.starts = np.arange(low, high - FINE + 1, STEP)

    def refined(self, odds: Float64[np.ndarray, " w"]) -> int:
        """Where the log-odds of its windows put it."""
        if not len(self.starts):
            return self.place
        cells = len(self.starts) - 1 + FINE // STEP
        summed, seen = np.zeros(cells), np.zeros(cells)
        for shift in range(FINE // STEP):
            summed[shift : shift + len(odds)] += np.clip(odds - self.level, -_FINE_CLIP, _FINE_CLIP)
            seen[shift : shift + len(odds)] += 1
        track = summed / seen * (1 if self.viral_behind else -1)
        # The best cut has most for the virus on its one side, and most against it on the other.
        behind = np.concatenate((np.cumsum(track[::-1])[::-1], [0.0]))
        before = np.concatenate(([0.0], np.cumsum(track)))
        return int(self.starts[0]) + STEP * int(np.argmax(behind - before))


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
            for at in np.flatnonzero(long).tolist():
                rows = slice(int(borders[at]), int(borders[at + 1]))
                track = _Track(batch.rows.start[rows], batch.rows.end[rows], _odds(judged.probability[rows]))
                ordinal, name = batch.first + at, batch.records.name[at].decode()
                genes = partial(track.genes, sequences, ordinal)
                found = runs(find(track.odds, track.bases, genes)) if len(track.odds) else []
                if found:
                    yield from self._of_record(
                        ordinal, name, sequences.of(ordinal).sequence, found, track, judged, rows
                    )
        sequences.close()

    def _of_record(
        self,
        ordinal: int,
        name: str,
        sequence: bytes,
        found: list[tuple[int, int]],
        track: _Track,
        judged: Judged,
        rows: slice,
    ) -> Iterator[Region]:
        spans = [span for span in self._refined(sequence, found, track) if span[1] - span[0] >= SHORTEST]
        middle = (track.start + track.end) // 2
        inside = [(first <= middle) & (middle < last) for first, last in spans]
        outside = ~np.any(inside, axis=0) if inside else np.ones(len(middle), np.bool_)
        margin, kinds = judged.margin[rows], judged.kinds
        logits = np.zeros((len(middle), len(self._kinds))) if kinds is None else kinds[rows]
        host = self._likeliest(logits[outside], ~self._viral) if outside.any() else ""
        for number, ((first, last), own) in enumerate(zip(spans, inside, strict=True), start=1):
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

    def _refined(self, sequence: bytes, found: list[tuple[int, int]], track: _Track) -> list[tuple[int, int]]:
        """Stretches of windows to stretches of bases."""
        places = [(track.before(first), track.before(behind, len(sequence))) for first, behind in found]
        around = int((track.end - track.start).max())
        usual = float(np.median(track.odds))
        # Halfway between the two sides; where the virus is sure of itself, even odds.
        levels = [min(0.0, (usual + float(track.odds[first:behind].mean())) / 2) for first, behind in found]
        # No border is looked for beyond the middle of the stretch that it ends.
        edges = [place for span in places for place in span]
        cuts = [0, *((one + other) // 2 for one, other in pairwise(edges)), len(sequence)]
        borders = [
            Border(
                place,
                max(cuts[at], place - around),
                min(cuts[at + 1], place + around),
                levels[at // 2],
                viral_behind=at % 2 == 0,
            )
            for at, place in enumerate(edges)
            if 0 < place < len(sequence)
        ]
        windows = [sequence[at : at + FINE].decode("ascii") for one in borders for at in one.starts.tolist()]
        classifier = self._judges.classifier
        margin = margins(self._score(windows), classifier.kinds, classifier.viral)
        odds = _odds(classifier.probability(margin, np.full(len(margin), FINE)))
        moved, done = {}, 0
        for one in borders:
            moved[one.place] = one.refined(odds[done : done + len(one.starts)])
            done += len(one.starts)
        return [(moved.get(first, first), moved.get(behind, behind)) for first, behind in places]


@dataclass(frozen=True, slots=True, eq=False)
class _Track:
    """The windows of a record, in their order."""

    start: Int64[np.ndarray, " n"]
    end: Int64[np.ndarray, " n"]
    odds: Float64[np.ndarray, " n"]

    @property
    def bases(self) -> int:
        """How many they cover."""
        ahead = np.concatenate((self.start[1:], self.end[-1:]))
        return int(np.minimum(self.end - self.start, ahead - self.start).sum())

    def genes(self, sequences: _Sequences, ordinal: int) -> Float64[np.ndarray, " n"]:
        """Log-odds of the genes in each, which end with the next."""
        codes = base_codes(sequences.of(ordinal).sequence.decode("ascii"))
        return find_genes(codes).odds_within(np.append(self.start, len(codes)))

    def before(self, window: int, length: int = 0) -> int:
        """The border in front of a window: halfway where it overlaps the one before, or is apart from it.

        Args:
            window: its place; that behind the last one has the record's end in front.
            length: of the record.
        """
        if window == 0:
            return 0
        return length if window == len(self.end) else int(self.end[window - 1] + self.start[window]) // 2


def _odds(probability: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    least = np.finfo(np.float64).tiny
    odds: Float64[np.ndarray, " n"] = np.log(np.maximum(probability, least)) - np.log(
        np.maximum(1 - probability, least)
    )
    return odds


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
