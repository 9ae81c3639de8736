from __future__ import annotations

import numpy as np
import pytest

from vnp.metrics.rules import aggregate
from vnp.prediction.calls import SHORT, UNSCORED, UNSURE, Tally, decide, false_discovery_rate, judge, score_chunks
from vnp.prediction.options import PredictOptions
from vnp.prediction.scores import Batch
from vnp.report.calls import HIGH, HOST, LOW, MEDIUM, NO_CALL, VIRAL


def make_batch(keys: list[tuple[int, int, int]], probability: list[float], length: list[int] | None = None) -> Batch:
    record, chunk, frame = (np.array([key[i] for key in keys], np.int64) for i in range(3))
    p = np.array(probability)
    return Batch(
        ids=[f"r{r}_chunk_{c}F{f}".encode() for r, c, f in keys],
        record=record,
        chunk=chunk.astype(np.int32),
        frame=frame.astype(np.int8),
        start=np.zeros(len(keys), np.int64),
        end=np.array(length or [299] * len(keys), np.int64),
        score=p**2,
        probability=p,
    )


def random_batch(records: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    keys = [
        (record, chunk, frame)
        for record in range(records)
        for chunk in range(1, int(random.integers(1, 6)))
        for frame in range(int(random.integers(1, 5)))
    ]
    # Few values, so that ties come up.
    return make_batch(
        keys, (random.integers(0, 11, len(keys)) / 10).tolist(), random.integers(30, 301, len(keys)).tolist()
    )


def tally(batch: Batch, records: int, rule: str, borders: tuple[int, ...] = ()) -> Tally:
    found = Tally(records, rule, 0.5)
    for first, last in zip((0, *borders), (*borders, len(batch)), strict=True):
        part = batch.part(first, last)
        found.add(part, score_chunks(part, rule))
    return found


def settings(**changes: object) -> PredictOptions:
    return PredictOptions("model.pth", "0" * 64, "1664", **{"threshold": 0.5, **changes})  # type: ignore[arg-type]


def test_fdr_is_the_running_mean_from_the_most_probable_down() -> None:
    probability = np.array([0.2, 0.9, 0.6, 0.99])
    assert false_discovery_rate(probability) == pytest.approx(
        [(0.01 + 0.1 + 0.4 + 0.8) / 4, (0.01 + 0.1) / 2, (0.01 + 0.1 + 0.4) / 3, 0.01]
    )


def test_fdr_does_not_depend_on_the_order_of_the_input() -> None:
    random = np.random.default_rng(1)
    probability = random.integers(0, 8, 200) / 7
    rate = false_discovery_rate(probability)
    order = random.permutation(200)
    assert np.array_equal(false_discovery_rate(probability[order]), rate[order])
    for value in np.unique(probability):
        at_least = probability >= value
        assert rate[probability == value] == pytest.approx(np.mean(1 - probability[at_least]))


def test_fdr_of_nothing() -> None:
    assert len(false_discovery_rate(np.empty(0))) == 0


@pytest.mark.parametrize("rule", ["best-frame", "length-weighted"])
def test_records_are_the_same_however_rows_come_in(rule: str) -> None:
    batch = random_batch(60)
    edges = np.flatnonzero(np.diff(batch.record * 100 + batch.chunk)) + 1
    whole = tally(batch, 60, rule)
    for pick in (edges.tolist(), edges[::7].tolist(), edges[3:4].tolist()):
        found = tally(batch, 60, rule, tuple(pick))
        for name in ("probability", "score", "scored", "frames", "viral_frames"):
            assert np.allclose(getattr(found, name), getattr(whole, name), equal_nan=True), name
    expected = aggregate(
        batch.probability, batch.record, rule="best" if rule == "best-frame" else "mean", length=batch.length
    )
    assert whole.probability[expected.key] == pytest.approx(expected.probability)
    assert whole.scored.sum() == len(score_chunks(batch, rule).chunk)


def test_the_surest_frame_decides() -> None:
    batch = make_batch([(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0), (1, 1, 1)], [0.7, 0.1, 0.6, 0.2, 0.8])
    found = tally(batch, 2, "best-frame", (2, 3))
    # In the second, both sides are as sure: viral.
    assert found.probability.tolist() == [0.1, 0.8]
    assert found.score.tolist() == pytest.approx([0.01, 0.64])
    assert found.scored.tolist() == [2, 1]
    chunks = score_chunks(batch, "best-frame")
    assert chunks.probability.tolist() == [0.1, 0.6, 0.8]


def test_lengths_weigh_frames() -> None:
    batch = make_batch([(0, 1, 0), (0, 2, 0)], [1.0, 0.0], [300, 100])
    found = tally(batch, 1, "length-weighted", (1,))
    assert found.probability.tolist() == pytest.approx([0.75])
    assert found.score.tolist() == pytest.approx([0.75])


def test_calls_and_why_there_is_none() -> None:
    batch = make_batch([(0, 1, 0), (1, 1, 0), (2, 1, 0), (4, 1, 0)], [0.99, 0.6, 0.2, 0.95])
    found = tally(batch, 5, "best-frame")
    length = np.array([400, 400, 400, 400, 90])
    plain = decide(found, length, 300, settings())
    assert plain.call.tolist() == [VIRAL, VIRAL, HOST, NO_CALL, VIRAL]
    assert plain.why[3] == UNSCORED
    assert np.isnan(plain.fdr[3])
    strict = decide(found, length, 300, settings(max_fdr=0.1, min_length=100))
    assert strict.call.tolist() == [VIRAL, NO_CALL, HOST, NO_CALL, NO_CALL]
    assert strict.why[[1, 3, 4]].tolist() == [UNSURE, UNSCORED, SHORT]
    # What is too short takes no part in the rate of the others.
    assert strict.fdr[1] == pytest.approx((0.01 + 0.4) / 2)
    assert np.isnan(strict.fdr[4])


def test_thresholds_at_their_ends() -> None:
    found = tally(make_batch([(0, 1, 0), (1, 1, 0)], [1.0, 0.0]), 2, "best-frame")
    length = np.array([300, 300])
    assert decide(found, length, 300, settings(threshold=0.0)).call.tolist() == [VIRAL, VIRAL]
    assert decide(found, length, 300, settings(threshold=1.0)).call.tolist() == [VIRAL, HOST]
    assert decide(found, length, 300, settings(max_fdr=0.0)).call.tolist() == [VIRAL, HOST]


def test_agreement_counts_frames_that_say_the_same() -> None:
    keys = [(0, chunk, 0) for chunk in range(1, 5)]
    found = tally(make_batch(keys, [0.99, 0.6, 0.4, 0.3]), 1, "best-frame")
    calls = decide(found, np.array([1200]), 300, settings())
    assert calls.call.tolist() == [VIRAL]
    assert calls.agreement.tolist() == [0.5]
    assert calls.reliability.tolist() == [LOW]


@pytest.mark.parametrize(
    ("length", "scored", "agreement", "expected"),
    [
        (900, 3, 0.8, HIGH),
        (900, 3, 0.79, MEDIUM),
        (900, 2, 1.0, MEDIUM),
        (900, 3, 0.59, LOW),
        (900, 3, 0.6, MEDIUM),
        (149, 3, 1.0, LOW),
        (150, 3, 1.0, HIGH),
        (900, 0, float("nan"), -1),
    ],
)
def test_reliability_is_a_plain_rule(length: int, scored: int, agreement: float, expected: int) -> None:
    found = judge(np.array([length]), np.array([scored], np.int32), np.array([agreement]), 300)
    assert found.tolist() == [expected]
