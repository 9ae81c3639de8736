from __future__ import annotations

import numpy as np
import pytest

from vnp.errors import UsageError
from vnp.metrics.evidence import fit_evidence
from vnp.metrics.prevalence import FEWEST, Shares, at_prevalence, given_prevalence


def even_probabilities(share: float, count: int, seed: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that hold where half are viral."""
    random = np.random.default_rng(seed)
    viral = random.random(count) < share
    # Two bells of variance 4, 4 apart: the log-odds of even shares are the value itself.
    return viral, 1 / (1 + np.exp(-random.normal(np.where(viral, 2.0, -2.0), 2.0)))


def counted(probability: np.ndarray, before: float = 0.5, novelty: np.ndarray | None = None) -> Shares:
    shares = Shares()
    shares.add(probability, before, novelty)
    return shares


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("before", [0.5, 0.2])
def test_share_of_viruses_is_found_and_probabilities_follow_it(share: float, before: float) -> None:
    viral, even = even_probabilities(share, 40_000)
    held = at_prevalence(even, before)
    found = counted(held, before).estimate()
    assert found.share == pytest.approx(share, abs=0.01)
    assert found.low < viral.mean() < found.high
    assert found.high - found.low < 0.03
    assert not found.refused
    moved = at_prevalence(held, found.share, before)
    called = moved > 0.7
    assert (1 - moved[called]).sum() == pytest.approx((called & ~viral).sum(), rel=0.2, abs=6)
    np.testing.assert_allclose(at_prevalence(moved, before, found.share), held, atol=1e-12)


def test_the_share_is_where_expectation_maximisation_ends() -> None:
    _, even = even_probabilities(0.1, 500)
    share = 0.5
    for _ in range(2000):
        share = (at_prevalence(even, share).sum() + 1) / (len(even) + 2)
    assert counted(even).share() == pytest.approx(share, abs=1e-3)


def of_units(
    share: float, count: int, units: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, units, lengths, and probabilities that are some log-odds off in each unit."""
    viral = random.random(count) < share
    unit = random.integers(0, units, count) + units * viral
    odds = random.normal(np.where(viral, 2.0, -2.0), 2.0) + random.normal(0, 1.5, 2 * units)[unit]
    return viral, unit, np.full(count, 800), 1 / (1 + np.exp(-odds))


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_the_interval_knows_that_units_differ(share: float) -> None:
    random = np.random.default_rng(3)
    held = {True: 0, False: 0}
    for _ in range(8):
        viral, unit, length, even = of_units(0.5, 2000, 30, random)
        evidence = fit_evidence(even, length, viral, unit)
        other, _, length, even = of_units(share, 2000, 30, random)
        for known in held:
            shares = Shares()
            shares.add(even, 0.5, length=length, evidence=evidence if known else None)
            found = shares.estimate()
            assert found.units is known
            held[known] += found.low <= other.mean() <= found.high
    assert held[True] >= 6 > held[False]


def test_scores_that_no_share_explains_are_refused() -> None:
    random = np.random.default_rng(3)
    viral, unit, length, even = of_units(0.5, 2000, 300, random)
    evidence = fit_evidence(even, length, viral, unit)
    shares = Shares()
    # Held-out records are surer than that of what they are.
    shares.add(np.full(2000, 0.999), 0.5, length=length, evidence=evidence)
    shares.add(np.full(1000, 0.5), 0.5, length=length[:1000], evidence=evidence)
    assert shares.estimate().refused


def test_one_unit_of_a_label_is_no_evidence() -> None:
    viral = np.arange(100) < 50
    assert fit_evidence(np.full(100, 0.5), np.full(100, 500), viral, viral.astype(int)) is None


def test_batches_come_to_the_same() -> None:
    _, even = even_probabilities(0.3, 1000)
    shares = Shares()
    for part in np.array_split(even, 7):
        shares.add(part, 0.5)
    assert shares.estimate() == counted(even).estimate()


def test_few_records_are_refused() -> None:
    found = counted(np.array([0.1, 0.9, 0.8, 0.2, 0.3])).estimate()
    assert found.refused.startswith("5 records")
    assert str(FEWEST) in found.refused
    nothing = counted(np.zeros(0)).estimate()
    assert (nothing.low, nothing.high, nothing.records) == (0.0, 1.0, 0)
    assert nothing.share == pytest.approx(0.5)
    assert nothing.refused


def test_scores_that_tell_nothing_are_refused() -> None:
    assert "do not tell" in counted(np.random.default_rng(0).normal(0.5, 0.02, 200)).estimate().refused


@pytest.mark.parametrize(("far", "refused"), [(0.1, False), (0.6, True)])
def test_records_unlike_training_are_refused(far: float, refused: bool) -> None:
    _, even = even_probabilities(0.3, 1000)
    novelty = np.where(np.arange(1000) < far * 1000, 99.0, 50.0)
    assert ("farther" in counted(even, 0.5, novelty).estimate().refused) is refused


def test_certain_probabilities_do_no_harm() -> None:
    sure = np.r_[np.zeros(90), np.ones(10)]
    assert counted(sure).share() == pytest.approx(11 / 102, abs=1e-3)
    assert at_prevalence(np.array([0.0, 1.0]), 0.01).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("text", "found"), [("auto", "auto"), ("none", "none"), ("0.05", 0.05)])
def test_what_users_say(text: str, found: str | float) -> None:
    assert given_prevalence(text) == found


@pytest.mark.parametrize("text", ["0", "1", "nan", "-0.1", "inf", "5%", "", "Auto"])
def test_shares_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="above 0 and below 1"):
        given_prevalence(text)
