from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.classifier.making import LAYOUT
from vnp.classifier.calibration import Calibration
from vnp.classifier.checkpoint import Checkpoint
from vnp.features.scores import Named, Scores
from vnp.metrics.reliability import HIGH, LOW, MEDIUM
from vnp.metrics.rules import aggregate
from vnp.prediction.calls import SHORT, UNSCORED, UNSURE, Found, Judges, decide, false_discovery_rate, judge
from vnp.prediction.options import PredictOptions
from vnp.prediction.scores import Batch
from vnp.report.calls import HOST, NO_CALL, VIRAL

CLASSIFIER = Checkpoint({}, LAYOUT, {}, 300, Calibration("temperature", 2.0))
JUDGES = Judges(CLASSIFIER, "best-frame")


def make_rows(keys: list[tuple[int, int, int]], probability: list[float], length: list[int] | None = None) -> Scores:
    """Rows whose calibrated probability is given; the raw one is further from one half."""
    record, chunk, frame = (np.array([key[i] for key in keys], np.int64) for i in range(3))
    p = np.clip(np.array(probability), 1e-12, 1 - 1e-12)
    logits = np.zeros((len(keys), 2), np.float32)
    logits[:, 1] = 2 * np.log(p / (1 - p))
    return Scores(
        record=record,
        chunk=chunk.astype(np.int32),
        frame=frame.astype(np.int8),
        start=np.zeros(len(keys), np.int64),
        end=np.array(length or [299] * len(keys), np.int64),
        logits=logits,
        novelty=np.full(len(keys), np.nan, np.float16),
    )


def make_batch(rows: Scores, first: int, last: int, length: int = 1500) -> Batch:
    """Records ``first`` to ``last`` with those of the rows that are of them."""
    count = last - first
    of = (rows.record >= first) & (rows.record < last)
    kept = Scores(*(getattr(rows, name)[of] for name in Scores.__slots__))
    names = [f"r{record}".encode() for record in range(first, last)]
    return Batch(
        Named(
            np.arange(first, last),
            names,
            np.full(count, length),
            np.full(count, 5, np.int32),
        ),
        kept,
    )


def random_rows(records: int, seed: int = 0) -> Scores:
    random = np.random.default_rng(seed)
    keys = [
        (record, chunk, frame)
        for record in range(records)
        for chunk in range(1, int(random.integers(1, 6)))
        for frame in range(int(random.integers(1, 5)))
    ]
    # Few values, so that ties come up.
    return make_rows(
        keys, (random.integers(0, 11, len(keys)) / 10).tolist(), random.integers(30, 301, len(keys)).tolist()
    )


def spans(batch: Batch, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(starts), np.int64), np.full(len(starts), 300, np.int64)


def find(rows: Scores, records: int, rule: str, borders: tuple[int, ...] = (), threshold: float = 0.5) -> Found:
    found = Found(records)
    for first, last in zip((0, *borders), (*borders, records), strict=True):
        batch = make_batch(rows, first, last)
        found.add(batch, Judges(CLASSIFIER, rule), lambda length, _by: np.full(len(length), threshold), spans)
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


@pytest.mark.parametrize("rule", ["best-frame", "length-weighted", "mean-logit"])
def test_records_are_the_same_however_they_come_in(rule: str) -> None:
    rows = random_rows(60)
    whole = find(rows, 60, rule)
    for borders in (tuple(range(1, 60)), (7, 30), (59,)):
        found = find(rows, 60, rule, borders)
        for name in ("probability", "score", "scored", "agreement", "viral", "by"):
            assert np.array_equal(getattr(found, name), getattr(whole, name), equal_nan=True), name
    keys = {(record, chunk) for record, chunk in zip(rows.record.tolist(), rows.chunk.tolist(), strict=True)}
    assert whole.scored.sum() == len(keys)


