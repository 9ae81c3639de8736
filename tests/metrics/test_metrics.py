from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from tests.comparison.making import predictions
from vnp.errors import FeatureError, UsageError
from vnp.metrics.metrics import (
    NAMES,
    binary_metrics,
    bootstrap_intervals,
    expected_calibration_error,
    replicate_metrics,
    with_intervals,
)
from vnp.metrics.rules import aggregate, chunk_keys


def test_metrics_of_a_case_worked_out_by_hand() -> None:
    label = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.int8)
    probability = np.array([0.9, 0.6, 0.2, 0.8, 0.4, 0.3, 0.1, 0.1])
    found = binary_metrics(label, probability)
    counts = (found.true_positives, found.false_positives, found.true_negatives, found.false_negatives)
    assert counts == (2, 1, 4, 1)
    assert (found.count, found.viral) == (8, 3)
    assert found["accuracy"] == pytest.approx(6 / 8)
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(2 / 3)
    assert found["mcc"] == pytest.approx((2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5))
    assert found["roc_auc"] == pytest.approx((5 + 4 + 2) / 15)
    assert found["pr_auc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.64 + 0.64 + 0.16 + 0.09 + 0.01 + 0.01) / 8)


def test_a_probability_on_the_threshold_is_a_viral_call() -> None:
    found = binary_metrics(np.array([1, 0], np.int8), np.array([0.7, 0.69]), threshold=0.7)
    assert (found.true_positives, found.true_negatives) == (1, 1)


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.9 predicted and half observed, 0.1 predicted and none observed.
    label = np.array([1, 0, 0, 0], np.int8)
    assert expected_calibration_error(label, np.array([0.9, 0.9, 0.1, 0.1])) == pytest.approx((0.4 + 0.1) / 2)
    assert expected_calibration_error(np.array([1, 0], np.int8), np.array([1.0, 0.0])) == 0


def test_one_class_defines_only_some_metrics() -> None:
    found = binary_metrics(np.ones(4, np.int8), np.array([0.9, 0.8, 0.2, 0.6]))
    assert found["recall"] == found["accuracy"] == 0.75
    assert all(np.isnan([found["roc_auc"], found["pr_auc"], found["mcc"]]))
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["roc_auc"] is None
    assert stored["recall"] == 0.75


@pytest.mark.parametrize(
    ("label", "probability", "message"),
    [
        ([], [], "no predictions"),
        ([1, -1, -1], [0.1, 0.2, 0.3], "2 of 3 predictions have no label"),
        ([1, 0], [0.1, np.nan], "row 1 is nan"),
        ([1, 0], [1.5, 0.1], "row 0 is 1.5"),
        ([1, 0], [0.5], "2 labels and 1 prob"),
    ],
)
def test_what_cannot_be_measured_is_said(label: list[int], probability: list[float], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        binary_metrics(np.array(label, np.int8), np.array(probability))
    with pytest.raises(FeatureError, match=message):
        bootstrap_intervals(np.array(label, np.int8), np.array(probability), np.zeros(len(label)))


def test_a_draw_of_every_group_once_gives_the_metrics_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    label, probability, group = predictions(3000, 20)
    monkeypatch.setattr(np.random, "default_rng", lambda _seed: _EveryGroupOnce())
    drawn = replicate_metrics(label, probability, group, 20, threshold=0.4, replicates=2, seed=0)
    point = binary_metrics(label, probability, threshold=0.4)
    for name, values in zip(NAMES, drawn, strict=True):
        assert values == pytest.approx(point[name], abs=1e-12), name


def test_draws_equal_metrics_of_the_drawn_rows() -> None:
    label, probability, group = predictions(900, 12, seed=3)
    probability = probability.round(2)  # many ties
    drawn = replicate_metrics(label, probability, group, 12, threshold=0.5, replicates=5, seed=7)
    random = np.random.default_rng(7)
    for column in range(5):
        chosen = random.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(group == one) for one in chosen])
        point = binary_metrics(label[rows], probability[rows])
        assert drawn[:, column] == pytest.approx([point[name] for name in NAMES], abs=1e-12, nan_ok=True)


