"""What the page of a comparison says in words, against its numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.comparison.making import frames
from vnp.comparison._cases import make_cases
from vnp.comparison.comparison import Compared, compare
from vnp.comparison.page import in_words, page
from vnp.comparison.results import Results, Section
from vnp.report.plots import Series

FOUND = frames(120)


def compared(*, alike: bool = True, **skill: float) -> Compared:
    """Classifiers of some skill that err on the same frames, or on others."""
    random = np.random.default_rng(0)
    sign = 2.0 * FOUND.label[FOUND.record] - 1
    noise = {name: random.normal(size=len(FOUND)) for name in skill}
    first = next(iter(noise.values()))
    scores = {
        name: 1 / (1 + np.exp(-(sign * much + (first if alike else noise[name])))) for name, much in skill.items()
    }
    return compare(make_cases(FOUND, "frame"), scores, replicates=100, seed=1)


def test_what_is_certainly_better_is_said_with_its_interval() -> None:
    found = compared(poor=0.1, good=2.0)
    *each, difference = in_words(found)
    assert difference.startswith("good is better than poor, and that is certain.")
    told = found.pairs[0].second_minus_first["roc_auc"]
    assert f"ROC-AUC {told.value:+.3f} [{told.interval.low:+.3f}, {told.interval.high:+.3f}]" in difference
    whole = found.measured["poor"][0].metrics
    assert f"poor calls {whole['accuracy']:.1%} of {whole.count:,} held-out records right" in each[0]
    assert f"{whole.false_positives:,} of {whole.count - whole.viral:,} hosts are called viral" in each[0]


def test_the_first_of_two_can_be_the_better_one() -> None:
    found = compared(good=2.0, poor=0.1)
    difference = [*in_words(found)][-1]
    assert difference.startswith("good is better than poor, and that is certain.")
    told = found.pairs[0].second_minus_first["brier"]
    assert f"Brier {-told.value:+.3f} [{-told.interval.high:+.3f}, {-told.interval.low:+.3f}; less" in difference


@pytest.mark.parametrize(
    ("alike", "said"), [(True, "a and b are as good as each other."), (False, "here, but that is not certain")]
)
def test_what_is_not_certain_is_not_claimed(alike: bool, said: str) -> None:
    assert said in [*in_words(compared(alike=alike, a=1.0, b=1.0))][-1]


def test_the_page_says_all_once_and_needs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnp.comparison.page.comparison_plots", lambda *_: ["<svg></svg>"])
    found = compared(a=1.0, b=0.5)
    about: dict[str, Any] = {
        "contestants": [],
        "split": None,
        "rule": "best-frame",
        "replicates": 100,
        "seed": 1,
        "versions": {},
    }
    section = Section("left_out", "Trained without a group", ["x"], [["0.5"]], [], hint="What it is.")
    series = [Series(name, FOUND.label[FOUND.record], np.full(len(FOUND), 0.5)) for name in "ab"]
    text = page(Results(about, ["Mind this."], [found], {"frame": series}, [], 1, sections=[section]))
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(set(headings)) == len(headings)
    assert headings[:3] == ["In words", "By frame", "Trained without a group"]
    assert "Mind this." in text
    assert "What it is." in text
    assert not re.search(r"https?://|<script|@import", text)
