from __future__ import annotations

import numpy as np
import pytest
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.speed import encoders
from vnp.speed.encoders import Point, best_budget, sweep
from vnp.speed.measure import Clock, Memory

CPU = torch.device("cpu")


def test_over_lengths(protein: BareModel) -> None:
    encoder = protein.encoder("fp32")
    points = sweep(protein, encoder, Memory(CPU), [(length, encoder.token_budget) for length in (8, 16)])
    assert [point.length for point in points] == [8, 16]
    assert all(point.error is None and point.tokens_per_second > 0 and point.tflops > 0 for point in points)
    assert points[0].sequences_per_second * 8 == pytest.approx(points[0].tokens_per_second)
    assert {point.budget for point in points} == {encoder.token_budget}


def test_over_budgets_fills_whole_batches(protein: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    right = TransformerEncoder.embed_ids

    def watched(self: TransformerEncoder, ids: list[np.ndarray]) -> np.ndarray:
        seen.append((self.token_budget, sum(map(len, ids))))
        return right(self, ids)

    monkeypatch.setattr(TransformerEncoder, "embed_ids", watched)
    encoder = protein.encoder("fp32")
    before = encoder.token_budget
    points = sweep(protein, encoder, Memory(CPU), [(20, 64), (20, 128)])
    assert [point.budget for point in points] == [64, 128]
    assert encoder.token_budget == before
    # Three sequences of 20 tokens fit into 64, and six into 128; enough batches for 512 tokens.
    assert set(seen) == {(64, 8 * 60), (128, 4 * 120)}


@pytest.mark.parametrize("how", ["the engine makes do with less", "it does not fit at all", "torch says so"])
def test_a_batch_that_does_not_fit_ends_the_sweep(
    protein: BareModel, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    right = TransformerEncoder.embed_ids

    def scarce(self: TransformerEncoder, ids: list[np.ndarray]) -> np.ndarray:
        if self.token_budget > 64:
            if how == "it does not fit at all":
                raise EncoderError("sequence 0 with 20 tokens does not fit in the memory of cuda:0")
            if how == "torch says so":
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.token_budget //= 2
        return right(self, ids)

    monkeypatch.setattr(TransformerEncoder, "embed_ids", scarce)
    encoder = protein.encoder("fp32")
    before = encoder.token_budget
    points = sweep(protein, encoder, Memory(CPU), [(20, budget) for budget in (32, 64, 128, 256)])
    assert [(point.budget, point.error) for point in points] == [(32, None), (64, None), (128, "out of memory")]
    assert encoder.token_budget == before
    assert best_budget(points) in (32, 64)


def test_the_smallest_that_is_nearly_best() -> None:
    points = [
        Point(102, budget, tokens_per_second=speed)
        for budget, speed in ((1, 500.0), (2, 991.0), (4, 1000.0), (8, 985.0))
    ]
    assert best_budget([*points, Point(102, 16, error="out of memory")]) == 2
    assert best_budget([Point(102, 16, error="out of memory")]) is None


def test_with_a_clock_it_ends_behind_the_best(protein: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    monkeypatch.setattr(encoders, "_point", lambda *given: Point(given[3], given[4], tokens_per_second=next(speeds)))
    steps = [(20, budget) for budget in (32, 64, 128, 256, 512)]
    points = sweep(protein, protein.encoder("fp32"), Memory(CPU), steps, Clock(600))
    assert [point.budget for point in points] == [32, 64, 128, 256]
    assert best_budget(points) == 64
    speeds = iter([1.0, 3.0])
    assert len(sweep(protein, protein.encoder("fp32"), Memory(CPU), steps, Clock(0))) == 1
