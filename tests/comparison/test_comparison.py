from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.comparison.making import frames
from vnp.comparison._cases import lift, make_cases
from vnp.comparison.comparison import agreement, compare, mcnemar


def test_mcnemar_is_the_exact_binomial_test() -> None:
    truth = np.ones(40, bool)
    first = np.arange(40) >= 3
    second = np.arange(40) < 28
    found = mcnemar(truth, first, second)
    assert (found.first_only, found.second_only) == (12, 3)
    assert found.p_value == pytest.approx(binomtest(3, 15, 0.5).pvalue)
    assert mcnemar(truth, first, first).p_value == 1
    tied = mcnemar(np.array([True, True]), np.array([True, False]), np.array([False, True]))
    assert tied.p_value == 1


def test_agreement_by_hand() -> None:
    found = agreement(np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 1, 0, 1, 0, 0], bool))
    assert (found.both_viral, found.first_viral, found.second_viral, found.both_host) == (2, 1, 1, 2)
    assert found.share == pytest.approx(4 / 6)
    assert found.kappa == pytest.approx((4 / 6 - 0.5) / 0.5)
    assert agreement(np.ones(3, bool), np.ones(3, bool)).kappa is None


def test_a_difference_is_paired() -> None:
    """Two classifiers that err on the same groups differ by little, whatever each interval is."""
    random = np.random.default_rng(0)
    found = frames(200, per_chunk=2, chunks=2)
    hardness = random.normal(scale=2, size=200)[found.record]
    margin = np.where(found.label[found.record] == 1, 1.0, -1.0) + hardness
    scores = {
        "good": 1 / (1 + np.exp(-(margin + 0.2 * (2 * found.label[found.record] - 1)))),
        "fair": 1 / (1 + np.exp(-margin)),
    }
    cases = make_cases(found, "frame")
    compared = compare(cases, scores, replicates=300, seed=1)
    pair = compared.pairs[0]
    assert (pair.first, pair.second) == ("good", "fair")
    for metric in ("accuracy", "roc_auc"):
        apart = pair.second_minus_first[metric]
        good, fair = (compared.measured[name][0].metrics[metric] for name in scores)
        assert apart.value == pytest.approx(fair - good)
        assert apart.interval.low <= apart.value <= apart.interval.high < 0
        own = compared.measured["good"][0].intervals[metric]
        assert apart.interval.high - apart.interval.low < 0.5 * (own.high - own.low)


def test_the_same_scores_differ_by_nothing() -> None:
    found = frames(20)
    score = np.random.default_rng(1).random(len(found))
    compared = compare(make_cases(found, "frame"), {"a": score, "b": score}, replicates=50)
    pair = compared.pairs[0]
    for apart in pair.second_minus_first.values():
        assert apart.value == apart.interval.low == apart.interval.high == 0
    assert (pair.mcnemar.first_only, pair.mcnemar.p_value, pair.agreement.share) == (0, 1, 1)


def test_every_stratum_is_measured_and_thresholds_are_each_ones_own() -> None:
    found = frames(12)
    label = found.label[found.record]
    scores = {"low": np.where(label == 1, 0.4, 0.1), "high": np.where(label == 1, 0.9, 0.6)}
    thresholds = {"low": 0.3, "high": 0.8}
    compared = compare(make_cases(found, "record"), {k: lift(found, v, "record") for k, v in scores.items()},
                       thresholds=thresholds, replicates=50)  # fmt: skip
    for name in scores:
        whole = compared.measured[name][0]
        assert (whole.by, whole.metrics["accuracy"], whole.groups) == ("all", 1, 6)
        strata = {(one.by, one.stratum): one for one in compared.measured[name][1:]}
        assert strata["organism", "viral"].metrics["recall"] == 1
        assert np.isnan(strata["organism", "viral"].metrics["roc_auc"])
        assert strata["length", "1,000 to 2,999 bp"].metrics.count == 2
    assert compared.pairs[0].mcnemar.p_value == 1
    assert (
        compare(make_cases(found, "record"), {"one": lift(found, scores["low"], "record")}, replicates=10).pairs == []
    )