def test_many_scores_share_ranks_without_moving_areas() -> None:
    label, probability, group = predictions(60_000, 40, seed=1)
    drawn = replicate_metrics(label, probability, group, 40, threshold=0.5, replicates=1, seed=11)
    chosen = np.random.default_rng(11).integers(40, size=40)
    weight = np.bincount(chosen, minlength=40)[group]
    area = reference.roc_auc_score(label, probability, sample_weight=weight)
    precision = reference.average_precision_score(label, probability, sample_weight=weight)
    assert drawn[NAMES.index("roc_auc"), 0] == pytest.approx(area, abs=2e-5)
    assert drawn[NAMES.index("pr_auc"), 0] == pytest.approx(precision, abs=2e-4)


def test_intervals_are_seeded_and_of_groups() -> None:
    label, probability, group = predictions(4000, 30)
    first = bootstrap_intervals(label, probability, group, replicates=200, seed=5)
    assert first == bootstrap_intervals(
        label, probability, [f"genome {one:02d}" for one in group], replicates=200, seed=5
    )
    assert first != bootstrap_intervals(label, probability, group, replicates=200, seed=6)
    by_row = bootstrap_intervals(label, probability, np.arange(len(label)), replicates=200, seed=5)
    point = binary_metrics(label, probability)
    for name in NAMES:
        assert first[name].low < first[name].high
    for name in ("accuracy", "roc_auc", "brier"):
        assert first[name].low < point[name] < first[name].high
        # Rows of a group err together here, so an interval over rows is far too narrow.
        assert first[name].high - first[name].low > 3 * (by_row[name].high - by_row[name].low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        right = random.random(80) < 0.8
        label = (np.arange(80) % 2).astype(np.int8)
        probability = np.where(right == (label == 1), 0.9, 0.1)
        found = bootstrap_intervals(label, probability, np.arange(80), replicates=200, seed=seed)["accuracy"]
        inside += found.low <= 0.8 <= found.high
    assert 34 <= inside <= 40


def test_one_group_has_no_interval() -> None:
    label, probability, _ = predictions(50, 4)
    found = bootstrap_intervals(label, probability, ["only"] * 50)
    assert all(np.isnan(one.low) and one.to_json() is None for one in found.values())
    assert json.dumps(with_intervals(binary_metrics(label, probability), found), allow_nan=False)


def test_the_surest_frame_decides_and_viral_wins_a_draw() -> None:
    record = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    chunk = np.array([1, 1, 2, 1, 1, 1, 1, 7], np.int32)
    probability = np.array([0.7, 0.2, 0.95, 0.25, 0.75, 0.6, 0.1, 0.5])
    chunks = aggregate(probability, chunk_keys(record, chunk))
    assert chunks.probability.tolist() == [0.2, 0.95, 0.75, 0.1, 0.5]
    assert chunks.frames.tolist() == [2, 1, 2, 2, 1]
    records = aggregate(probability, record)
    assert records.key.tolist() == [0, 1, 2, 3]
    assert records.probability.tolist() == [0.95, 0.75, 0.1, 0.5]
    assert records.best.tolist() == [2, 4, 6, 7]
    assert records.first.tolist() == [0, 3, 5, 7]


def test_virnucpros_rule_in_its_own_words() -> None:
    """Viral where the highest score of virus is at least the highest score of host."""
    random = np.random.default_rng(2)
    key, probability = random.integers(300, size=2000), random.random(2000).round(2)
    found = aggregate(probability, key)
    for one, score in zip(found.key, found.probability, strict=True):
        own = probability[key == one]
        assert (score >= 0.5) == (own.max() >= (1 - own).max())


def test_rows_need_not_be_in_order_and_the_mean_weighs_lengths() -> None:
    key = np.array([5, 2, 5, 2])
    found = aggregate(np.array([1.0, 0.5, 0.0, 0.1]), key, rule="length-weighted", length=np.array([300, 10, 100, 30]))
    assert found.key.tolist() == [2, 5]
    assert found.probability.tolist() == pytest.approx([(0.5 * 10 + 0.1 * 30) / 40, 0.75])
    assert found.first.tolist() == [1, 0]


def test_nothing_becomes_nothing_and_unknown_rules_are_refused() -> None:
    assert len(aggregate(np.empty(0), np.empty(0, np.int64))) == 0
    with pytest.raises(UsageError, match="median"):
        aggregate(np.array([0.1]), np.array([0]), rule="median")


class _EveryGroupOnce:
    def integers(self, high: int, size: int) -> np.ndarray:
        assert high == size
        return np.arange(size)
