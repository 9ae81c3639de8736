"""From scores of rows to calls of records.

The false discovery rate is geNomad's (Camargo et al., Nature Biotechnology 2024, doi:10.1038/s41587-023-01953-y): with
records sorted by falling probability, the mean of 1 - probability over a record and all before it. Records that share
a probability share the rate of the last of them, so that it does not depend on the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int8, Int32, Int64

from vnp.classifier.calibration import logistic
from vnp.classifier.classifier import Classifier, margins
from vnp.features.scores import SETTLED, Scores
from vnp.metrics.novelty import mean_distances
from vnp.metrics.prevalence import Shares, at_prevalence
from vnp.metrics.reliability import HIGH, LOW, MEDIUM, Judgements
from vnp.metrics.rules import BEST_FRAME, MEAN_LOGIT, aggregate, chunk_keys
from vnp.report.calls import HOST, NO_CALL, VIRAL, CalledRecords

if TYPE_CHECKING:
    from vnp.prediction.options import PredictOptions
    from vnp.prediction.scores import Batch

CALL_NAMES = {VIRAL: "viral", HOST: "host", NO_CALL: ""}
UNSCORED, SHORT, UNSURE, CALLED = 1, 2, 3, 0
"""Why a record has no call: no score, too short, false discovery rate too high; or that it has one."""
NOBODY, CHECKPOINT, NATIVE = 0, 1, 2
SCORED_BY = {NOBODY: "", CHECKPOINT: "checkpoint", NATIVE: "native"}
"""Whose scores a call rests on."""

HIGH_AGREEMENT = 0.8
LOW_AGREEMENT = 0.6
HIGH_CHUNKS = 3
_SHORTEST_SURE = 300


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What classifiers say of n rows."""

    by: Int8[np.ndarray, "n"]  # ``CHECKPOINT`` or ``NATIVE``
    margin: Float64[np.ndarray, "n"]  # log-odds of viral
    probability: Float64[np.ndarray, "n"]  # calibrated
    length: Int64[np.ndarray, "n"]  # bases
    kinds: Float32[np.ndarray, "n k"] | None  # logits of the kinds that are told, or None
    distance: Float16[np.ndarray, "n"]  # from what the classifier was trained on
    settled: Bool[np.ndarray, "n"]  # whether they are windows of records that native settled

    def __len__(self) -> int:
        return len(self.by)


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """What rows come to, for each of m keys, rising."""

    first: Int64[np.ndarray, "m"]  # place of the first row
    rows: Int64[np.ndarray, "m"]  # how many rows decide
    decides: Bool[np.ndarray, "n"]  # for each row, whether it does
    score: Float64[np.ndarray, "m"]  # probability of viral as the network gives it
    probability: Float64[np.ndarray, "m"]  # the same, calibrated
    by: Int8[np.ndarray, "m"]  # ``CHECKPOINT`` or ``NATIVE``


