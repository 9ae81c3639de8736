from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.classifier.making import LAYOUT
from tests.report.unpacking import packed_in, unpacked
from vnp.classifier.checkpoint import Checkpoint
from vnp.prediction.calls import Found, Judges, decide
from vnp.prediction.options import PredictOptions
from vnp.report.calls import HOST, NO_CALL, VIRAL
from vnp.report.listing import (
    LISTING_BYTES,
    MOST_LISTED,
    TRACKS_BYTES,
    Listed,
    Samples,
    Tracks,
    length_class,
    pack_listing,
    pack_tracks,
    percent_of,
)
from vnp.report.predicted import Report, render

VOID = {"meta", "link", "input"}
LARGEST = 3_000_000
KINDS = ("phage", "bacteria")


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


def make_report(
    records: int, *, scored: float = 0.9, name: str = "contig_{}", samples: int = 1, **changes: Any
) -> Report:
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
    tally.kind[has] = ~tally.viral[has]
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
            "scored_by_native": 0,
            "chunks": int(tally.scored.sum()),
            "rows": 2 * int(tally.scored.sum()),
        },
        "threshold": settings.threshold,
        "prevalence": None,
        "viral_share": 0.25,
        "expected_false_calls": 1.5,
        "no_call_reasons": {"no open frame": 3},
        "inputs": [{"path": "<b>contigs&.fna", "records": records, "bases": 5}],
        "classifier": {
            "origin": "vnp",
            "layout": "1664 = dna + protein",
            "chunk": 300,
            "rows": "frames",
            "calibration": "isotonic",
            "reliability": None,
            "held_out": [{"what": "records of the test part", "records": 1234, "right": 0.957, "off": 0.021}],
            "presets": {"default": {"specificity": 0.9912}},
            "encoders": {"dna": {"name": "kmer", "hub_id": None}},
        },
        "versions": {"vnp": "0"},
    }
    ranked = calls.ranked(MOST_LISTED)
    listed = Listed(
        ranked,
        [name.format(at) for at in ranked.tolist()],
        ["no open frame" if one == NO_CALL else "" for one in calls.call[ranked].tolist()],
    )
    windows = -(-length // 300)
    tracks = Tracks(percent_of(random.random(int(windows.sum()))), windows)
    several = Samples([f"sample_{at}" for at in range(samples)], random.integers(0, samples, records).astype(np.int32))
    regions = {at: [(100, 5_100)] for at in range(0, min(records, 40), 8)}
    files = [("predictions.tsv", "every record")]
    return Report(about, calls, listed, KINDS, several, tracks, regions, files, "The surest decides.", "low if short")


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
    assert "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "<td>1,234</td><td>95.7%</td><td>2.1%</td>" in page
    assert ("No record has a score" in page) == (records == 0 or scored == 0)


def test_the_stylesheet_says_each_thing_once() -> None:
    """What is for narrow screens stands within its condition, and nowhere else."""
    style = re.search(r"<style>(.*?)</style>", render(make_report(3)), re.DOTALL)
    assert style is not None
    rules = [line.strip() for line in style.group(1).splitlines() if "{" in line and "}" in line]
    assert sorted(rules) == sorted(set(rules))
    narrow = re.search(r"@media \(max-width.*?\n}\n", style.group(1), re.DOTALL)
    assert narrow is not None
    assert "!important" in narrow.group(0)
    assert "!important" not in style.group(1).replace(narrow.group(0), "")


def test_page_asks_nothing_of_the_network() -> None:
    page = render(make_report(200))
    shown = re.sub(r'id="packed-\w+">[^<]*<', "", page)
    assert not re.search(r"https?://|//\w+\.|@import|url\(|<iframe|<img|fetch\(|XMLHttp", shown)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', shown)) == {"data:,", "predictions.tsv"}
    assert "default-src 'none'" in page


def test_page_of_very_many_records_stays_below_three_megabytes() -> None:
    page = render(make_report(30_000, samples=50))
    packed = sum(len(one) for one in re.findall(r'id="packed-\w+">([^<]*)<', page))
    # What is not packed is drawn from bins and does not grow; what is has a limit of its own.
    assert len(page) - packed + LISTING_BYTES + TRACKS_BYTES < LARGEST
    assert len(page) - packed < 120_000
    assert page.count("<tr>") < 100


def test_listing_takes_as_many_records_as_fit_and_counts_all() -> None:
    report = make_report(4_000, name="{}" + "-x" * 9, samples=3)
    text, count = pack_listing(report.records, report.listed, KINDS, report.samples, limit=30_000)
    assert len(text) <= 30_000
    assert 500 < count < 4_000
    found = unpacked(text)
    assert found["rows"]["name"].split("\n") == list(report.listed.name[:count])
    call, kind, level, size, sample, number = map(np.array, found["counts"])
    records = report.records
    assert number.sum() == 4_000
    for one in (VIRAL, HOST, NO_CALL):
        assert number[call == one].sum() == (records.call == one).sum()
    lengths = length_class(records.length)
    some = (call == VIRAL) & (kind == 0) & (size == 6) & (sample == 2) & (level == 2)
    there = (records.call == VIRAL) & (records.kind == 0) & (lengths == 6) & (report.samples.code == 2)
    assert number[some].sum() == (there & (records.reliability == 2)).sum() > 0


def test_listed_numbers_are_those_of_the_records() -> None:
    report = make_report(600)
    rows = packed_in(render(report), "records")["rows"]
    records, at = report.records, report.listed.place
    assert rows["count"] == 600
    assert rows["length"] == records.length[at].tolist()
    for name, scale in (("probability", 10_000), ("fdr", 10_000)):
        found = np.cumsum(rows[name])
        known = ~np.isnan(getattr(records, name)[at])
        assert (found[~known] == -1).all()
        assert found[known] / scale == pytest.approx(getattr(records, name)[at][known], abs=0.5 / scale + 1e-12)
    assert [rows["reasons"][one] if one >= 0 else "" for one in rows["reason"]] == list(report.listed.reason)
    assert rows["sample"] == []


def test_very_many_samples_are_those_with_most_records_and_others() -> None:
    code = np.r_[np.arange(3_000), np.arange(1_500)].astype(np.int32)
    few = Samples([f"s{at}" for at in range(3_000)], code).most_frequent()
    assert len(few.names) == 2_001
    assert few.names[:1_500] == [f"s{at}" for at in range(1_500)]
    assert few.names[-1] == "(other samples)"
    assert (few.code == 2_000).sum() == 1_000


def test_tracks_are_windows_in_per_cent() -> None:
    report = make_report(200)
    found = packed_in(render(report), "tracks")
    records, listed, windows = report.records, report.listed, report.tracks.windows
    behind = np.cumsum(windows)
    assert found["rows"]
    for row, points in zip(found["rows"], found["points"], strict=True):
        at = listed.place[row]
        assert windows[at] > 1
        assert records.scored[at] > 0
        assert points == report.tracks.percent[behind[at] - windows[at] : behind[at]].tolist()
    place = {row: int(listed.place[row]) for row, _ in found["regions"]}
    assert {place[row]: [tuple(span) for span in spans] for row, spans in found["regions"]} == report.regions


def test_tracks_get_coarser_until_they_fit_and_those_with_regions_are_kept() -> None:
    report = make_report(3_000)
    text, count = pack_tracks(report.listed, 3_000, report.records, report.tracks, report.regions, limit=60_000)
    assert len(text) <= 60_000
    assert count == 1_000
    found = unpacked(text)
    assert max(map(len, found["points"])) == found["most"] < 200
    with_regions = {row for row, _ in found["regions"] if report.records.scored[report.listed.place[row]] > 0}
    assert with_regions <= set(found["rows"])
    thin = report.tracks.points([7], 4)[0]
    whole = report.tracks.points([7], 10_000)[0]
    assert thin[0] == pytest.approx(np.mean(whole[: len(whole) // 4]), abs=0.51)


def test_names_are_text() -> None:
    page = render(make_report(30, name="<script>alert({})</script>&"))
    assert "<script>alert" not in page
    assert "<script>alert(7)</script>&" in packed_in(page, "records")["rows"]["name"]
    assert "&lt;b&gt;contigs&amp;.fna" in page


def test_ranked_are_viral_calls_then_marked_ones_then_the_others_by_probability() -> None:
    report = make_report(4_000, threshold=0.9)
    calls, viral = report.records.call, int((report.records.call == VIRAL).sum())
    hosts = np.flatnonzero(calls == HOST)
    marked = hosts[np.argsort(report.records.probability[hosts])[:3]].tolist()
    ranked = report.records.ranked(4_000, marked)
    assert sorted(ranked.tolist()) == list(range(4_000))
    assert (calls[ranked[:viral]] == VIRAL).all()
    assert set(ranked[viral : viral + 3].tolist()) == set(marked)
    assert (calls[ranked[-(calls == NO_CALL).sum() :]] == NO_CALL).all()
    for part in (ranked[:viral], ranked[viral + 3 : len(hosts) + viral]):
        assert (np.diff(report.records.probability[part]) <= 0).all()
    assert report.records.ranked(50, marked).tolist() == ranked[:50].tolist()
