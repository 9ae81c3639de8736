from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from vnp.metrics.evidence import fit_evidence
from vnp.metrics.novelty import Novelty, fit_novelty, mean_distances
from vnp.metrics.reliability import (
    HIGH,
    LONG,
    LOW,
    MEDIUM,
    SUREST,
    Bin,
    Bins,
    Judgements,
    Measured,
    Reliability,
    fit_reliability,
    measure_levels,
)
from vnp.metrics.trust import Trust

WIDTH = 20


def training_rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of four classes and their classes; directions are not equally wide."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(9).normal(size=(4, WIDTH)) * 2
    group = random.integers(0, 4, 3000)
    return means[group] + random.normal(size=(3000, WIDTH)) * np.linspace(0.3, 2, WIDTH), group


def test_distance_is_the_relative_one_of_mahalanobis() -> None:
    rows, group = training_rows()
    found = fit_novelty(rows, group < 2, group)
    assert found is not None
    means = np.stack([rows[group == one].mean(axis=0) for one in range(4)])
    inside, whole = rows - means[group], rows - rows.mean(axis=0)
    within = inside.T @ inside / len(rows)
    little = np.eye(WIDTH) * 1e-3 * np.trace(within) / WIDTH

    def squared(difference: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(covariance + little)
        found: np.ndarray = np.einsum("ij,jk,ik->i", difference, inverse, difference)
        return found

    nearest = np.min([squared(rows - mean, within) for mean in means], axis=0)
    expected = nearest - squared(whole, whole.T @ whole / len(rows))
    np.testing.assert_allclose(found.distance(rows), expected, atol=0.02)
    apart = np.concatenate([found.distance(rows[:1]), found.distance(rows[1:])])
    assert np.array_equal(apart, found.distance(rows))


def test_without_groups_rows_between_classes_are_far() -> None:
    rows, group = training_rows()
    found = fit_novelty(rows, group < 2)
    assert found is not None
    between = (rows[group == 0][:500] + rows[group == 3][:500]) / 2
    assert np.median(found.distance(between)) > np.quantile(found.distance(rows), 0.9)


def test_percentiles_are_those_of_records_of_like_length() -> None:
    rows, group = training_rows()
    fitted = fit_novelty(rows, group < 2, group)
    assert fitted is not None
    distance = np.r_[np.linspace(0, 1, 200), np.linspace(10, 11, 200)]
    length = np.repeat([200, 2000], 200)
    found = fitted.measured(distance, length)
    asked = found.percentile(np.array([0.5, 0.5, 10.25, 99.0, np.nan]), np.array([200, 2000, 2000, 200, 200]))
    np.testing.assert_allclose(asked, [50, 0, 25, 100, np.nan], atol=1)
    again = Novelty.from_json(json.loads(json.dumps(found.to_json())))
    assert np.array_equal(again.percentile(distance, length), found.percentile(distance, length))
    assert np.array_equal(again.distance(rows), found.distance(rows))


def test_too_few_rows_have_no_novelty() -> None:
    rows, group = training_rows()
    assert fit_novelty(rows[:20], group[:20] < 2) is None
    assert fit_novelty(rows[group == 0], np.zeros((group == 0).sum(), bool), group[group == 0]) is None
    assert fit_novelty(np.ones((400, WIDTH)), np.arange(400) < 200) is None


@pytest.mark.parametrize(
    "change", [{"width": 7}, {"basis": "AAAA"}, {"lengths": [5]}, {"means": 3}, {"quantiles": "?"}]
)
def test_damaged_novelty_is_refused(change: dict[str, object]) -> None:
    rows, group = training_rows()
    fitted = fit_novelty(rows, group < 2, group)
    assert fitted is not None
    stored = fitted.measured(np.arange(50.0), np.full(50, 300)).to_json()
    with pytest.raises(ValueError, match=r"training looked like|[Bb]ase64|reshape|buffer|padding"):
        Novelty.from_json({**stored, **change})


def test_means_of_rows_by_owner() -> None:
    found = mean_distances(np.array([1, 3, 5], np.float16), np.array([0, 0, 2]), 3)
    np.testing.assert_array_equal(found, [2, np.nan, 5])


def held_out(count: int = 90_000) -> tuple[Judgements, np.ndarray]:
    """Calls, and whether they are wrong: the more often, the less sure; new ones anyhow."""
    random = np.random.default_rng(4)
    sure, novelty = random.uniform(0.5, 1, count), random.uniform(0, 100, count)
    length = random.choice([200, 800, 6000], count)
    wrong = random.random(count) < np.where(novelty > 95, 0.5, (1 - sure) * np.where(length == 200, 2, 0.5))
    return Judgements(length, sure, np.ones(count), novelty, random.random(count) < 0.5), wrong


def test_bins_keep_what_they_promise() -> None:
    calls, wrong = held_out()
    bins = fit_reliability(calls, wrong)
    chosen = Reliability(*bins, {}, "a", "b")
    measured = measure_levels(chosen.levels(calls), calls.viral, wrong)
    for name, limit in (("high", 0.02), ("medium", 0.1)):
        one = measured[name]
        assert one.viral_wrong is not None
        assert one.host_wrong is not None
        assert max(one.viral_wrong, one.host_wrong) <= limit
        assert one.share > 0.003
    assert measured["low"].wrong is not None
    assert measured["low"].wrong > 0.15
    assert sum(one.calls for one in measured.values()) == len(wrong)


def test_high_takes_a_sure_and_near_call_even_where_no_held_out_call_is_wrong() -> None:
    calls, wrong = held_out()
    near = np.where(calls.viral, calls.novelty, calls.novelty / 4)
    apart = Judgements(calls.length, calls.sure, calls.agreement, near, calls.viral)
    high, medium = fit_reliability(apart, np.zeros_like(wrong))
    assert medium.viral == medium.host == Bin(0, 0.5, 0.0, 100.0)
    assert high.viral is not None
    assert high.viral == Bin(LONG, SUREST, 0.0, high.viral.novelty)
    assert 64 <= high.viral.novelty <= 67
    assert high.host == Bin(LONG, SUREST, 0.0, 17.0)
    nothing = Judgements(calls.length, calls.sure, calls.agreement, np.full(len(wrong), np.nan), calls.viral)
    assert fit_reliability(nothing, np.zeros_like(wrong))[0] == Bins(None, None)


def test_a_group_that_is_often_wrong_narrows_the_bin() -> None:
    calls, wrong = held_out()
    group = np.where((calls.length == 6000) & (np.arange(len(wrong)) % 10 == 0), "odd", "other")
    often = wrong | ((group == "odd") & (np.random.default_rng(1).random(len(wrong)) < 0.3))
    wide, narrow = (fit_reliability(calls, often, one)[1] for one in (None, group))
    shares = [often[one.holds(calls) & (group == "odd")].mean() for one in (wide, narrow)]
    assert shares[0] > 0.25
    assert not shares[1] > 0.25


def test_each_call_has_a_bin_of_its_own() -> None:
    calls, wrong = held_out()
    wrong = np.where(calls.viral, wrong, np.random.default_rng(1).random(len(wrong)) < 0.5)
    high, medium = fit_reliability(calls, wrong)
    assert high.host is medium.host is None
    assert medium.viral is not None
    assert not medium.holds(calls)[~calls.viral].any()
    assert str(medium).endswith("host calls: never, no bin is as good as that")


def test_no_bin_is_good_where_there_are_few_or_all_are_wrong() -> None:
    calls, wrong = held_out()
    assert fit_reliability(calls.part(np.arange(60)), wrong[:60]) == (Bins(None, None), Bins(None, None))
    none = Reliability(*fit_reliability(calls, np.ones_like(wrong)), {}, "a", "b")
    assert (none.levels(calls) == LOW).all()
    assert "never" in none.sentences()[0]
    assert "never" in none.sentences()[1]


def levels_of(one: Reliability) -> list[int]:
    calls = Judgements(
        np.array([1000, 999, 1000, 1000, 1000, 1000, 299]),
        np.array([0.98, 0.99, 0.97, 0.99, 0.99, 0.99, 1.0]),
        np.array([0.8, 1, 1, 0.79, 1, 1, 1]),
        np.array([90, 0, 0, 0, 91, np.nan, 0]),
        np.array([True, False] * 3 + [True]),
    )
    found: list[int] = one.levels(calls).tolist()
    return found


def test_levels_are_by_all_bounds_and_unknown_novelty_is_new() -> None:
    high, medium = Bin(1000, 0.98, 0.8, 90), Bin(300, 0.9, 0.6, 100)
    one = Reliability(Bins(high, high), Bins(medium, medium), {}, "a", "b")
    assert levels_of(one) == [HIGH, MEDIUM, MEDIUM, MEDIUM, MEDIUM, MEDIUM, LOW]
    apart = Reliability(Bins(high, None), Bins(None, medium), {}, "a", "b")
    assert levels_of(apart) == [HIGH, MEDIUM, LOW, MEDIUM, LOW, MEDIUM, LOW]


def test_bins_of_earlier_versions_are_those_of_both_calls() -> None:
    high, medium = Bin(1000, 0.98, 0.8, 90), Bin(300, 0.9, 0.6, 100)
    new = Reliability(Bins(high, high), Bins(medium, medium), {}, "a", "b")
    stored = {name: value for name, value in new.to_json().items() if name != "unseen"}
    assert Reliability.from_json({**stored, "high": asdict(high), "medium": asdict(medium)}) == new
    assert Reliability.from_json({**stored, "high": None}).high == Bins(None, None)


def test_the_legend_says_what_is_wrong_on_groups_left_out() -> None:
    high = Bins(None, Bin(0, 0.99, 0, 20))
    unseen = {"fungi": Measured(200, 0.5, 0.015, None, None), "plant": Measured(0, 0.0, None, None, None)}
    one = Reliability(high, high, {}, "a", "b", unseen)
    assert (
        one.sentences()[-1]
        == "high calls wrong on groups that the training never saw: fungi 1.5% of 200 (50.0% of its calls), "
        "plant has none"
    )
    assert Reliability.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert len(Reliability(high, high, {}, "a", "b").sentences()) == 3


def test_trust_comes_back() -> None:
    calls, wrong = held_out()
    bins = fit_reliability(calls, wrong)
    level = Reliability(*bins, {}, "a", "b").levels(calls)
    reliability = Reliability(*bins, measure_levels(level, calls.viral, wrong), "validation", "test")
    rows, group = training_rows()
    fitted = fit_novelty(rows, group < 2, group)
    assert fitted is not None
    viral = np.arange(400) < 200
    evidence = fit_evidence(np.where(viral, 0.9, 0.1), np.full(400, 500), viral, np.arange(400) % 40 + 40 * viral)
    trust = Trust(0.3, fitted.measured(np.arange(50.0), np.full(50, 300)), reliability, evidence)
    again = Trust.from_json(json.loads(json.dumps(trust.to_json())))
    assert again.reliability == reliability
    assert again.prevalence == 0.3
    assert again.novelty is not None
    assert evidence is not None
    assert again.evidence is not None
    np.testing.assert_allclose(again.evidence.shares, evidence.shares, rtol=2e-3, atol=1e-6)
    assert not again.missing
    for nothing in (None, {}, {"prevalence": None}):
        assert Trust.from_json(nothing).missing.count(",") == 2
    with pytest.raises(ValueError, match="share of viruses"):
        Trust.from_json({"prevalence": 1.0})
    with pytest.raises((TypeError, ValueError)):
        Trust.from_json({"reliability": {"high": 3}})


@pytest.mark.parametrize("change", [{"draws": 3}, {"shares": "AAAA"}, {"shares": "?"}, {"lengths": None}])
def test_damaged_evidence_is_refused(change: dict[str, object]) -> None:
    viral = np.arange(40) < 20
    evidence = fit_evidence(np.full(40, 0.5), np.full(40, 500), viral, np.arange(40))
    assert evidence is not None
    with pytest.raises(ValueError, match=r"held-out records look|[Bb]ase64|padding|buffer"):
        Trust.from_json({"evidence": {**evidence.to_json(), **change}})
