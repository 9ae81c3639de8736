from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.classifier.making import LAYOUT
from vnp.classifier.checkpoint import Checkpoint
from vnp.prediction.calls import Found, Judges, decide
from vnp.prediction.options import PredictOptions
from vnp.report.calls import HOST, NO_CALL, VIRAL, Report, render

VOID = {"meta", "link", "input"}


class Balance(HTMLParser):
    """Finds tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def make_report(records: int, *, scored: float = 0.9, name: str = "contig_{}", **changes: Any) -> Report:
    random = np.random.default_rng(3)
    settings = PredictOptions("model.pth", "0" * 64, "1664", **{"threshold": 0.5, **changes})
    tally = Found(records)
    has = random.random(records) < scored
    tally.probability[has] = random.beta(0.3, 0.6, int(has.sum()))
    tally.score[has] = tally.probability[has]
    tally.scored[has] = random.integers(1, 9, int(has.sum()))
    tally.agreement[has] = random.random(int(has.sum()))
    tally.viral[has] = tally.probability[has] >= settings.threshold
    tally.by[has] = 1
    tally.length[:] = length = random.integers(60, 60_000, records)
    calls = decide(tally, 300, settings, Judges(Checkpoint({}, LAYOUT, {}, 300), "best-frame"))
    viral = calls.call == VIRAL
    about = {
        "run": "a" * 64,
        "settings": {name: getattr(settings, name) for name in PredictOptions.__slots__},
        "counts": {
            "records": records,
            "bases": int(length.sum()),
            "viral": int(viral.sum()),
            "viral_bases": int(length[viral].sum()),
            "host": int((calls.call == HOST).sum()),
            "no_call": int((calls.call == NO_CALL).sum()),
            "scored": int(has.sum()),
            "chunks": int(tally.scored.sum()),
            "rows": 2 * int(tally.scored.sum()),
        },
        "threshold": settings.threshold,
        "prevalence": None,
        "expected_false_calls": 1.5,
        "no_call_reasons": {"no open frame": 3},
        "inputs": [{"path": "<b>contigs&.fna", "records": records, "bases": 5}],
        "classifier": {
            "origin": "vnp",
            "layout": "1664 = dna + protein",
            "chunk": 300,
            "rows": "frames",
            "calibration": "isotonic",
            "encoders": {"dna": {"name": "kmer", "hub_id": None}},
        },
        "versions": {"vnp": "0"},
    }
    return Report(about, calls, [(at, name.format(at)) for at in calls.best()], "The surest decides.", "low if short")


@pytest.mark.parametrize(("records", "scored"), [(0, 1.0), (1, 1.0), (3, 0.0), (40, 0.9), (5_000, 0.9)])
def test_page_is_whole(records: int, scored: float) -> None:
    page = render(make_report(records, scored=scored))
    balance = Balance()
    balance.feed(page)
    assert not balance.open
    assert not balance.wrong
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing.lower()
        assert "inf" not in drawing.lower()
    assert "$" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert ("No record has a score" in page) == (records == 0 or scored == 0)


def test_page_asks_nothing_of_the_network() -> None:
    page = render(make_report(200))
    assert not re.search(r"https?://|//\w+\.|@import|url\(|<iframe|<img|fetch\(|XMLHttp", page)
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,"]
    assert "default-src 'none'" in page


def test_page_of_very_many_records_stays_small_and_quick() -> None:
    few, many = make_report(3_000), make_report(400_000)
    begun = time.process_time()
    page = render(many)
    assert time.process_time() - begun < 5
    assert len(page) < 1.5 * len(render(few)) < 1_500_000
    assert page.count("<tr>") < 1_100


def test_names_are_text() -> None:
    page = render(make_report(30, name="<script>alert({})</script>&"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page
    assert "&lt;b&gt;contigs&amp;.fna" in page


def test_best_records_are_viral_calls_first_then_the_most_probable() -> None:
    report = make_report(4_000, threshold=0.99)
    best = [at for at, _ in report.best]
    calls, probability = report.records.call[best], report.records.probability[best]
    viral = int((report.records.call == VIRAL).sum())
    assert 25 < len(best) == viral
    assert (np.diff(probability) <= 0).all()
    few = make_report(4_000, threshold=1.0)
    assert len(few.best) == 25
    order = np.sort(few.records.probability[~np.isnan(few.records.probability)])[::-1]
    assert few.records.probability[[at for at, _ in few.best]] == pytest.approx(order[:25])
    assert (calls == VIRAL).all()
    assert not any(np.isnan(few.records.probability[at]) for at, _ in few.best)
