"""From scores of frames to calls of records.

The false discovery rate is geNomad's (Camargo et al., Nature Biotechnology 2024, doi:10.1038/s41587-023-01953-y): with
records sorted by falling probability, the mean of 1 - probability over a record and all before it. Records that share
a probability share the rate of the last of them, so that it does not depend on the order of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64

from vnp.metrics.rules import Aggregated, aggregate, chunk_keys, find_rule
from vnp.report.calls import HIGH, HOST, LOW, MEDIUM, NO_CALL, VIRAL, CalledRecords

if TYPE_CHECKING:
    from vnp.prediction.options import PredictOptions
    from vnp.prediction.scores import Batch

CALL_NAMES = {VIRAL: "viral", HOST: "host", NO_CALL: ""}
UNSCORED, SHORT, UNSURE, CALLED = 1, 2, 3, 0
"""Why a record has no call: no score, too short, false discovery rate too high; or that it has one."""

HIGH_AGREEMENT = 0.8
LOW_AGREEMENT = 0.6
HIGH_CHUNKS = 3


def combine(
    batch: Batch, key: Int64[np.ndarray, "n"], rule: str
) -> tuple[Aggregated, Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Frames to what ``key`` says, by a rule of ``PredictOptions``.

    Returns:
        The aggregation with calibrated probabilities, the raw scores that belong to them, and the bases that went
        into each.
    """
    found = aggregate(batch.probability, key, rule=rule, length=batch.length)
    if not len(found):
        return found, np.empty(0), np.empty(0)
    # Rows are in rising order of record and chunk, so those of one key stand together from `first` on.
    weight = batch.length.astype(np.float64)
    score = find_rule(rule).combine(batch.score, weight, np.arange(len(batch)), found.first, found.best)
    return found, score, np.add.reduceat(weight, found.first)


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Scores of chunks, in input order."""

    record: Int64[np.ndarray, "m"]
    chunk: Int32[np.ndarray, "m"]
    frames: Int64[np.ndarray, "m"]
    score: Float64[np.ndarray, "m"]
    probability: Float64[np.ndarray, "m"]
    first: Int64[np.ndarray, "m"]


def score_chunks(batch: Batch, rule: str) -> Chunks:
    """Frames of a batch to chunks."""
    found, score, _ = combine(batch, chunk_keys(batch.record, batch.chunk), rule)
    first = found.first
    return Chunks(batch.record[first], batch.chunk[first], found.frames, score, found.probability, first)


class Tally:
    """What is known of every record, gathered batch by batch; about 50 bytes a record."""

    def __init__(self, records: int, rule: str, threshold: float) -> None:
        self._rule = find_rule(rule)
        self._threshold = threshold
        self._bases = np.zeros(records)
        self.score: Float64[np.ndarray, "r"] = np.full(records, np.nan)
        self.probability: Float64[np.ndarray, "r"] = np.full(records, np.nan)
        self.scored: Int32[np.ndarray, "r"] = np.zeros(records, np.int32)
        """Chunks with a score."""
        self.frames: Int32[np.ndarray, "r"] = np.zeros(records, np.int32)
        self.viral_frames: Int32[np.ndarray, "r"] = np.zeros(records, np.int32)

    def add(self, batch: Batch, chunks: Chunks) -> None:
        """Take in a batch of rows and what its chunks came to."""
        found, score, bases = combine(batch, batch.record, self._rule.name)
        at = found.key
        share = self._rule.share(self.probability[at], found.probability, self._bases[at], bases)
        for known, new in ((self.probability, found.probability), (self.score, score)):
            before = np.where(share < 1, known[at], 0.0)
            known[at] = before + (new - before) * share
        self._bases[at] += bases
        low = int(at[0]) if len(at) else 0
        self.scored[at] += np.bincount(chunks.record - low)[at - low].astype(np.int32)
        self.frames[at] += found.frames.astype(np.int32)
        viral = np.bincount(batch.record - low, weights=batch.probability >= self._threshold)
        self.viral_frames[at] += viral[at - low].astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Calls(CalledRecords):
    """What is said of each record, and why there is no call."""

    why: Int8[np.ndarray, "r"]  # ``CALLED``, or why there is no call


def decide(tally: Tally, length: Int64[np.ndarray, "r"], chunk: int, settings: PredictOptions) -> Calls:
    """Call records."""
    scored = tally.scored > 0
    eligible = scored & (length >= settings.min_length)
    fdr = np.full(len(length), np.nan)
    fdr[eligible] = false_discovery_rate(tally.probability[eligible])
    viral = scored & (tally.probability >= settings.threshold)
    why = np.full(len(length), CALLED, np.int8)
    if settings.max_fdr is not None:
        # A running mean of rising terms passes its limit only once; rounding must not put a rate of 0.05 above it.
        why[viral & (fdr > settings.max_fdr + 1e-12)] = UNSURE
    why[scored & ~eligible] = SHORT
    why[~scored] = UNSCORED
    call = np.where(why == CALLED, viral, NO_CALL).astype(np.int8)
    with np.errstate(invalid="ignore", divide="ignore"):
        agreement = np.where(viral, tally.viral_frames, tally.frames - tally.viral_frames) / tally.frames
    reliability = judge(length, tally.scored, agreement, chunk)
    return Calls(length, tally.scored, tally.score, tally.probability, call, fdr, agreement, reliability, why)


def false_discovery_rate(probability: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Running mean of 1 - probability from the most probable down, for each record."""
    order = np.argsort(-probability, kind="stable")
    ordered = probability[order]
    mean = np.cumsum(1 - ordered) / np.arange(1, len(ordered) + 1)
    last_of_ties = np.searchsorted(-ordered, -ordered, side="right") - 1
    rate = np.empty(len(ordered))
    rate[order] = mean[last_of_ties]
    return rate


def reliability_levels(chunk: int) -> str:
    """The rule of ``judge`` in words, for pages."""
    return (
        f"low if the record is shorter than {chunk / 2:g} bases (half a training chunk) or fewer than "
        f"{LOW_AGREEMENT:.0%} of its frames agree; high if at least {HIGH_CHUNKS} chunks have a score and at least "
        f"{HIGH_AGREEMENT:.0%} of its frames agree; else medium."
    )


def judge(
    length: Int64[np.ndarray, "r"],
    scored: Int32[np.ndarray, "r"],
    agreement: Float64[np.ndarray, "r"],
    chunk: int,
) -> Int8[np.ndarray, "r"]:
    """How far to trust a call, by a plain rule.

    Low: the record is shorter than half a chunk of the kind that the classifier was trained on, or fewer than 60 % of
    its frames agree with its call. High: not low, at least 3 chunks have a score and at least 80 % of the frames
    agree. Medium: the others. -1: no score.

    Args:
        length: bases of the record.
        scored: its chunks with a score.
        agreement: share of its frames that agree with its call.
        chunk: bases of a chunk.
    """
    found = np.full(len(length), MEDIUM, np.int8)
    found[(scored >= HIGH_CHUNKS) & (agreement >= HIGH_AGREEMENT)] = HIGH
    found[(agreement < LOW_AGREEMENT) | (2 * length < chunk)] = LOW
    found[scored == 0] = -1
    return found
