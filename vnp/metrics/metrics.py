"""The metrics of two-class predictions, each written once, and their intervals, from draws of whole groups.

Every table, file and page reads ``METRICS``, so another metric is another entry there.

The rows of one genome resemble each other, so an interval over rows would be far too narrow. Here whole groups are
drawn with replacement (the cluster bootstrap; Field and Welsh, J. R. Statist. Soc. B 2007, 69:369), and an interval is
the span between percentiles of the metric over the draws. A draw gives each group a weight: how often it was drawn. So
a batch of draws is a product of the weights with tables of sums made once: a dense one for what depends on calls and
bins, a sparse one of how many viral and host rows a group has at each rank of the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64
from scipy.sparse import csr_array
from scipy.stats import binomtest
from sklearn import metrics as _sklearn

from vnp.errors import FeatureError

THRESHOLD = 0.5
ECE_BINS = 15
REPLICATES = 1000
_NAN = float("nan")
# Above this many different scores, neighbours share a rank in the draws. That moves an AUC by about 1e-5.
_MOST_RANKS = 4096
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What a number of draws of the same rows came to; everything that a metric needs is a sum over rows."""

    true_positives: Float64[np.ndarray, "draws"]  # viral rows that are called so, in each draw; and so the others
    false_positives: Float64[np.ndarray, "draws"]
    false_negatives: Float64[np.ndarray, "draws"]
    true_negatives: Float64[np.ndarray, "draws"]
    squares: Float64[np.ndarray, "draws"]  # sum of the squared differences of probability and label
    # in each of ``ECE_BINS`` bins of the probability the sum of probability minus label
    excess: Float64[np.ndarray, "draws bins"]
    viral: Float64[np.ndarray, "draws ranks"]  # viral rows at each rank of the probability, ascending
    host: Float64[np.ndarray, "draws ranks"]  # the same of host rows

    @property
    def total(self) -> Float64[np.ndarray, "draws"]:
        """Rows in each draw."""
        total: Float64[np.ndarray, "draws"] = (
            self.true_positives + self.false_positives + self.false_negatives + self.true_negatives
        )
        return total


Value = Callable[[Int8[np.ndarray, "n"], Float64[np.ndarray, "n"], Bool[np.ndarray, "n"]], float]
"""Of labels (1 viral, 0 host), probabilities of viral, and viral calls."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that says how well probabilities fit labels; NaN where the data does not define it."""

    name: str  # in files
    title: str  # in tables for people
    meaning: str  # in a line, for people
    value: Value  # of predictions
    drawn: Callable[[Sums], Float64[np.ndarray, "draws"]]  # the same for many draws at once
    paired: bool = False  # whether tables of two classifiers show the difference


def _of_both_classes(value: Callable[[Any, Any], float], *, of_calls: bool = False) -> Value:
    """A metric that labels of one kind do not define."""

    def found(label: np.ndarray, probability: np.ndarray, call: np.ndarray) -> float:
        return value(label, call if of_calls else probability) if label.min() != label.max() else _NAN

    return found


