"""Genes of prokaryotic DNA, and what their lengths and strands say for a phage.

Codons that the record's own long open frames use more than its DNA as a whole speak for a gene, as in GLIMMER (Delcher
et al., NAR 1999); of frames that overlap, those are taken whose scores add up to most. Of the genes
that Prodigal finds in four bacterial genomes, 88 to 97 of 100 are found (72 to 89 of those below 400 bases), with four
or five others; the starts differ in a third. Genes of phages are shorter than those of bacteria, and follow each other
on one strand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

SHORTEST = 90
"""Bases of the shortest gene, without its stop codon."""
LENGTHS = (150, 200, 300, 400, 500, 600, 800, 1_000, 1_300, 1_700, 2_500)
"""Where classes of lengths of genes end, in bases."""
LENGTH_ODDS = (0.50, 1.17, 0.94, 0.61, 0.21, -0.11, -0.46, -0.71, -0.89, -0.82, -0.22, 0.09)
"""Log-odds of a phage for a gene of each class: of phages put into bacteria of training units."""
SAME_STRAND, OTHER_STRAND = 0.25, -1.31
"""The same for a gene on the strand of the one before it, and for one on the other."""

_STOPS = np.isin(np.arange(65), (48, 50, 56, 64))  # TAA, TAG, TGA, and a codon that cannot be read
_STARTS = np.isin(np.arange(65), (14, 46, 62))  # ATG, GTG, TTG
_OTHER = np.array([3, 2, 1, 0, 4], np.uint8)
_AMINO_ACIDS = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF?"
_CHARGE = np.array([(one in "KR") - (one in "DE") for one in _AMINO_ACIDS], np.float64)
# Charge for each amino acid from which on a protein is basic.
_BASIC = 0.08
# What a gene's codons have to outweigh; bases that two genes may share; bases of the frames that are learned from.
_COST = 4.0
_SHARED = 40
_LONG = 300


@dataclass(frozen=True, slots=True, eq=False)
class Genes:
    """Genes in the order of their ends.

    Attributes:
        start: first base of each.
        end: one past its stop codon.
        reverse: whether it is on the other strand.
        charged: charge of its protein for each amino acid.
    """

    start: Int64[np.ndarray, " n"]
    end: Int64[np.ndarray, " n"]
    reverse: Bool[np.ndarray, " n"]
    charged: Float64[np.ndarray, " n"]

    def odds(self) -> Float64[np.ndarray, " n"]:
        """Log-odds of a phage that each adds, as if none knew of the others."""
        found: Float64[np.ndarray, " n"] = np.array(LENGTH_ODDS)[np.digitize(self.end - self.start, LENGTHS)]
        pairs = np.where(self.reverse[1:] == self.reverse[:-1], SAME_STRAND, OTHER_STRAND)
        found[1:] += pairs / 2
        found[:-1] += pairs / 2
        return found

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.start)

    @property
    def turns(self) -> float:
        """Share of neighbours that are on other strands; of few genes, nearer to the one in ten of phages."""
        return float(((self.reverse[1:] != self.reverse[:-1]).sum() + 0.5) / (max(1, self.count) + 4))

    @property
    def basic(self) -> float:
        """Share of those with basic proteins, as most of a ribosome's are."""
        return float((self.charged > _BASIC).mean()) if self.count else 0.0

    def within(self, first: int, behind: int) -> Genes:
        """Those whose middles lie there."""
        middle = (self.start + self.end) // 2
        own = (first <= middle) & (middle < behind)
        return Genes(self.start[own], self.end[own], self.reverse[own], self.charged[own])

    def density(self, low: Float64[np.ndarray, " m"], high: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Genes for 1,000 bases between two places."""
        middle = np.sort((self.start + self.end) // 2)
        count = np.searchsorted(middle, high) - np.searchsorted(middle, low)
        found: Float64[np.ndarray, " m"] = 1000 * count / np.maximum(1, high - low)
        return found

    def odds_within(self, borders: Int64[np.ndarray, " m+1"]) -> Float64[np.ndarray, " m"]:
        """Log-odds between neighbouring borders, of the genes whose middles lie there."""
        summed, _ = np.histogram((self.start + self.end) / 2, borders, weights=self.odds())
        return summed


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """The open frames of one way to read a record, by their possible starts."""

    codons: Int64[np.ndarray, " c"]
    reverse: bool
    shift: int
    first: Int64[np.ndarray, " starts"]  # codon of each start
    stop: Int64[np.ndarray, " starts"]  # codon behind the open frame that it begins


def find_genes(codes: UInt8[np.ndarray, " bases"]) -> Genes:
    """Find the genes of a record.

    Args:
        codes: its bases, as ``base_codes`` has them.
    """
    frames = [
        _frame(strand, shift, reverse=bool(at)) for at, strand in enumerate(_strands(codes)) for shift in range(3)
    ]
    whole = sum((np.bincount(frame.codons, minlength=65) for frame in frames), np.zeros(65, np.int64))
    # At first, the longest open frames are the genes.
    place = _chosen(frames, np.full(65, 0.1), _LONG, len(codes))
    coding = np.zeros(65, np.int64)
    for at, first, stop in place.tolist():
        coding += np.bincount(frames[at].codons[first:stop], minlength=65)
    odds = np.log((coding + 1) / (coding[:64].sum() + 64)) - np.log((whole + 1) / (whole[:64].sum() + 64))
    place = _chosen(frames, np.where(_STOPS, 0.0, odds), SHORTEST, len(codes))
    charged = [_CHARGE[frames[at].codons[first:stop]].mean() for at, first, stop in place.tolist()]
    return Genes(*_spans(frames, place, len(codes)), np.array(charged, np.float64))


def _strands(codes: UInt8[np.ndarray, " bases"]) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The codon at each place of both strands."""
    found = []
    for strand in (codes, _OTHER[codes[::-1]]):
        first, second, third = (strand[at : len(strand) - 2 + at].astype(np.int64) for at in range(3))
        found.append(np.where((first | second | third) > 3, 64, first * 16 + second * 4 + third))
    return found[0], found[1]


def _frame(strand: Int64[np.ndarray, " n"], shift: int, *, reverse: bool) -> _Frame:
    codons = strand[shift::3]
    cuts = np.concatenate((np.flatnonzero(_STOPS[codons]), [len(codons)]))
    # A gene that begins before the record does is cut off by its edge.
    first = np.union1d(np.flatnonzero(_STARTS[codons]), np.arange(min(1, len(codons))))
    stop = cuts[np.searchsorted(cuts, first)]
    long = 3 * (stop - first) >= SHORTEST
    return _Frame(codons, reverse, shift, first[long], stop[long])


def _chosen(
    frames: list[_Frame], odds: Float64[np.ndarray, " 65"], shortest: int, bases: int
) -> Int64[np.ndarray, "n 3"]:
    """Frame, first codon and stop of the frames that together score most, each from its best start."""
    places, scores = [], []
    for at, frame in enumerate(frames):
        summed = np.concatenate(([0.0], np.cumsum(odds[frame.codons])))
        value = summed[frame.stop] - summed[frame.first] - _COST
        order = np.lexsort((-frame.first, value, frame.stop))
        best = order[np.diff(frame.stop[order], append=-1) != 0]
        good = best[(value[best] > 0) & (3 * (frame.stop - frame.first)[best] >= shortest)]
        places.append(np.stack((np.full(len(good), at), frame.first[good], frame.stop[good]), axis=1))
        scores.append(value[good])
    place, score = np.concatenate(places), np.concatenate(scores)
    start, end, _ = _spans(frames, place, bases)
    order = np.argsort(end, kind="stable")
    before = np.minimum(np.searchsorted(end[order], start[order] + _SHARED, side="right"), np.arange(len(order)))
    most, taken = [0.0], []
    for own, last in zip(score[order].tolist(), before.tolist(), strict=True):
        taken.append(own + most[last] > most[-1])
        most.append(max(own + most[last], most[-1]))
    chosen, at = [], len(order)
    while at:
        if taken[at - 1]:
            chosen.append(at - 1)
            at = int(before[at - 1])
        else:
            at -= 1
    return place[order[np.array(chosen[::-1], np.int64)]]


def _spans(
    frames: list[_Frame], place: Int64[np.ndarray, "n 3"], bases: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Start, end with the stop codon, and strand."""
    shift = np.array([frame.shift for frame in frames])[place[:, 0]]
    reverse = np.array([frame.reverse for frame in frames])[place[:, 0]]
    start, end = shift + 3 * place[:, 1], np.minimum(shift + 3 * place[:, 2] + 3, bases)
    return np.where(reverse, bases - end, start), np.where(reverse, bases - start, end), reverse
