from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from vnp.classifier.calibration import Calibration, fit_calibration, log_loss, logistic
from vnp.errors import FeatureError


def drawn(rows: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds that are too large by ``scale``, labels that follow the right ones, and groups of ten rows."""
    chance = np.random.default_rng(seed)
    right = chance.normal(0, 2, rows)
    label = (chance.random(rows) < logistic(right)).astype(np.int8)
    return right * scale, label, np.arange(rows) // 10


def test_temperature_finds_the_scale() -> None:
    margin, label, group = drawn(20_000, 3.0)
    found = fit_calibration(margin, label, group, kind="temperature")
    assert found.temperature == pytest.approx(3.0, rel=0.06)
    assert log_loss(label, found.apply(margin)) < log_loss(label, logistic(margin))


def test_auto_takes_temperature_where_it_is_right_and_isotonic_where_the_curve_bends() -> None:
    margin, label, group = drawn(3_000, 2.0)
    assert fit_calibration(margin, label, group).kind == "temperature"
    chance = np.random.default_rng(1)
    margin = chance.normal(0, 3, 20_000)
    label = (chance.random(20_000) < np.where(margin < 0, 0.3, 0.6)).astype(np.int8)
    found = fit_calibration(margin, label, np.arange(20_000) // 10)
    assert found.kind == "isotonic"
    losses = dict(found.log_loss)
    assert losses["isotonic"] < losses["temperature"]


def test_the_choice_is_made_on_groups_that_were_held_out() -> None:
    """All rows of a group are alike: isotonic can learn them by heart, and only held-out groups show that."""
    chance = np.random.default_rng(3)
    label = np.repeat(chance.permutation(np.arange(20) % 2), 50).astype(np.int8)
    margin = np.repeat(chance.normal(size=20), 50) + (label * 2 - 1)
    group = np.repeat(np.arange(20), 50)
    isotonic = fit_calibration(margin, label, group, kind="isotonic")
    temperature = fit_calibration(margin, label, group, kind="temperature")
    assert log_loss(label, isotonic.apply(margin)) < log_loss(label, temperature.apply(margin))
    chosen = fit_calibration(margin, label, group)
    assert chosen.kind == "temperature"
    assert dict(chosen.log_loss)["isotonic"] > log_loss(label, isotonic.apply(margin))


def test_too_few_groups_to_hold_out_take_temperature() -> None:
    margin, label, _ = drawn(100, 1.0)
    found = fit_calibration(margin, label, label.astype(np.int64))
    assert (found.kind, found.log_loss) == ("temperature", ())


@pytest.mark.parametrize("kind", ["none", "temperature", "isotonic"])
def test_probabilities_rise_stay_inside_and_survive_json(kind: str) -> None:
    margin, label, group = drawn(500, 2.0)
    found = fit_calibration(margin, label, group, kind=kind)  # type: ignore[arg-type]
    again = Calibration.from_dict(json.loads(json.dumps(asdict(found))))
    assert again == found
    grid = np.linspace(-1e4, 1e4, 100_001)
    probability = again.apply(grid)
    assert (np.diff(probability) >= 0).all()
    assert 0 <= probability.min() <= probability.max() <= 1
    if kind == "isotonic":
        assert 0 < probability.min() < probability.max() < 1
    assert np.isfinite(log_loss(label, again.apply(margin)))


def test_the_offset_of_balanced_training_is_taken_back() -> None:
    margin, label, group = drawn(20_000, 1.0)
    shifted = fit_calibration(margin + 2.0, label, group, kind="temperature", offset=2.0)
    plain = fit_calibration(margin, label, group, kind="temperature")
    assert np.allclose(shifted.apply(margin + 2.0), plain.apply(margin))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "platt"},
        {"temperature": 0},
        {"temperature": "hot"},
        {"kind": "isotonic"},
        {"kind": "isotonic", "margins": [0, 1], "probabilities": [0.9, 0.1]},
        {"kind": "isotonic", "margins": [0, 1], "probabilities": [0.1]},
        {"kind": "isotonic", "margins": [0.0, float("nan")], "probabilities": [0.1, 0.2]},
        {"margins": None},
    ],
)
def test_what_is_no_calibration_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FeatureError, match="not a calibration"):
        Calibration.from_dict({**asdict(Calibration()), **change})