@dataclass(frozen=True, slots=True)
class Judges:
    """The classifier that was asked for and, where that has nothing to go by, the native one, whose logits follow."""

    classifier: Classifier
    rule: str  # how rows of the classifier decide, one of ``vnp.metrics.rules.RULES``
    native: Classifier | None = None
    share: float | None = None  # of viruses, that probabilities are told for; None for what each holds at

    @property
    def first_by(self) -> int:
        """Whose the classifier's own scores are."""
        return NATIVE if self.classifier.origin == "native" else CHECKPOINT

    @property
    def both(self) -> list[tuple[int, Classifier]]:
        """The classifiers, each with the number that stands for its scores."""
        pair = ((self.first_by, self.classifier), (NATIVE, self.native))
        return [(by, one) for by, one in pair if one is not None]

    @property
    def balanced(self) -> list[int]:
        """For whose records rates are told at the share of viruses that these show."""
        return [by for by, one in self.both if one.balanced]

    def held_at(self, by: Int8[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """The share of viruses at which each probability holds, by whose it is."""
        found = np.full(len(by), 0.5)
        for number, one in self.both:
            if one.trust.prevalence is not None:
                found[by == number] = one.trust.prevalence
        return found

    def shares(self, found: Found, some: Bool[np.ndarray, "r"], probability: Float64[np.ndarray, "r"]) -> Shares:
        """Count some records, by probabilities that hold at each classifier's share of viruses."""
        shares = Shares()
        for number, one in self.both:
            own = some & (found.by == number)
            shares.add(
                probability[own], self.held_at(found.by[own]), found.novelty[own],
                length=found.length[own], evidence=one.trust.evidence,
            )  # fmt: skip
        return shares

    def told(self, probability: Float64[np.ndarray, "n"], by: Int8[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """Probabilities as they are told, at the share of viruses."""
        return probability if self.share is None else at_prevalence(probability, self.share, self.held_at(by))

    def untold(self, probability: Float64[np.ndarray, "n"], by: Int8[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """What probabilities that are told were before."""
        return probability if self.share is None else at_prevalence(probability, self.held_at(by), self.share)

    @property
    def telling(self) -> Classifier | None:
        """The classifier that tells kinds, if one does."""
        return next((one for one in (self.classifier, self.native) if one is not None and len(one.kinds) > 2), None)

    def judge(self, rows: Scores) -> Judged:
        """Logits to log-odds and probabilities."""
        own = len(self.classifier.kinds)
        length = rows.end - rows.start
        by = np.full(len(rows), self.first_by, np.int8)
        margin = margins(rows.logits[:, :own], self.classifier.kinds, self.classifier.viral)
        probability = self.classifier.probability(margin, length)
        if self.native is not None:
            # A row that is no frame stands for a chunk without one.
            other = np.flatnonzero(rows.frame < 0)
            by[other] = NATIVE
            margin[other] = margins(rows.logits[other, own:], self.native.kinds, self.native.viral)
            probability[other] = self.native.probability(margin[other], length[other])
        kinds = None
        if self.telling is not None:
            kinds = rows.logits[:, :own] if self.telling is self.classifier else rows.logits[:, own:]
        return Judged(by, margin, probability, length, kinds, rows.novelty, rows.frame == SETTLED)

    def vote(
        self,
        judged: Judged,
        key: Int64[np.ndarray, "n"],
        length: Callable[[Int64[np.ndarray, "m"]], Int64[np.ndarray, "m"]],
        mates: Int64[np.ndarray, "m"] | None = None,
    ) -> Votes:
        """Rows to what ``key``, which never falls, says; a key with rows of the classifier is decided by these alone.

        Args:
            judged: the rows.
            key: what each belongs to.
            length: gives the bases of what the keys mean, by the places of their first rows.
            mates: how many mates with rows each has; None where records are no mates.
        """
        first = np.flatnonzero(np.diff(key, prepend=-1))
        group = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(key)]))
        own = judged.by == self.first_by
        has_own = np.zeros(len(first), bool)
        has_own[group[own]] = True
        decides = own | ~has_own[group]
        bases = length(first)
        score, probability = np.empty(len(first)), np.empty(len(first))
        # It has seen no more of a record than chunks, and is no surer than of one, unless it has settled it.
        seen = np.where(judged.settled[first], bases, np.minimum(bases, self.classifier.chunk))
        for one, rule, rows, spoken_of in (
            (self.classifier, self.rule, np.flatnonzero(own), bases),
            (self.native, MEAN_LOGIT, np.flatnonzero(decides & ~own), seen),
        ):
            if one is not None and len(rows):
                at, found, chance = _combine(one, rule, judged, group, rows, spoken_of, mates)
                score[at], probability[at] = found, chance
        by = np.where(has_own, self.first_by, NATIVE).astype(np.int8)
        return Votes(first, np.bincount(group[decides], minlength=len(first)), decides, score, probability, by)

    def kind(self, judged: Judged, votes: Votes, viral: Bool[np.ndarray, "m"]) -> Int8[np.ndarray, "m"]:
        """The likeliest kind by the mean of the logits, of those on the side of the call; -1 where none is told."""
        telling = self.telling
        if telling is None or judged.kinds is None:
            return np.full(len(viral), -1, np.int8)
        summed = np.add.reduceat(np.where(votes.decides[:, None], judged.kinds, 0), votes.first, axis=0)
        is_viral = np.array([name in telling.viral for name in telling.kinds])
        found: Int8[np.ndarray, "m"] = (
            np.where(is_viral[None, :] == viral[:, None], summed, -np.inf).argmax(axis=1).astype(np.int8)
        )
        teller = self.first_by if telling is self.classifier else NATIVE
        found[votes.by != teller] = -1
        return found


def _combine(
    classifier: Classifier,
    rule: str,
    judged: Judged,
    group: Int64[np.ndarray, "n"],
    rows: Int64[np.ndarray, "s"],
    bases: Int64[np.ndarray, "m"],
    mates: Int64[np.ndarray, "m"] | None = None,
) -> tuple[Int64[np.ndarray, "g"], Float64[np.ndarray, "g"], Float64[np.ndarray, "g"]]:
    """Some rows by a rule; the groups that they are of, with score and probability."""
    key, margin, weight = group[rows], judged.margin[rows], judged.length[rows]
    if rule == MEAN_LOGIT:
        first = np.flatnonzero(np.diff(key, prepend=-1))
        mean = np.add.reduceat(margin, first) / np.diff(np.r_[first, len(key)])
        if mates is not None:
            # The mean of two short windows spreads less than what one window as long as both says, for which
            # calibration holds: sums of independent log-odds are brought to one scale by the root of their number
            # (Stouffer et al., The American Soldier 1949).
            mean *= np.sqrt(mates[key[first]])
        return key[first], logistic(mean), classifier.probability(mean, bases[key[first]])
    found = aggregate(judged.probability[rows], key, rule=rule, length=weight)
    # The score is of the same rows in the same shares as the probability.
    if rule == BEST_FRAME:
        return found.key, logistic(margin[found.best]), found.probability
    share = np.add.reduceat(logistic(margin) * weight, found.first) / np.add.reduceat(weight.astype(float), found.first)
    return found.key, share, found.probability


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Scores of chunks, in input order."""

    record: Int64[np.ndarray, "m"]
    chunk: Int32[np.ndarray, "m"]
    start: Int64[np.ndarray, "m"]
    end: Int64[np.ndarray, "m"]
    frames: Int64[np.ndarray, "m"]  # open frames; none where the chunk is a row
    score: Float64[np.ndarray, "m"]
    probability: Float64[np.ndarray, "m"]
    by: Int8[np.ndarray, "m"]


class Found:
    """What is known of every record, gathered batch by batch; some 50 bytes a record."""

    def __init__(self, records: int) -> None:
        self.length: Int64[np.ndarray, "r"] = np.zeros(records, np.int64)
        self.score: Float64[np.ndarray, "r"] = np.full(records, np.nan)
        self.probability: Float64[np.ndarray, "r"] = np.full(records, np.nan)
        self.scored: Int32[np.ndarray, "r"] = np.zeros(records, np.int32)
        """Chunks with a score."""
        self.agreement: Float32[np.ndarray, "r"] = np.full(records, np.nan, np.float32)
        self.viral: Bool[np.ndarray, "r"] = np.zeros(records, bool)
        """Whether the probability is that of a viral call."""
        self.kind: Int8[np.ndarray, "r"] = np.full(records, -1, np.int8)
        self.by: Int8[np.ndarray, "r"] = np.zeros(records, np.int8)
        self.novelty: Float32[np.ndarray, "r"] = np.full(records, np.nan, np.float32)
        """As a percentile of held-out records."""
        self.settled = 0
        """Records that the native network settled, which are not embedded."""
        self.rows = 0

    def add(
        self,
        batch: Batch,
        judges: Judges,
        threshold: Callable[[Int64[np.ndarray, "m"], Int8[np.ndarray, "m"]], Float64[np.ndarray, "m"]],
        spans: Callable[[Batch, Int64[np.ndarray, "m"]], tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]],
    ) -> tuple[Judged, Chunks]:
        """Take in records with their rows.

        Args:
            batch: of records that were not there yet.
            judges: who score them.
            threshold: the probability from which on records of some lengths, scored by whom, are viral.
            spans: where the chunks of some rows start and end.

        Returns:
            What the rows and their chunks came to.
        """
        rows, names = batch.rows, batch.called
        first = batch.first // batch.mates
        self.length[first : first + len(names)] = names.length
        judged = judges.judge(rows)
        owner = batch.owner
        chunk_key = chunk_keys(owner, rows.chunk)
        starts = np.flatnonzero(np.diff(chunk_key, prepend=-1))
        start, end = spans(batch, starts)
        of_chunks = judges.vote(judged, chunk_key, lambda _first: end - start)
        frames = np.add.reduceat((rows.frame >= 0).astype(np.int64), starts) if len(starts) else starts
        chunks = Chunks(
            rows.record[starts], rows.chunk[starts], start, end, frames, of_chunks.score, of_chunks.probability,
            of_chunks.by,
        )  # fmt: skip
        self.rows += len(rows)
        if not len(rows):
            return judged, chunks
        # Mates decide together, as windows of one record do.
        called, length, mates = owner // batch.mates, names.length, None
        at = np.unique(called)
        if batch.mates > 1:
            seen = np.unique(owner)
            mates = np.bincount(seen // batch.mates)[at]
            length = np.bincount(seen // batch.mates, batch.records.length[seen], len(names)).astype(np.int64)
        votes = judges.vote(judged, called, lambda _first: length[at], mates)
        least = threshold(length[at], votes.by)
        viral = votes.probability >= least
        group = np.searchsorted(at, called)
        same = votes.decides & ((judged.probability >= least[group]) == viral[group])
        agreement = np.bincount(group[same], minlength=len(at)) / votes.rows
        where = at + first
        self.settled += int((judged.settled[votes.first] & (votes.by == NATIVE)).sum())
        self.score[where], self.probability[where], self.by[where] = votes.score, votes.probability, votes.by
        self.viral[where], self.agreement[where] = viral, agreement
        self.kind[where] = judges.kind(judged, votes, viral)
        distance = mean_distances(judged.distance[votes.decides], group[votes.decides], len(at))
        for number, one in judges.both:
            if one.trust.novelty is not None:
                some = votes.by == number
                self.novelty[where[some]] = one.trust.novelty.percentile(distance[some], length[at[some]])
        self.scored[where] = np.bincount(called[starts], minlength=len(names))[at].astype(np.int32)
        return judged, chunks


@dataclass(frozen=True, slots=True, eq=False)
class Calls(CalledRecords):
    """What is said of each record, and why there is no call."""

    why: Int8[np.ndarray, "r"]  # ``CALLED``, or why there is no call
    by: Int8[np.ndarray, "r"]  # whose scores the call rests on, of ``SCORED_BY``
    wrong: float  # how many of the viral calls are expected to be wrong
    share: float | None  # share of viruses that the probabilities were moved to for the rate, or None


def decide(found: Found, chunk: int, settings: PredictOptions, judges: Judges) -> Calls:
    """Call records.

    Probabilities of some classifiers hold where half of all records are viral. For rates, and for how many calls are
    wrong, they are moved to the share of viruses that explains best how probable the records look, unless all of them
    are told for a share.

    Args:
        found: what is known of them.
        chunk: bases of a chunk.
        settings: what a call takes.
        judges: who scored them.
    """
    length, scored = found.length, found.scored > 0
    eligible = scored & (length >= settings.min_length)
    told = judges.told(found.probability, found.by)
    chance, share = told, judges.share
    moved = eligible & np.isin(found.by, judges.balanced)
    if share is None and moved.any():
        share = judges.shares(found, moved, told).share()
        chance = told.copy()
        chance[moved] = at_prevalence(told[moved], share, judges.held_at(found.by[moved]))
    fdr = np.full(len(length), np.nan)
    fdr[eligible] = false_discovery_rate(chance[eligible])
    viral = scored & found.viral
    why = np.full(len(length), CALLED, np.int8)
    if settings.max_fdr is not None:
        # A running mean of rising terms passes its limit only once; rounding must not put a rate of 0.05 above it.
        why[viral & (fdr > settings.max_fdr + 1e-12)] = UNSURE
    why[scored & ~eligible] = SHORT
    why[~scored] = UNSCORED
    call = np.where(why == CALLED, viral, NO_CALL).astype(np.int8)
    reliability = judge(length, found.scored, found.agreement, chunk)
    for by, one in judges.both:
        if one.trust.reliability is not None:
            some = np.flatnonzero(scored & (found.by == by))
            sure = np.where(viral[some], told[some], 1 - told[some])
            calls = Judgements(length[some], sure, found.agreement[some], found.novelty[some], viral[some])
            reliability[some] = one.trust.reliability.levels(calls)
    wrong = float((1 - chance[call == VIRAL]).sum())
    return Calls(
        length, found.scored, found.score, told, call, fdr, found.agreement, reliability, found.novelty,
        found.kind, why, found.by, wrong, share,
    )  # fmt: skip


def false_discovery_rate(probability: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Running mean of 1 - probability from the most probable down, for each record."""
    order = np.argsort(-probability, kind="stable")
    ordered = probability[order]
    mean = np.cumsum(1 - ordered)
    mean /= np.arange(1, len(ordered) + 1)
    # Records that are as probable as each other have the rate of the last of them.
    last = np.flatnonzero(np.diff(ordered, append=-1))
    rate = np.empty(len(ordered))
    rate[order] = np.repeat(mean[last], np.diff(last, prepend=-1))
    return rate


def reliability_levels(judges: Judges, chunk: int) -> str:
    """What levels of reliability mean, in words, for pages."""
    found = []
    for by, one in judges.both:
        whose = f"Of calls by the {SCORED_BY[by]}: " if len(judges.both) > 1 else ""
        measured = one.trust.reliability
        if measured is not None:
            found.append(f"{whose}{'; '.join(measured.sentences())}. Measured on {measured.measured_on}.")
        else:
            found.append(f"{whose}{_plain_levels(chunk)} How many of each are wrong was not measured.")
    return " ".join(found)


def _plain_levels(chunk: int) -> str:
    """What ``judge`` does, in words."""
    return (
        f"low if the record is shorter than {_short(chunk):g} bases or fewer than {LOW_AGREEMENT:.0%} of its rows "
        f"agree; high if at least {HIGH_CHUNKS} chunks have a score and at least {HIGH_AGREEMENT:.0%} of its rows "
        "agree; else medium."
    )


def _short(chunk: int) -> float:
    """Bases below which a call is of low reliability: half a chunk, but no more than a native call needs."""
    return min(chunk / 2, _SHORTEST_SURE)


def judge(
    length: Int64[np.ndarray, "r"],
    scored: Int32[np.ndarray, "r"],
    agreement: Float32[np.ndarray, "r"],
    chunk: int,
) -> Int8[np.ndarray, "r"]:
    """How far to trust a call where no errors were measured.

    Low: the record is shorter than half a chunk of the kind that the classifier was trained on (at most 300 bases), or
    fewer than 60 % of its rows agree with its call. High: not low, at least 3 chunks have a score and at least 80 % of
    the rows agree. Medium: the others. -1: no score.

    Args:
        length: bases of the record.
        scored: its chunks with a score.
        agreement: share of its rows that agree with its call.
        chunk: bases of a chunk.
    """
    found = np.full(len(length), MEDIUM, np.int8)
    found[(scored >= HIGH_CHUNKS) & (agreement >= np.float32(HIGH_AGREEMENT))] = HIGH
    found[(agreement < np.float32(LOW_AGREEMENT)) | (length < _short(chunk))] = LOW
    found[scored == 0] = -1
    return found
