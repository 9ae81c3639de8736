"""Thresholds that leave so many hosts alone."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from vnp.metrics.presets import SPECIFICITIES, measure_presets, presets_from_json


def records(hosts: int, length: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As many viruses as hosts; the hosts' probabilities are evenly spread below 0.8."""
    random = np.random.default_rng(seed)
    probability = np.r_[np.linspace(0, 0.8, hosts), random.uniform(0.5, 1, hosts)]
    return probability, np.arange(2 * hosts) >= hosts, np.full(2 * hosts, length)


@pytest.mark.parametrize(
    ("hosts", "names"), [(19, []), (20, ["relaxed"]), (100, ["relaxed", "default"]), (1000, [*SPECIFICITIES])]
)
def test_a_preset_needs_as_many_hosts_as_could_show_one_wrong(hosts: int, names: list[str]) -> None:
    probability, viral, length = records(hosts)
    found = measure_presets(probability, viral, length)
    assert list(found) == names
    for name, preset in found.items():
        wrong = (probability[~viral] >= preset.of(length[~viral])).mean()
        assert wrong == pytest.approx(1 - SPECIFICITIES[name], abs=1e-9)
        assert preset.specificity == pytest.approx(SPECIFICITIES[name], abs=1e-9)


def test_the_default_is_never_under_one_half() -> None:
    probability, viral, length = records(1000)
    found = measure_presets(probability * 0.1, viral, length)
    assert found["relaxed"].thresholds[0] < 0.5
    assert found["default"].thresholds == (0.5,)
    assert found["conservative"].thresholds == (0.5,)
    assert found["default"].specificity == 1


def test_classes_of_lengths_have_their_own_threshold() -> None:
    short, long = records(1000, 299), records(1000, 5000)
    probability = np.r_[short[0], long[0] * 0.9]
    viral, length = np.r_[short[1], long[1]], np.r_[short[2], long[2]]
    preset = measure_presets(probability, viral, length)["relaxed"]
    low, high = preset.of(np.array([150, 300]))
    assert high == pytest.approx(0.9 * low)
    for one in (299, 5000):
        hosts = ~viral & (length == one)
        assert (probability[hosts] >= preset.of(length[hosts])).mean() == pytest.approx(0.05)


def test_hosts_that_are_all_sure_leave_nothing_to_call() -> None:
    found = measure_presets(np.ones(100), np.zeros(100, bool), np.full(100, 500))
    assert found["default"].thresholds == (1.0,)
    assert found["default"].specificity == 0


def test_presets_come_back_from_json() -> None:
    found = measure_presets(*records(1000))
    assert presets_from_json({name: asdict(preset) for name, preset in found.items()}) == found


@pytest.mark.parametrize(
    "change",
    [{"thresholds": [0.5, 0.6]}, {"thresholds": [1.5]}, {"lengths": [500, 300], "thresholds": [0.1, 0.2, 0.3]}],
)
def test_presets_that_cannot_be_are_refused(change: dict[str, list[float]]) -> None:
    stored = {"lengths": [], "thresholds": [0.5], "specificity": 0.99, **change}
    with pytest.raises(ValueError, match="default"):
        presets_from_json({"default": stored})
