"""Metrics of two-class predictions, their bootstrap intervals over groups, and the way from frames to records.

The rows of one genome resemble each other, so an interval over rows would be far too narrow. Here whole groups are
drawn with replacement (the cluster bootstrap; Field and Welsh, J. R. Statist. Soc. B 2007, 69:369), and an interval is
the span between percentiles of the metric over the draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64

from vnp.errors import FeatureError, UsageError
from vnp.metrics.bootstrap import ECE_BINS, NAMES, replicate_metrics

Rule = Literal["best", "mean"]
LEVELS = ("frame", "chunk", "record")
THRESHOLD = 0.5
REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well probabilities fit labels. A metric that the data does not define, such as AUC of one class, is NaN.

    Args:
        count: predictions.
        viral: how many of them are labelled viral.
        true_positives: viral, and called so.
        false_positives: host, and called viral.
        true_negatives: host, and called so.
        false_negatives: viral, and called host.
        accuracy: share of right calls.
        precision: share of the viral calls that are right.
        recall: share of the viral that are called so.
        f1: harmonic mean of precision and recall.
        mcc: Matthews' correlation coefficient.
        roc_auc: area under the receiver operating characteristic.
        pr_auc: average precision, the area under the precision-recall curve without interpolation.
        brier: mean squared difference of probability and label.
        ece: expected calibration error over 15 bins of equal width (Naeini et al., AAAI 2015).
    """

    count: int
    viral: int
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    mcc: float
    roc_auc: float
    pr_auc: float
    brier: float
    ece: float

    def to_json(self) -> dict[str, float | int | None]:
        """Names and values; None for what is not defined."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    @property
    def specificity(self) -> float:
        """Share of the host that are called so."""
        host = self.true_negatives + self.false_positives
        return self.true_negatives / host if host else float("nan")


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a metric lies with 95 % confidence, unless another level was asked for; NaN where it is not defined."""

    low: float
    high: float

    def to_json(self) -> list[float] | None:
        """Both ends, or None where there is no interval."""
        return None if self.low != self.low else [self.low, self.high]


def binary_metrics(
    label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"], threshold: float = THRESHOLD
) -> Metrics:
    """All metrics of some predictions.

    Args:
        label: 1 viral, 0 host.
        probability: of viral, 0 to 1.
        threshold: from this probability on a prediction is a viral call.

    Raises:
        FeatureError: there is nothing to measure, a label is missing, or a probability is none.
    """
    from sklearn import metrics

    label, probability = _checked(label, probability)
    call = probability >= threshold
    (tn, fp), (fn, tp) = metrics.confusion_matrix(label, call, labels=[0, 1]).tolist()
    both = bool(label.min() != label.max())
    nan = float("nan")
    return Metrics(
        count=len(label),
        viral=tp + fn,
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
        accuracy=float(metrics.accuracy_score(label, call)),
        precision=float(metrics.precision_score(label, call, zero_division=nan)),
        recall=float(metrics.recall_score(label, call, zero_division=nan)),
        f1=float(metrics.f1_score(label, call, zero_division=nan)),
        mcc=float(metrics.matthews_corrcoef(label, call)) if both else nan,
        roc_auc=float(metrics.roc_auc_score(label, probability)) if both else nan,
        pr_auc=float(metrics.average_precision_score(label, probability)) if both else nan,
        brier=float(np.mean((probability - label) ** 2)),
        ece=expected_calibration_error(label, probability),
    )


