"""Metrics over draws of groups, all draws of a batch at once.

A draw gives each group a weight: how often it was drawn. Everything a metric needs is a sum over groups, so a batch
of draws is a product of the weights with tables of sums made once: a dense one for what depends on calls and bins, a
sparse one of how many viral and host rows a group has at each rank of the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int8, Int64

NAMES = ("accuracy", "precision", "recall", "f1", "mcc", "roc_auc", "pr_auc", "brier", "ece")
ECE_BINS = 15
# Above this many different scores, neighbours share a rank in the draws. That moves an AUC by about 1e-5.
_MOST_RANKS = 4096
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Sums by group.

    Args:
        dense: (groups, 5 + bins): true positives, false positives, false negatives, true negatives, squared
            error, and in each bin the sum of probability minus label.
        ranked: sparse (2 * ranks, groups): viral rows at each rank of the score, ascending, then host rows.
    """

    dense: Float64[np.ndarray, "groups sums"]
    ranked: Any


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
    tables = _tabulate(label, probability, group, groups, threshold)
    random = np.random.default_rng(seed)
    width = groups + tables.ranked.shape[0]
    batch = max(1, min(replicates, _BATCH_BYTES // (8 * width)))
    found = np.empty((len(NAMES), replicates))
    for low in range(0, replicates, batch):
        count = min(batch, replicates - low)
        weights = np.empty((count, groups))
        for row in weights:
            row[:] = np.bincount(random.integers(groups, size=groups), minlength=groups)
        found[:, low : low + count] = _metrics(weights @ tables.dense, (tables.ranked @ weights.T).T)
    return found


def _tabulate(
    label: Int8[np.ndarray, "n"],
    probability: Float64[np.ndarray, "n"],
    group: Int64[np.ndarray, "n"],
    groups: int,
    threshold: float,
) -> _Tables:
    from scipy.sparse import csr_array

    viral, call = label == 1, probability >= threshold
    columns = [viral & call, ~viral & call, viral & ~call, ~viral & ~call, (probability - label) ** 2]
    sums = [np.bincount(group, weights=column, minlength=groups) for column in columns]
    place = np.minimum((probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    excess = np.bincount(group * ECE_BINS + place, weights=probability - label, minlength=groups * ECE_BINS)
    rank, ranks = _ranks(probability)
    ranked = csr_array((np.ones(len(label)), (rank + ranks * ~viral, group)), shape=(2 * ranks, groups))
    ranked.sum_duplicates()
    return _Tables(np.column_stack([*sums, excess.reshape(groups, ECE_BINS)]), ranked)


def _ranks(probability: Float64[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], int]:
    """Ascending ranks, the same for the same score, and how many there are."""
    ordered = np.unique(probability)
    if len(ordered) > _MOST_RANKS:
        ordered = np.unique(np.quantile(probability, np.linspace(0, 1, _MOST_RANKS), method="lower"))
    return np.searchsorted(ordered, probability, side="right") - 1, len(ordered)


def _metrics(
    sums: Float64[np.ndarray, "draws sums"], ranked: Float64[np.ndarray, "draws ranks2"]
) -> Float64[np.ndarray, "metrics draws"]:
    tp, fp, fn, tn, squares = sums[:, :5].T
    total = tp + fp + fn + tn
    with np.errstate(divide="ignore", invalid="ignore"):
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        # With calls of one kind only the coefficient is 0 by convention, with labels of one kind it means nothing.
        mcc = np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(product), 0.0)
        mcc[(tp + fn == 0) | (tn + fp == 0)] = np.nan
        roc_auc, pr_auc = _areas(ranked)
        return np.array(
            [
                (tp + tn) / total,
                tp / (tp + fp),
                tp / (tp + fn),
                2 * tp / (2 * tp + fp + fn),
                mcc,
                roc_auc,
                pr_auc,
                squares / total,
                np.abs(sums[:, 5:]).sum(axis=1) / total,
            ]
        )


def _areas(
    ranked: Float64[np.ndarray, "draws ranks2"],
) -> tuple[Float64[np.ndarray, "draws"], Float64[np.ndarray, "draws"]]:
    """Area under the ROC curve, ties counting half, and average precision, of weighted counts by rank."""
    viral, host = np.split(ranked, 2, axis=1)
    viral_total, host_total = viral.sum(axis=1), host.sum(axis=1)
    below = host.cumsum(axis=1) - host / 2
    roc_auc = (viral * below).sum(axis=1) / (viral_total * host_total)
    hits, misses = viral[:, ::-1].cumsum(axis=1), host[:, ::-1].cumsum(axis=1)
    called = hits + misses
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    pr_auc = (viral[:, ::-1] * precision).sum(axis=1) / viral_total
    pr_auc[host_total == 0] = np.nan
    return roc_auc, pr_auc