@pytest.mark.parametrize("rule", ["best-frame", "length-weighted"])
def test_records_follow_the_rule(rule: str) -> None:
    rows = random_rows(60)
    probability = 1 / (1 + np.exp(-rows.logits[:, 1].astype(float) / 2))
    expected = aggregate(probability, rows.record, rule=rule, length=rows.end - rows.start)
    assert find(rows, 60, rule).probability[expected.key] == pytest.approx(expected.probability)


def test_the_surest_frame_decides() -> None:
    rows = make_rows([(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0), (1, 1, 1)], [0.7, 0.1, 0.6, 0.125, 0.875])
    found = find(rows, 2, "best-frame", (1,))
    # In the second, both sides are as sure: viral.
    assert found.probability.tolist() == pytest.approx([0.1, 0.875])
    assert found.score.tolist() == pytest.approx([1 / 82, 49 / 50])
    assert found.scored.tolist() == [2, 1]
    _, chunks = Found(2).add(
        make_batch(rows, 0, 2), Judges(CLASSIFIER, "best-frame"), lambda length, _by: np.full(len(length), 0.5), spans
    )
    assert chunks.probability.tolist() == pytest.approx([0.1, 0.6, 0.875])
    assert chunks.frames.tolist() == [2, 1, 2]


def test_lengths_weigh_frames() -> None:
    found = find(make_rows([(0, 1, 0), (0, 2, 0)], [1.0, 0.0], [300, 100]), 1, "length-weighted")
    assert found.probability.tolist() == pytest.approx([0.75])
    assert found.score.tolist() == pytest.approx([0.75])


def test_log_odds_are_averaged_before_they_are_calibrated() -> None:
    found = find(make_rows([(0, 1, 0), (0, 2, 0)], [0.9, 0.2], [300, 100]), 1, "mean-logit")
    mean = (2 * np.log(9) + 2 * np.log(0.25)) / 2
    assert found.score.tolist() == pytest.approx([1 / (1 + np.exp(-mean))])
    assert found.probability.tolist() == pytest.approx([1 / (1 + np.exp(-mean / 2))])


def with_lengths(found: Found, length: list[int]) -> Found:
    found.length[:] = length
    return found


def test_calls_and_why_there_is_none() -> None:
    rows = make_rows([(0, 1, 0), (1, 1, 0), (2, 1, 0), (4, 1, 0)], [0.99, 0.6, 0.2, 0.95])
    found = with_lengths(find(rows, 5, "best-frame"), [400, 400, 400, 400, 90])
    plain = decide(found, 300, settings(), JUDGES)
    assert plain.call.tolist() == [VIRAL, VIRAL, HOST, NO_CALL, VIRAL]
    assert plain.why[3] == UNSCORED
    assert np.isnan(plain.fdr[3])
    assert plain.wrong == pytest.approx(0.01 + 0.4 + 0.05)
    strict = decide(found, 300, settings(max_fdr=0.1, min_length=100), JUDGES)
    assert strict.call.tolist() == [VIRAL, NO_CALL, HOST, NO_CALL, NO_CALL]
    assert strict.why[[1, 3, 4]].tolist() == [UNSURE, UNSCORED, SHORT]
    # What is too short takes no part in the rate of the others.
    assert strict.fdr[1] == pytest.approx((0.01 + 0.4) / 2)
    assert np.isnan(strict.fdr[4])


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, [VIRAL, VIRAL]), (1.0, [HOST, HOST])])
def test_thresholds_at_their_ends(threshold: float, expected: list[int]) -> None:
    find_at = partial(find, make_rows([(0, 1, 0), (1, 1, 0)], [1.0, 0.0]), 2, "best-frame")
    assert decide(find_at(threshold=threshold), 300, settings(), JUDGES).call.tolist() == expected


def test_agreement_counts_frames_that_say_the_same() -> None:
    keys = [(0, chunk, 0) for chunk in range(1, 5)]
    calls = decide(find(make_rows(keys, [0.99, 0.6, 0.4, 0.3]), 1, "best-frame"), 300, settings(), JUDGES)
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
    found = judge(np.array([length]), np.array([scored], np.int32), np.array([agreement], np.float32), 300)
    assert found.tolist() == [expected]
