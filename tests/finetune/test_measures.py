"""Calibration and accuracy against what they must be by definition."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vnp.encoders.models.sixframe import KINDS
from vnp.errors import WeightsError
from vnp.finetune.calibration import LengthCalibration, calibration_error, fit
from vnp.finetune.folder import Contigs, calibrate, measure_contigs
from vnp.finetune.genomes import TEST, TRAIN, Genomes
from vnp.finetune.measure import cut, kind_of, recall_at, roc_auc
from vnp.finetune.split import folds


def test_roc_auc_is_that_of_scikit_learn_with_ties() -> None:
    random = np.random.default_rng(0)
    viral = random.random(500) < 0.4
    score = np.round(random.normal(size=500) + viral, 1)
    assert roc_auc(viral, score) == pytest.approx(roc_auc_score(viral, score), abs=1e-12)
    assert np.isnan(roc_auc(np.ones(3, np.bool_), np.arange(3.0)))


def test_recall_is_at_the_specificity_asked_for() -> None:
    viral = np.array([False] * 100 + [True] * 4)
    score = np.concatenate((np.arange(100.0), [50.0, 98.0, 99.5, 120.0]))
    assert recall_at(viral, score, 0.99) == 0.5
    assert recall_at(viral, score, 0.4) == 1.0


@pytest.mark.parametrize(("length", "windows"), [(1, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 3), (99_999, 50)])
def test_windows_cover_a_record_and_are_full(length: int, windows: int) -> None:
    starts = cut(length, 2000)
    assert len(starts) == windows
    assert starts[0] == 0
    if windows > 1:
        assert starts[-1] == length - 2000
        assert np.diff(starts).max() <= 2000
        assert np.diff(starts).min() > 0


def test_calibration_finds_what_the_odds_mean_at_every_length() -> None:
    random = np.random.default_rng(1)
    count = 60_000
    length = np.exp(random.uniform(np.log(150), np.log(30_000), count)).astype(np.int64)
    slope = 0.5 + 0.2 * np.log(length / 150)
    logit = random.normal(0, 3, count) + 1.0
    viral = random.random(count) < 1 / (1 + np.exp(-slope * (logit - 1.0)))
    # Labels are weighed alike between knots, and so they are here.
    calibration = fit(viral, logit, length)
    raw, found = 1 / (1 + np.exp(-logit)), calibration.probability(logit, length)
    for low, high in ((150, 300), (300, 1000), (1000, 5000), (5000, 30_000)):
        some = (length >= low) & (length < high)
        assert calibration_error(viral[some], found[some]) < 0.02
        assert calibration_error(viral[some], raw[some]) > 0.05
    assert all(np.diff(calibration.slopes) > 0)


def test_probability_grows_with_the_odds_and_is_flat_beyond_the_knots() -> None:
    calibration = LengthCalibration((100, 1000), (0.5, 1.5), (0.0, 1.0))
    lengths = np.array([10, 100, 1000, 10**9])
    found = calibration.probability(np.ones(4), lengths)
    assert found[0] == found[1] < found[2] == found[3]
    middle = calibration.probability(np.array([2.0]), np.array([316]))
    assert middle[0] == pytest.approx(1 / (1 + np.exp(-2.5)), abs=2e-3)


@pytest.mark.parametrize(
    "change", [{"knots": [3, 2]}, {"slopes": [1.0]}, {"offsets": [float("nan"), 0.0]}, {"knots": 5}]
)
def test_damaged_calibrations_are_refused(change: dict[str, object]) -> None:
    whole = LengthCalibration((100, 1000), (0.5, 1.5), (0.0, 1.0))
    assert LengthCalibration.from_json(whole.to_json()) == whole
    with pytest.raises(WeightsError):
        LengthCalibration.from_json({**whole.to_json(), **change})


def test_likeliest_kind_goes_with_the_call() -> None:
    logits = np.zeros((2, len(KINDS)), np.float32)
    logits[:, KINDS.index("plasmid")] = 5
    logits[:, KINDS.index("phage")] = 1
    found = kind_of(logits, np.array([True, False]))
    assert [KINDS[at] for at in found] == ["phage", "plasmid"]


def test_contigs_are_judged_by_calibrations_that_have_not_seen_their_units(genomes: Genomes) -> None:
    random = np.random.default_rng(8)
    known = np.flatnonzero(genomes.part != TRAIN)
    record = random.choice(known, 4000)
    logit = np.where(genomes.viral[record], 3.0, -3.0) + random.normal(0, 1, 4000)
    # The last fold's labels contradict all others: a fit that knew it would be less sure.
    odd = folds(genomes)[record] == folds(genomes)[known].max()
    contigs = Contigs(record, random.integers(150, 300, 4000), np.where(odd, -logit, logit), np.zeros(4000, np.int64))
    shipped, presets = calibrate(genomes, contigs)
    found = measure_contigs(genomes, contigs)["150-300"]
    tested = genomes.part[record] == TEST
    assert found["contigs"] == tested.sum()
    assert found["accuracy"] == pytest.approx(1 - odd[tested].mean(), abs=0.02)
    hosts = ~genomes.viral[record] & tested
    for name in presets:
        called = shipped.probability(contigs.logit, contigs.length) >= presets[name].of(contigs.length)
        assert found["specificity"][name] < 1 - called[hosts].mean() - 0.02


def test_contigs_that_no_other_unit_tells_of_are_not_judged(genomes: Genomes) -> None:
    record = np.flatnonzero((genomes.part == TEST) & genomes.viral)[:1].repeat(20)
    alone = Contigs(record, np.full(20, 200), np.ones(20), np.zeros(20, np.int64))
    assert measure_contigs(genomes, alone) == {}
