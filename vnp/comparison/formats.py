"""How numbers of a comparison are written for people."""

from __future__ import annotations

from vnp.comparison.comparison import Measured, Pair
from vnp.metrics.metrics import Interval

TITLES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "brier": "Brier",
    "ece": "ECE",
}
PAIRED = ("accuracy", "f1", "mcc", "roc_auc", "brier")


def number(value: float) -> str:
    """Three decimals, or a dash where there is no value."""
    return "-" if value != value else f"{value:.3f}"


def span(interval: Interval, *, signed: bool = False) -> str:
    """Both ends of an interval, or nothing where there is none."""
    sign = "+" if signed else ""
    return "" if interval.low != interval.low else f"[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def both_ends(one: Measured, name: str) -> str:
    """A metric with its interval."""
    return f"{number(getattr(one.metrics, name))} {span(one.intervals[name])}".rstrip()


def exact(value: float) -> str:
    """Six decimals for a file, empty where there is no value."""
    return "" if value != value else f"{value:.6f}"


def difference(pair: Pair, name: str) -> str:
    """A difference of two metrics with its interval."""
    found = pair.differences[name]
    return f"{found.value:+.3f} {span(found.interval, signed=True)}" if found.value == found.value else "-"


def tests(pair: Pair) -> list[str]:
    """McNemar's p-value with the counts it rests on, and the share of cases called alike."""
    test = pair.mcnemar
    return [f"{test.p_value:.2g} ({test.first_only:,} : {test.second_only:,})", f"{pair.agreement.share:.1%}"]
