from __future__ import annotations

import numpy as np
import pytest
import torch

from vnp.encoders.measured import cosines
from vnp.speed.measure import Clock, Memory, choose_sample, take_time

CPU = torch.device("cpu")


def test_a_round_is_warmed_up_and_repeated() -> None:
    calls: list[int] = []
    found = take_time(lambda: calls.append(1), 5, Memory(CPU))
    assert (len(calls), len(found)) == (6, 5)
    assert min(found) >= 0
    assert Memory(CPU).peak_gib is None


def test_no_round_is_begun_when_the_time_is_up() -> None:
    assert len(take_time(lambda: None, 5, Memory(CPU), Clock(0))) == 1


def test_clock_is_shared_out() -> None:
    clock = Clock(1000)
    assert 490 < clock.share(2).left <= 500
    assert Clock(-5).left == 0


def test_sample_has_the_extremes() -> None:
    lengths = np.arange(500)[::-1].copy()
    lengths[[7, 300]] = 9_999, -1
    chosen = choose_sample(lengths, 200)
    assert len(chosen) == len(set(chosen.tolist())) == 200
    assert {7, 300} <= set(chosen.tolist())
    assert choose_sample(np.array([4]), 200).tolist() == [0]
    assert choose_sample(np.array([4, 4]), 200).tolist() == [0, 1]


def test_cosines() -> None:
    a = np.array([[1, 0], [1, 1]], np.float32)
    b = np.array([[2, 0], [1, 0]], np.float32)
    assert cosines(a, b) == pytest.approx([1, 0.5**0.5])
    assert np.isnan(cosines(a, np.array([[np.nan, 0], [1, 0]], np.float32))[0])


def test_what_all_rows_have_in_common_hides_no_difference() -> None:
    common, own = np.full(8, 100.0, np.float32), np.eye(8, dtype=np.float32)
    swapped = common + own[::-1]
    assert cosines(common + own, swapped).min() > 0.9999
    apart = cosines(common + own, swapped, apart=True)
    # Of two different unit vectors without their mean: -(1/8) / (7/8).
    assert apart == pytest.approx(np.full(8, -1 / 7), rel=1e-4)
    assert cosines(common + own, 3 * own, apart=True) == pytest.approx(np.ones(8))
