"""Which stretches of a record are viral, by the scores of its windows and its genes.

A record is read as a chain of two states, host and virus (a hidden Markov model). What speaks for the virus is told
from what is usual in the record; every change of state costs, so a few doubtful windows neither make a stretch nor
cut one; the likeliest chain is Viterbi's. It is read twice. Wherever windows of the run stand out a little, windows
of 2,000 bases are scored as well, and a chain goes over cells of 1,000 bases, by both and by how close genes lie:
this finds what looks viral. Temperate phages write like their hosts and seldom do, but over many windows they score
above the spread of the rest of their record, and their genes are short and on one strand: this the second chain
hears, over the windows of the run. What both find is told by the first. Neither believes a stretch with few genes, nor
one with the genes of ribosomes.
Then each border is looked for anew among finer windows around it, where those before and those behind differ most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vnp.prediction.genes import Genes

SHORTEST = 6_000
"""Bases of the shortest region."""
FINE = 1_000
"""Bases of the windows that borders are looked for with."""
STEP = 250
"""Bases from one to the next."""

_BORDER_CLIP = 4.0

# What is usual in a record of few bases, its spread, and bases of one that is half believed. No host scores as high as
# a record that is a virus.
_USUAL, _SPREAD, _ENOUGH, _HIGHEST = -4.0, 0.6, 100_000, -2.0

WINDOW, CELL = 2_000, 1_000
"""Bases of the windows of the first chain, and of its cells; one window begins a cell behind the other."""
# Where to look closer: weight of what a window of 5,000 bases is above the usual, and what it has to outweigh.
_LOOK, _LOOK_COST, _LOOK_BORDER, _LOOK_BASES = 1.09, 2.1, 1.5, 5_000
_AROUND = 8_000
_NEAR = 2_000
# Near those of a logistic regression over cells of phages put into bacteria (windows of the run, these windows, genes;
# what speaks for neither); neighbours repeat each other.
_SAID, _COST = (0.3, 0.66, 1.15), 6.6
_REPEATED = 0.4
_LOWEST, _TOP, _CROWDED = -2.0, 8.0, 2.0
_CLIP = 6.0
CELL_BORDER = 2.0
"""What each border of a stretch of cells has to be outweighed by."""
# Mean log-odds of the windows of a region of so many bases; of others, more or less by the logarithm of their length.
_WORTH, _WORTH_BASES = 3.0, 15_000
# Genes for each thousand bases of it; and the share from which on basic proteins are a ribosome's, whose genes are as
# short and close as a phage's.
_GENES_APART = 0.35
_RIBOSOMAL = 0.3

CONTRAST_BORDER = 5.5
"""The same where the spread of a record counts, in log-odds of a window of 3,000 bases."""
_CONTRAST_BASES = 3_000
_CONTRAST_CLIP = 4.0
# What speaks for neither is so far above the middle of the host's windows, and so many of their spreads.
_ABOVE, _SPREADS = 0.3, 2.5
_CONTRAST_APART = 0.7
_CONTRAST_TURNS = 0.22
# Share of a stretch from which on the first chain knows better.
_KNOWN = 0.2

Span = tuple[int, int]


def stretches(odds: Float64[np.ndarray, " n"], border: float) -> Bool[np.ndarray, " n"]:
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


def runs(marked: Bool[np.ndarray, " n"]) -> list[Span]:
    """First place of each run of marked ones, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marked.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Track:
    """The windows of a record, in their order.

    Attributes:
        start: first base of each.
        end: one past its last.
        odds: log-odds of each.
        bases: of the record.
        find: gives its genes; asked only where they may count.
    """

    start: Int64[np.ndarray, " n"]
    end: Int64[np.ndarray, " n"]
    odds: Float64[np.ndarray, " n"]
    bases: int
    find: Callable[[], Genes] = field(repr=False)

    @cached_property
    def genes(self) -> Genes:
        """Those of the record."""
        return self.find()

    @cached_property
    def edges(self) -> Int64[np.ndarray, " n+1"]:
        """Borders between windows: halfway where one overlaps the next, or is apart from it."""
        return np.concatenate(([0], (self.end[:-1] + self.start[1:]) // 2, [self.bases]))

    @cached_property
    def _host(self) -> Float64[np.ndarray, " h"]:
        return self.odds[self.odds < 0]

    @property
    def _believed(self) -> float:
        return self.bases / (self.bases + _ENOUGH)

    @cached_property
    def usual(self) -> float:
        """Log-odds of windows of the host; the shorter a record is, the less it says about itself."""
        own = float(np.median(self._host)) if len(self._host) else _HIGHEST
        return min(_HIGHEST, self._believed * own + (1 - self._believed) * _USUAL)

    @property
    def _loud(self) -> float:
        """Bases that each window stands for."""
        return self.bases / len(self.odds)

    def looked_at(self) -> list[Span]:
        """Where windows stand out a little, with what is around."""
        over = _LOOK * np.clip(self.odds - self.usual, _LOWEST, _TOP) - _LOOK_COST
        found: list[Span] = []
        for low, high in runs(stretches(over * (self._loud / _LOOK_BASES), _LOOK_BORDER)):
            first, behind = max(0, int(self.edges[low]) - _AROUND), min(self.bases, int(self.edges[high]) + _AROUND)
            if found and first <= found[-1][1]:
                first = found.pop()[0]
            found.append((first, behind))
        return found

    def viral(self, part: Span, start: Int64[np.ndarray, " w"], odds: Float64[np.ndarray, " w"]) -> list[Span]:
        """What looks viral in a part of the record.

        Args:
            part: where.
            start: of windows of ``WINDOW`` bases over it, in their order.
            odds: their log-odds.
        """
        edges, windows, said = self.cells(part, start, odds)
        speaks = said @ np.array(_SAID) - _COST
        found = []
        for low, high in runs(stretches(_REPEATED * speaks, CELL_BORDER)):
            first, behind = int(edges[low]), int(edges[high])
            own = self.genes.within(first, behind)
            worth = float(windows[low:high].mean()) + np.log((behind - first) / _WORTH_BASES)
            crowded = own.count >= _GENES_APART * (behind - first) / 1000 and own.basic < _RIBOSOMAL
            if behind - first >= SHORTEST and worth >= _WORTH and (crowded or behind - first == self.bases):
                found.append((first, behind))
        return found

    def cells(
        self, part: Span, start: Int64[np.ndarray, " w"], odds: Float64[np.ndarray, " w"]
    ) -> tuple[Float64[np.ndarray, " m+1"], Float64[np.ndarray, " m"], Float64[np.ndarray, "m 3"]]:
        """Borders of the cells of a part, log-odds of its windows over each, and what is said of each.

        That is, how far windows of the run and these are above what is usual, and genes for 1,000 bases.
        """
        edges = np.linspace(*part, max(1, (part[1] - part[0]) // CELL) + 1).round()
        middle = (edges[1:] + edges[:-1]) // 2
        around = np.maximum(0, middle - _NEAR), np.minimum(self.bases, middle + _NEAR)
        windows = _mean_over(middle, start, start + WINDOW, odds, self.usual)
        of_run = _mean_over(middle, self.start, self.end, self.odds, self.usual)
        above = (np.clip(seen - self.usual, _LOWEST, _TOP) for seen in (of_run, windows))
        return edges, windows, np.stack((*above, np.minimum(self.genes.density(*around), _CROWDED)), axis=1)

    def contrasting(self) -> list[Span]:
        """What stands out from the spread of the record, with genes as phages have them."""
        if 2 * len(self._host) < len(self.odds):
            return []
        spread = 1.4826 * float(np.median(np.abs(self._host - np.median(self._host))))
        spread = self._believed * spread + (1 - self._believed) * _SPREAD
        over = self.odds - (self.usual + _ABOVE + _SPREADS * spread)
        if not (over > 0).any():
            return []
        weight = self._loud / _CONTRAST_BASES
        of_genes = np.clip(self.genes.odds_within(self.edges), -_CONTRAST_CLIP, _CONTRAST_CLIP)
        both = np.clip(over, -_CONTRAST_CLIP, _CONTRAST_CLIP) * weight + of_genes
        # An edge of the record costs as much as a border: what lies beyond is not seen.
        found = []
        for low, high in runs(stretches(np.pad(both, 1, constant_values=-np.inf), CONTRAST_BORDER)[1:-1]):
            first, behind = int(self.edges[low]), int(self.edges[high])
            own = self.genes.within(first, behind)
            crowded = own.count >= _CONTRAST_APART * (behind - first) / 1000 and own.basic < _RIBOSOMAL
            if behind - first >= SHORTEST and crowded and own.turns <= _CONTRAST_TURNS:
                found.append((first, behind))
        return found


def _mean_over(
    places: Float64[np.ndarray, " c"],
    start: Int64[np.ndarray, " n"],
    end: Int64[np.ndarray, " n"],
    odds: Float64[np.ndarray, " n"],
    otherwise: float,
) -> Float64[np.ndarray, " c"]:
    """Mean log-odds of the windows over each place."""
    summed = np.concatenate(([0.0], np.cumsum(np.clip(odds, -_CLIP, _CLIP))))
    low, high = np.searchsorted(end, places, side="right"), np.searchsorted(start, places, side="right")
    return np.where(high > low, (summed[high] - summed[low]) / np.maximum(1, high - low), otherwise)


def joined(viral: Sequence[Span], contrasting: Sequence[Span]) -> list[Span]:
    """Stretches of both chains.

    Args:
        viral: those of the first.
        contrasting: those of the second; where the first knows of one, it is told as the first has it.
    """
    found = [*viral]
    found += [
        span for span in contrasting if sum(_shared(span, other) for other in viral) < _KNOWN * (span[1] - span[0])
    ]
    together: list[Span] = []
    for first, behind in sorted(found):
        if together and first <= together[-1][1]:
            first, behind = together[-1][0], max(behind, together.pop()[1])
        together.append((first, behind))
    return together


def _shared(one: Span, other: Span) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


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
            summed[shift : shift + len(odds)] += np.clip(odds - self.level, -_BORDER_CLIP, _BORDER_CLIP)
            seen[shift : shift + len(odds)] += 1
        track = summed / seen * (1 if self.viral_behind else -1)
        # The best cut has most for the virus on its one side, and most against it on the other.
        behind = np.concatenate((np.cumsum(track[::-1])[::-1], [0.0]))
        before = np.concatenate(([0.0], np.cumsum(track)))
        return int(self.starts[0]) + STEP * int(np.argmax(behind - before))
