"""Intervals of metrics, from draws of whole groups, all draws of a batch at once.

The rows of one genome resemble each other, so an interval over rows would be far too narrow. Here whole groups are
drawn with replacement (the cluster bootstrap; Field and Welsh, J. R. Statist. Soc. B 2007, 69:369), and an interval is
the span between percentiles of the metric over the draws. A draw gives each group a weight: how often it was drawn. So
a batch of draws is a product of the weights with tables of sums made once: a dense one for what depends on calls and
bins, a sparse one of how many viral and host rows a group has at each rank of the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int8, Int64
from scipy.sparse import csr_array

from vnp.metrics.metrics import ECE_BINS, METRICS, NAMES, THRESHOLD, Metrics, Sums, checked, ece_bin

REPLICATES = 1000
# Above this many different scores, neighbours share a rank in the draws. That moves an AUC by about 1e-5.
_MOST_RANKS = 4096
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a metric lies with 95 % confidence, unless another level was asked for; NaN where it is not defined."""

    low: float
    high: float

    def to_json(self) -> list[float] | None:
        """Both ends, or None where there is no interval."""
        return None if self.low != self.low else [self.low, self.high]


def bootstrap_intervals(
    label: Int8[np.ndarray, "n"],
    probability: Float64[np.ndarray, "n"],
    group: np.ndarray | Sequence[str],
    *,
    threshold: float = THRESHOLD,
    replicates: int = REPLICATES,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals of every metric, drawing whole groups with replacement."""
    label, probability = checked(label, probability)
    groups, index = np.unique(np.asarray(group), return_inverse=True)
    drawn = replicate_metrics(
        label, probability, index, len(groups),
        threshold=threshold, replicates=replicates if len(groups) >= 2 else 0, seed=seed,
    )  # fmt: skip
    return intervals_of(drawn, len(groups), confidence)


def intervals_of(
    drawn: Float64[np.ndarray, "metrics draws"], groups: int, confidence: float = 0.95
) -> dict[str, Interval]:
    """The span between the outer percentiles of each metric over draws, those that are NaN left out."""
    found = {}
    for name, values in zip(NAMES, drawn, strict=True):
        defined = values[np.isfinite(values)]
        low = high = float("nan")
        if groups >= 2 and len(defined):
            low, high = map(float, np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2]))
        found[name] = Interval(low, high)
    return found


def with_intervals(metrics: Metrics, intervals: Mapping[str, Interval]) -> dict[str, object]:
    """Metrics and their intervals as one JSON object: ``{"accuracy": …, "intervals": {"accuracy": [low, high]}}``."""
    return {**metrics.to_json(), "intervals": {name: interval.to_json() for name, interval in intervals.items()}}


def replicate_metrics(
    label: Int8[np.ndarray, "n"],
    probability: Float64[np.ndarray, "n"],
    group: Int64[np.ndarray, "n"],
    groups: int,
    *,
    threshold: float,
    replicates: int,
    seed: int,
) -> Float64[np.ndarray, "metrics replicates"]:
    """The metrics in ``NAMES`` for draws of groups.

    Args:
        label: 1 viral, 0 host.
        probability: of viral.
        group: number of each row's group, below ``groups``.
        groups: how many there are.
        threshold: from this probability on a prediction is a viral call.
        replicates: draws.
        seed: of the draws. Two calls with the same seed, ``groups`` and ``replicates`` draw the same groups, which
            is what makes the difference of two results a paired one.
    """
    viral, call = label == 1, probability >= threshold
    columns = [viral & call, ~viral & call, viral & ~call, ~viral & ~call, (probability - label) ** 2]
    sums = [np.bincount(group, weights=column, minlength=groups) for column in columns]
    places = group * ECE_BINS + ece_bin(probability)
    excess = np.bincount(places, weights=probability - label, minlength=groups * ECE_BINS)
    dense = np.column_stack([*sums, excess.reshape(groups, ECE_BINS)])
    rank, ranks = _ranks(probability)
    # Viral rows at each rank, then host rows.
    ranked = csr_array((np.ones(len(label)), (rank + ranks * ~viral, group)), shape=(2 * ranks, groups))
    ranked.sum_duplicates()

    random = np.random.default_rng(seed)
    width = groups + 2 * ranks
    batch = max(1, min(replicates, _BATCH_BYTES // (8 * width)))
    found = np.empty((len(NAMES), replicates))
    for low in range(0, replicates, batch):
        count = min(batch, replicates - low)
        weights = np.empty((count, groups))
        for row in weights:
            row[:] = np.bincount(random.integers(groups, size=groups), minlength=groups)
        drawn, drawn_ranks = weights @ dense, (ranked @ weights.T).T
        tp, fp, fn, tn, squares = drawn[:, :5].T
        of_batch = Sums(tp, fp, fn, tn, squares, drawn[:, 5:], drawn_ranks[:, :ranks], drawn_ranks[:, ranks:])
        with np.errstate(divide="ignore", invalid="ignore"):
            found[:, low : low + count] = [metric.drawn(of_batch) for metric in METRICS]
    return found


def _ranks(probability: Float64[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], int]:
    """Ascending ranks, the same for the same score, and how many there are."""
    ordered = np.unique(probability)
    if len(ordered) > _MOST_RANKS:
        ordered = np.unique(np.quantile(probability, np.linspace(0, 1, _MOST_RANKS), method="lower"))
    return np.searchsorted(ordered, probability, side="right") - 1, len(ordered)