def expected_calibration_error(label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"]) -> float:
    """Mean distance between predicted and observed shares of viral, over bins of equal width, weighted by size.

    Source: Naeini et al., AAAI 2015.
    """
    excess = np.bincount(ece_bin(probability), weights=probability - label, minlength=ECE_BINS)
    return float(np.abs(excess).sum() / len(label))


def ece_bin(probability: Float64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Which of ``ECE_BINS`` bins of equal width each probability is in."""
    return np.minimum((probability * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def _drawn_mcc(sums: Sums) -> Float64[np.ndarray, "draws"]:
    tp, fp, fn, tn = sums.true_positives, sums.false_positives, sums.false_negatives, sums.true_negatives
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    # With calls of one kind only the coefficient is 0 by convention, with labels of one kind it means nothing.
    found: Float64[np.ndarray, "draws"] = np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(product), 0.0)
    found[(tp + fn == 0) | (tn + fp == 0)] = np.nan
    return found


def _drawn_roc_auc(sums: Sums) -> Float64[np.ndarray, "draws"]:
    """Area under the ROC curve of weighted counts by rank; ties count half."""
    below = sums.host.cumsum(axis=1) - sums.host / 2
    area: Float64[np.ndarray, "draws"] = (sums.viral * below).sum(axis=1) / (
        sums.viral.sum(axis=1) * sums.host.sum(axis=1)
    )
    return area


def _drawn_average_precision(sums: Sums) -> Float64[np.ndarray, "draws"]:
    falling = sums.viral[:, ::-1]
    hits, misses = falling.cumsum(axis=1), sums.host[:, ::-1].cumsum(axis=1)
    called = hits + misses
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    found: Float64[np.ndarray, "draws"] = (falling * precision).sum(axis=1) / sums.viral.sum(axis=1)
    found[sums.host.sum(axis=1) == 0] = np.nan
    return found


METRICS = (
    Metric(
        "accuracy", "accuracy",
        "share of calls that are right",
        lambda label, _probability, call: float(_sklearn.accuracy_score(label, call)),
        lambda sums: (sums.true_positives + sums.true_negatives) / sums.total,
        paired=True,
    ),
    Metric(
        "precision", "precision",
        "share of viral calls that are right",
        lambda label, _probability, call: float(_sklearn.precision_score(label, call, zero_division=_NAN)),
        lambda sums: sums.true_positives / (sums.true_positives + sums.false_positives),
    ),
    Metric(
        "recall", "recall",
        "share of what is viral that is called so",
        lambda label, _probability, call: float(_sklearn.recall_score(label, call, zero_division=_NAN)),
        lambda sums: sums.true_positives / (sums.true_positives + sums.false_negatives),
    ),
    Metric(
        "f1", "F1",
        "harmonic mean of precision and recall",
        lambda label, _probability, call: float(_sklearn.f1_score(label, call, zero_division=_NAN)),
        lambda sums: (
            2 * sums.true_positives / (2 * sums.true_positives + sums.false_positives + sums.false_negatives)
        ),
        paired=True,
    ),
    Metric(
        "mcc", "MCC",
        "Matthews' correlation of calls and labels: 0 is chance, 1 is all right, whatever the share of viruses",
        _of_both_classes(_sklearn.matthews_corrcoef, of_calls=True),
        _drawn_mcc,
        paired=True,
    ),
    Metric(
        "roc_auc", "ROC-AUC",
        "probability that something viral scores above some host; 0.5 is chance, and no threshold is involved",
        _of_both_classes(_sklearn.roc_auc_score),
        _drawn_roc_auc,
        paired=True,
    ),
    # The area under the precision-recall curve without interpolation.
    Metric(
        "pr_auc", "PR-AUC",
        "mean precision over all recalls; chance is the share of viruses",
        _of_both_classes(_sklearn.average_precision_score),
        _drawn_average_precision,
    ),
    Metric(
        "brier", "Brier",
        "mean squared distance of probability and label: less is better",
        lambda label, probability, _call: float(np.mean((probability - label) ** 2)),
        lambda sums: sums.squares / sums.total,
        paired=True,
    ),
    Metric(
        "ece", "ECE",
        "expected calibration error, the mean distance of promised and observed shares of viral: less is better",
        lambda label, probability, _call: expected_calibration_error(label, probability),
        lambda sums: np.abs(sums.excess).sum(axis=1) / sums.total,
    ),
)  # fmt: skip
NAMES = tuple(metric.name for metric in METRICS)


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well some predictions fit their labels."""

    count: int  # predictions
    viral: int  # how many of them are labelled viral
    true_positives: int  # viral, and called so
    false_positives: int  # host, and called viral
    true_negatives: int  # host, and called so
    false_negatives: int  # viral, and called host
    values: Mapping[str, float]  # of each of ``METRICS`` by its name

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def counts(self) -> dict[str, int]:
        """Names and values of all but the metrics."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "values"}

    def to_json(self) -> dict[str, float | int | None]:
        """Names and values; None for what is not defined."""
        return {**self.counts, **{name: None if value != value else value for name, value in self.values.items()}}


def binary_metrics(
    label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"], threshold: float = THRESHOLD
) -> Metrics:
    """All metrics of some predictions.

    ``label`` is 1 for viral, 0 for host; from ``threshold`` on a ``probability`` of viral is a viral call.

    Raises:
        FeatureError: there is nothing to measure, a label is missing, or a probability is none.
    """
    label, probability = checked(label, probability)
    call = probability >= threshold
    (tn, fp), (fn, tp) = _sklearn.confusion_matrix(label, call, labels=[0, 1]).tolist()
    values = {metric.name: float(metric.value(label, probability, call)) for metric in METRICS}
    return Metrics(len(label), tp + fn, tp, fp, tn, fn, values)


def wilson(count: int, total: int) -> tuple[float, float]:
    """The interval of 95 % around a share, ``count`` of ``total`` (Wilson, J. Am. Stat. Assoc. 1927, 22:209)."""
    low, high = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def checked(
    label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"]
) -> tuple[Int8[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """Labels and probabilities that can be measured."""
    label, probability = np.asarray(label), np.asarray(probability, np.float64)
    if not len(label):
        raise FeatureError("there are no predictions to measure")
    if len(label) != len(probability):
        raise FeatureError(f"there are {len(label):,} labels and {len(probability):,} probabilities")
    if not ((label == 0) | (label == 1)).all():
        unlabelled = int(((label != 0) & (label != 1)).sum())
        raise FeatureError(f"{unlabelled:,} of {len(label):,} predictions have no label: leave them out")
    if not ((probability >= 0) & (probability <= 1)).all():
        row = int(np.flatnonzero(~((probability >= 0) & (probability <= 1)))[0])
        raise FeatureError(f"the probability of row {row} is {probability[row]}, not between 0 and 1")
    return label.astype(np.int8, copy=False), probability


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a metric lies with 95 % confidence; NaN where it is not defined."""

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
) -> dict[str, Interval]:
    """Percentile intervals of every metric, drawing whole groups with replacement."""
    label, probability = checked(label, probability)
    groups, index = np.unique(np.asarray(group), return_inverse=True)
    drawn = replicate_metrics(
        label, probability, index, len(groups),
        threshold=threshold, replicates=replicates if len(groups) >= 2 else 0, seed=seed,
    )  # fmt: skip
    return intervals_of(drawn, len(groups))


def intervals_of(drawn: Float64[np.ndarray, "metrics draws"], groups: int) -> dict[str, Interval]:
    """The span between the outer percentiles of each metric over draws, those that are NaN left out."""
    found = {}
    for name, values in zip(NAMES, drawn, strict=True):
        defined = values[np.isfinite(values)]
        low = high = float("nan")
        if groups >= 2 and len(defined):
            low, high = map(float, np.quantile(defined, [0.025, 0.975]))
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
    """The metrics in ``NAMES`` for draws of groups, whose numbers are below ``groups``.

    Two calls with the same seed, ``groups`` and ``replicates`` draw the same groups, which is what makes the difference
    of two results a paired one.
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
