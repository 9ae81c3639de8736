from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from vnp.speed.measure import Clock, Memory, choose_sample, embed_in_pieces, least_cosine, take_time

CPU = torch.device("cpu")


class Counting:
    """Embeds a sequence as its length, and notes what it was given."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, ids: Sequence[np.ndarray]) -> np.ndarray:
        self.calls.append([len(each) for each in ids])
        return np.array([[len(each), 1] for each in ids], np.float32)


def sequences(lengths: Sequence[int]) -> list[np.ndarray]:
    return [np.zeros(length, np.int64) for length in lengths]


def test_one_piece_is_warmed_up_and_repeated() -> None:
    run = Counting()
    found = take_time(run, sequences([3, 4]), [np.array([0, 1])], repeats=5, memory=Memory(CPU))
    assert run.calls == [[3, 4]] * 6
    assert len(found.seconds) == 5
    assert min(found.seconds) <= found.median <= max(found.seconds)
    assert (found.sequences, found.lengths.tolist(), found.peak_gib) == (2, [3, 4], None)


def test_a_slow_rival_is_timed_on_evenly_spaced_pieces() -> None:
    run = Counting()
    ids = sequences(range(1, 101))
    pieces = [np.array([i]) for i in range(100)]
    found = take_time(run, ids, pieces, repeats=2, memory=Memory(CPU), seconds=1e-9)
    assert found.lengths.tolist() == [1, 34, 67, 100]
    assert found.sequences == 4
    assert len(run.calls) == 1 + 4 + 2 * 4


def test_a_fast_rival_is_timed_on_everything() -> None:
    found = take_time(
        Counting(), sequences(range(1, 11)), [np.array([i]) for i in range(10)],
        repeats=2, memory=Memory(CPU), seconds=1e6,
    )  # fmt: skip
    assert found.sequences == 10


def test_no_round_is_begun_when_the_time_is_up() -> None:
    found = take_time(Counting(), sequences([3]), [np.array([0])], repeats=5, memory=Memory(CPU), clock=Clock(0))
    assert len(found.seconds) == 1


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


def test_pieces_come_back_in_the_order_of_the_sequences() -> None:
    found = embed_in_pieces(Counting(), sequences([5, 6, 7]), [np.array([2, 0]), np.array([1])])
    assert found[:, 0].tolist() == [5, 6, 7]


def test_least_cosine() -> None:
    a = np.array([[1, 0], [1, 1]], np.float32)
    b = np.array([[2, 0], [1, 0]], np.float32)
    assert least_cosine(a, b) == pytest.approx(0.5**0.5)
    assert np.isnan(least_cosine(a, np.array([[np.nan, 0], [1, 0]], np.float32)))
