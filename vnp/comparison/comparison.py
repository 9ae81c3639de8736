"""Classifiers side by side on the same cases: each one's metrics, and for each pair what the difference is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score

from vnp.comparison._cases import Cases
from vnp.metrics.metrics import (
    NAMES,
    REPLICATES,
    THRESHOLD,
    Interval,
    Metrics,
    binary_metrics,
    bootstrap_intervals,
    intervals_of,
    replicate_metrics,
    with_intervals,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics of some cases: all of them, or one stratum of one way (``by``) of telling them apart."""

    by: str
    stratum: str
    groups: int
    metrics: Metrics
    intervals: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class McNemar:
    """The exact test of McNemar (Psychometrika 1947, 12:153): is one of two classifiers right more often?

    It takes the cases to be independent. Frames and chunks of one genome are not, so there the interval of the
    difference, which draws whole groups, is the one to read.
    """

    first_only: int  # cases that only the first gets right
    second_only: int  # cases that only the second gets right
    p_value: float  # two-sided, of the binomial distribution; 1 where both err on the same cases


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two classifiers call the same."""

    both_viral: int  # cases that both call viral
    first_viral: int  # cases that only the first calls viral
    second_viral: int  # cases that only the second calls viral
    both_host: int  # cases that both call host
    share: float  # of the cases that both call alike
    kappa: float | None  # Cohen's kappa, agreement beyond chance; None where both give the same call to all


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of the second less that of the first, with the 95 % interval over draws of groups that both share."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Pair:
    """Two classifiers on the same cases: all of them, or those of one length of chunk."""

    first: str
    second: str
    stratum: str
    second_minus_first: dict[str, Difference]
    mcnemar: McNemar
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Compared:
    """Classifiers on the cases of one level; of each all cases come first, then the strata."""

    level: str
    measured: dict[str, list[Measured]]
    pairs: list[Pair]
    pairs_by_chunk: list[Pair]


def as_json(found: Any) -> Any:
    """What was found, or what that is made of, as JSON; None for what is not defined."""
    if isinstance(found, Measured):
        about = {"by": found.by, "stratum": found.stratum, "groups": found.groups}
        return {**about, **with_intervals(found.metrics, found.intervals)}
    if isinstance(found, Interval):
        return found.to_json()
    if is_dataclass(found):
        return {field.name: as_json(getattr(found, field.name)) for field in fields(found)}
    if isinstance(found, dict):
        return {name: as_json(value) for name, value in found.items()}
    if isinstance(found, list):
        return [as_json(value) for value in found]
    return None if found != found else found


def compare(
    cases: Cases,
    probabilities: Mapping[str, Float64[np.ndarray, "m"]],
    *,
    thresholds: Mapping[str, float] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Compared:
    """Measure classifiers on the same cases, and on each stratum of them; calls are viral from 0.5 unless said."""
    chosen = {name: (thresholds or {}).get(name, THRESHOLD) for name in probabilities}
    drawn = _draw(cases, probabilities, chosen, replicates, seed)
    measured: dict[str, list[Measured]] = {}
    for name, (metrics, draws) in drawn.items():
        measured[name] = [Measured("all", "all", cases.groups, metrics, intervals_of(draws, cases.groups))]
        for by, stratum, kept in cases.parts():
            label, score, group = cases.label[kept], probabilities[name][kept], cases.group[kept]
            intervals = bootstrap_intervals(
                label, score, group, threshold=chosen[name], replicates=replicates, seed=seed
            )
            metrics = binary_metrics(label, score, chosen[name])
            measured[name].append(Measured(by, stratum, len(np.unique(group)), metrics, intervals))
    by_chunk: list[Pair] = []
    if len(probabilities) > 1:
        for _, stratum, kept in (part for part in cases.parts() if part[0] == "chunk"):
            some = cases.only(np.flatnonzero(kept))
            scores = {name: probability[kept] for name, probability in probabilities.items()}
            by_chunk += _pairs(some, scores, chosen, _draw(some, scores, chosen, replicates, seed), stratum)
    return Compared(cases.level, measured, _pairs(cases, probabilities, chosen, drawn, "all"), by_chunk)


_Drawn = Mapping[str, tuple[Metrics, Float64[np.ndarray, "metrics draws"]]]


def _draw(
    cases: Cases,
    probabilities: Mapping[str, Float64[np.ndarray, "m"]],
    thresholds: Mapping[str, float],
    replicates: int,
    seed: int,
) -> _Drawn:
    """The metrics of each classifier, and those of draws of groups, the same draws for all."""
    return {
        name: (
            binary_metrics(cases.label, probability, thresholds[name]),
            replicate_metrics(
                cases.label, probability, cases.group, cases.groups,
                threshold=thresholds[name], replicates=replicates, seed=seed,
            ),
        )
        for name, probability in probabilities.items()
    }  # fmt: skip


def _pairs(
    cases: Cases,
    probabilities: Mapping[str, Float64[np.ndarray, "m"]],
    thresholds: Mapping[str, float],
    drawn: _Drawn,
    stratum: str,
) -> list[Pair]:
    truth = cases.label == 1
    calls = {name: probability >= thresholds[name] for name, probability in probabilities.items()}
    pairs = []
    for first, second in combinations(probabilities, 2):
        (of_first, first_draws), (of_second, second_draws) = drawn[first], drawn[second]
        apart = intervals_of(second_draws - first_draws, cases.groups)
        differences = {name: Difference(of_second[name] - of_first[name], apart[name]) for name in NAMES}
        both = calls[first], calls[second]
        pairs.append(Pair(first, second, stratum, differences, mcnemar(truth, *both), agreement(*both)))
    return pairs


def mcnemar(truth: Bool[np.ndarray, "m"], first: Bool[np.ndarray, "m"], second: Bool[np.ndarray, "m"]) -> McNemar:
    """Test the calls of two classifiers against the truth."""
    first_right, second_right = first == truth, second == truth
    only = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    fewer, more = sorted(only)
    p_value = min(1.0, 2 * float(binom.cdf(fewer, fewer + more, 0.5))) if more else 1.0
    return McNemar(*only, p_value)


def agreement(first: Bool[np.ndarray, "m"], second: Bool[np.ndarray, "m"]) -> Agreement:
    """Compare the calls of two classifiers with each other."""
    same = bool(first.all() and second.all()) or not bool(first.any() or second.any())
    return Agreement(
        both_viral=int((first & second).sum()),
        first_viral=int((first & ~second).sum()),
        second_viral=int((~first & second).sum()),
        both_host=int((~first & ~second).sum()),
        share=float((first == second).mean()),
        kappa=None if same else float(cohen_kappa_score(first, second)),
    )