def expected_calibration_error(
    label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"], bins: int = ECE_BINS
) -> float:
    """Mean distance between predicted and observed shares of viral, over bins of equal width, weighted by size."""
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    excess = np.bincount(place, weights=probability - label, minlength=bins)
    return float(np.abs(excess).sum() / len(label))


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
    """Percentile intervals of every metric, drawing whole groups with replacement.

    Args:
        label: 1 viral, 0 host.
        probability: of viral.
        group: what is drawn as a whole, for every row: numbers or names.
        threshold: from this probability on a prediction is a viral call.
        replicates: draws.
        seed: of the draws; the same seed and groups give the same draws.
        confidence: of the interval.

    Returns:
        An interval for each name in ``NAMES``; NaN with fewer than two groups or where no draw defines the metric.

    Raises:
        FeatureError: as ``binary_metrics``.
    """
    label, probability = _checked(label, probability)
    groups, index = np.unique(np.asarray(group), return_inverse=True)
    if len(groups) < 2:
        return {name: Interval(float("nan"), float("nan")) for name in NAMES}
    drawn = replicate_metrics(
        label, probability, index, len(groups), threshold=threshold, replicates=replicates, seed=seed
    )
    return {name: percentiles(values, confidence) for name, values in zip(NAMES, drawn, strict=True)}


def percentiles(values: Float64[np.ndarray, "draws"], confidence: float = 0.95) -> Interval:
    """The interval between the outer percentiles of some draws, those that are NaN left out."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True, eq=False)
class Aggregated:
    """Predictions of chunks or records, made of those of their frames; m of them, in ascending order of their keys.

    Args:
        key: what the frames had in common.
        probability: of viral.
        frames: how many frames went into it.
        best: row of the frame that is surest.
        first: row of the first frame, to look up what all share, such as the label.
    """

    key: Int64[np.ndarray, "m"]
    probability: Float64[np.ndarray, "m"]
    frames: Int64[np.ndarray, "m"]
    best: Int64[np.ndarray, "m"]
    first: Int64[np.ndarray, "m"]

    def __len__(self) -> int:
        return len(self.key)


def chunk_keys(record: Int64[np.ndarray, "n"], chunk: Int32[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """One number for each chunk of each record, ascending as they are."""
    return np.asarray(record, np.int64) << 32 | np.asarray(chunk, np.int64)


def aggregate(
    probability: Float64[np.ndarray, "n"],
    key: Int64[np.ndarray, "n"],
    *,
    rule: Rule = "best",
    length: Int64[np.ndarray, "n"] | None = None,
) -> Aggregated:
    """Frames to chunks (``key`` from ``chunk_keys``) or to records (``key`` the record).

    Args:
        probability: of viral, for every frame.
        key: what each frame belongs to.
        rule: ``best`` is VirNucPro's: the highest P(viral) of all frames against their highest P(host), so the
            surest frame decides, viral where two are as sure; ``mean`` weighs each frame with its length.
        length: bases of each frame, for ``mean``; all count the same without it.

    Raises:
        UsageError: the rule is unknown.
    """
    if rule not in ("best", "mean"):
        raise UsageError(f"no rule {rule!r} to combine frames: choose best or mean")
    probability = np.asarray(probability, np.float64)
    if not len(probability):
        none = np.empty(0, np.int64)
        return Aggregated(none, np.empty(0), none, none, none)
    # Within a key the surest frame comes last, viral behind host where both are as sure.
    order = np.lexsort((probability, np.maximum(probability, 1 - probability), key))
    ordered = np.asarray(key)[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    frames = np.diff(np.r_[start, len(order)])
    best = order[start + frames - 1]
    combined = probability[best]
    if rule == "mean":
        weight = np.ones(len(order)) if length is None else np.asarray(length, np.float64)[order]
        combined = np.add.reduceat(probability[order] * weight, start) / np.add.reduceat(weight, start)
    return Aggregated(ordered[start], combined, frames, best, np.minimum.reduceat(order, start))


def with_intervals(metrics: Metrics, intervals: Mapping[str, Interval]) -> dict[str, object]:
    """Metrics and their intervals as one JSON object: ``{"accuracy": …, "intervals": {"accuracy": [low, high]}}``."""
    return {**metrics.to_json(), "intervals": {name: interval.to_json() for name, interval in intervals.items()}}


def _checked(
    label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"]
) -> tuple[Int8[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
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
