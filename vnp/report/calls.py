"""The report: one HTML page that needs nothing from outside and stays small however many records there are.

Everything drawn is counted in bins, and the table holds the best thousand records, so that the page of a million
records weighs about as much as that of a thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vnp.prediction.calls import (
    HIGH,
    HIGH_AGREEMENT,
    HIGH_CHUNKS,
    HOST,
    LOW,
    LOW_AGREEMENT,
    MEDIUM,
    NO_CALL,
    RELIABILITY_NAMES,
    VIRAL,
    Calls,
    Tally,
)
from vnp.report import charts as _charts

_MOST_ROWS = 1000
_LEAST_ROWS = 25
_BINS = 50
_GRID = (44, 25)
_CURVE_POINTS = 200
_LENGTHS = (300, 500, 1_000, 3_000, 10_000, 30_000)
_NAMED_INPUTS = 8
_RULES = {
    "best-frame": "The surest open frame of a record decides (VirNucPro's rule).",
    "length-weighted": "A record has the mean of its open frames, weighted with their lengths.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the page shows.

    Args:
        about: settings, counts, inputs and classifier, as in ``predictions.json``.
        tally: scores of all records.
        calls: what is said of them.
        length: bases of each.
        best: ordinals and names of the records for the table, best first.
    """

    about: dict[str, Any]
    tally: Tally
    calls: Calls
    length: Int64[np.ndarray, "r"]
    best: Sequence[tuple[int, str]]


def best_records(tally: Tally, calls: Calls, length: Int64[np.ndarray, "r"]) -> list[int]:
    """Ordinals of the records for the table: viral calls, filled up with others where these are few."""
    scored = np.flatnonzero(tally.scored > 0)
    viral = calls.call[scored] == VIRAL
    wanted = min(_MOST_ROWS, max(int(viral.sum()), _LEAST_ROWS), len(scored))
    probability = tally.probability[scored]
    if wanted < len(scored):
        # Sorting a million records for a thousand would take longer than all the rest of the page.
        rank = probability + 2.0 * viral
        border = np.partition(rank, len(rank) - wanted)[len(rank) - wanted]
        kept = rank >= border
        scored, viral, probability = scored[kept], viral[kept], probability[kept]
    order = np.lexsort((scored, -length[scored], -probability, ~viral))[:wanted]
    return [int(at) for at in scored[order]]


def write_report(report: Report, path: Path) -> None:
    """Write the page; the caller gives a temporary name.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    path.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The page as text."""
    counts, settings = report.about["counts"], report.about["settings"]
    scored = report.tally.scored > 0
    names = [Path(entry["path"]).name for entry in report.about["inputs"]]
    more = f" and {len(names) - _NAMED_INPUTS} more" if len(names) > _NAMED_INPUTS else ""
    return Template(_page("report.html")).substitute(
        title=f"vnp: {counts['viral']:,} of {counts['records']:,} records called viral",
        heading=f"{counts['viral']:,} of {counts['records']:,} records called viral",
        subtitle=escape(", ".join(names[:_NAMED_INPUTS]) + more),
        style=_page("report.css"),
        script=_page("report.js"),
        tiles=_tiles(report.about),
        notice="" if scored.any() else _NOTICE,
        histogram=_histogram(report, scored),
        curve=_curve(report, scored),
        heat=_heat(report, scored),
        lengths=_lengths(report),
        reliability=_reliability(report),
        table_heading="The best viral calls" if counts["viral"] else "The most probable records",
        table_hint=_table_hint(report),
        table=_table(report),
        reasons=_reasons(report.about),
        rule=escape(_RULES[settings["rule"]]),
        calibrated=_CALIBRATED.get(report.about["classifier"]["calibration"], _CALIBRATED[""]),
        levels=_levels(report.about["classifier"]["chunk"]),
        facts=_facts(report.about),
        command="python -m jobs.predict --from RUN --out OTHER --threshold 0.9 --max-fdr 0.05",
    )


_CALIBRATED = {
    "": "calibrated on sequences that the classifier was not trained on",
    "none": "which here is the score itself, for this classifier was not calibrated",
}
_NOTICE = (
    "<section><h2>No record has a score</h2><p>Not one holds an open frame, that is a reading frame without a stop "
    "codon over a whole chunk. The reasons are below.</p></section>"
)


def _page(name: str) -> str:
    return resources.files("vnp.report").joinpath("page", name).read_text(encoding="utf-8")


def _tiles(about: dict[str, Any]) -> str:
    counts = about["counts"]
    share = counts["viral"] / counts["records"] if counts["records"] else 0
    tiles = [
        ("", f"{counts['records']:,}", f"records, {_charts.short(counts['bases'])} bases"),
        ("viral", f"{counts['viral']:,}", f"viral ({share:.1%}), {_charts.short(counts['viral_bases'])} bases"),
        ("host", f"{counts['host']:,}", "host"),
        ("", f"{counts['no_call']:,}", "without a call"),
        ("", _about_as_many(about["expected_false_calls"]), "viral calls expected to be wrong"),
    ]
    return "".join(f'<div class="tile {kind}"><b>{number}</b><span>{text}</span></div>' for kind, number, text in tiles)


def _about_as_many(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _histogram(report: Report, scored: np.ndarray) -> str:
    probability = report.tally.probability[scored]
    counts = np.bincount(np.minimum((probability * _BINS).astype(np.int64), _BINS - 1), minlength=_BINS)
    return _charts.histogram(counts, report.about["settings"]["threshold"], "Histogram of the records' probabilities")


def _curve(report: Report, scored: np.ndarray) -> str:
    rate = np.sort(report.calls.fdr[scored & ~np.isnan(report.calls.fdr)])
    at = np.unique(np.linspace(0, len(rate) - 1, min(_CURVE_POINTS, len(rate))).astype(np.int64))
    x, y = (at + 1.0, rate[at]) if len(rate) else (np.empty(0), np.empty(0))
    return _charts.curve(x, y, report.about["counts"]["viral"], "False discovery rate by number of records called")


def _heat(report: Report, scored: np.ndarray) -> str:
    across, up = _GRID
    length: Float64[np.ndarray, "n"] = np.log10(np.maximum(report.length[scored], 1))
    low = np.floor(length.min()) if len(length) else 2.0
    high = max(float(np.ceil(length.max())) if len(length) else 3.0, low + 1)
    column = np.minimum(((length - low) / (high - low) * across).astype(np.int64), across - 1)
    row = np.minimum((report.tally.probability[scored] * up).astype(np.int64), up - 1)
    counts = np.bincount(column * up + row, minlength=across * up).reshape(across, up)
    ticks = [((power - low) / (high - low), _charts.short(10.0**power)) for power in range(int(low), int(high) + 1)]
    threshold = report.about["settings"]["threshold"]
    return _charts.heat(counts, ticks, threshold, "Records by length and probability")


def _lengths(report: Report) -> str:
    place = np.searchsorted(_LENGTHS, report.length, side="right")
    edges = [_charts.short(edge) for edge in _LENGTHS]
    names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"from {edges[-1]}"]
    kinds = (("viral", VIRAL), ("host", HOST), ("none", NO_CALL))
    counted = {kind: np.bincount(place[report.calls.call == call], minlength=len(names)) for kind, call in kinds}
    bars = [
        _charts.Bar(name, {kind: int(counted[kind][row]) for kind, _ in kinds})
        for row, name in enumerate(names)
        if (place == row).any()
    ]
    return _charts.shares(bars, "Calls by length of the record")


def _reliability(report: Report) -> str:
    bars = []
    for name, call in (("viral", VIRAL), ("host", HOST)):
        levels = report.calls.reliability[report.calls.call == call]
        counts = {RELIABILITY_NAMES[level]: int((levels == level).sum()) for level in (HIGH, MEDIUM, LOW)}
        bars.append(_charts.Bar(name, counts))
    return _charts.shares(bars, "Reliability of viral and of host calls")


def _table_hint(report: Report) -> str:
    shown, viral = len(report.best), report.about["counts"]["viral"]
    what = f"The {shown:,} most probable of {viral:,}" if viral > shown else f"{shown:,} records"
    return f"{what}; all are in <code>predictions.tsv</code>."


def _table(report: Report) -> str:
    if not report.best:
        return "<p>There is none.</p>"
    head = (
        ("#", ""), ("name", "text"), ("call", "text"), ("length", ""), ("chunks", ""), ("probability", ""),
        ("score", ""), ("FDR", ""), ("agreement", ""), ("reliability", "text"),
    )  # fmt: skip
    heads = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in head)
    rows = "".join(_row(report, rank, at, name) for rank, (at, name) in enumerate(report.best, 1))
    return (
        '<div class="tools" id="tools" hidden><input type="search" id="search" placeholder="Find a name" '
        'aria-label="Find a name"><span class="hint" id="shown" role="status"></span></div>'
        f'<div class="scroll" tabindex="0"><table id="best"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(report: Report, rank: int, at: int, name: str) -> str:
    tally, calls = report.tally, report.calls
    probability, score = float(tally.probability[at]), float(tally.score[at])
    call = {VIRAL: "viral", HOST: "host"}.get(int(calls.call[at]), "none")
    cells = [
        (rank, str(rank)),
        (int(report.length[at]), f"{report.length[at]:,}"),
        (int(tally.scored[at]), f"{tally.scored[at]:,}"),
        (probability, f'<span class="meter"><i style="width:{probability:.0%}"></i></span>{_share(probability)}'),
        (score, _share(score)),
        (float(calls.fdr[at]), _share(float(calls.fdr[at]))),
        (float(calls.agreement[at]), f"{calls.agreement[at]:.0%}"),
    ]
    numbers = [f'<td data-value="{-1 if value != value else f"{value:.9g}"}">{text}</td>' for value, text in cells]
    words = [f'<td class="name">{escape(name)}</td>', f'<td class="text">{call if call != "none" else "no call"}</td>']
    level = RELIABILITY_NAMES[int(calls.reliability[at])]
    return "<tr>" + "".join([numbers[0], *words, *numbers[1:], f'<td class="text">{level}</td>']) + "</tr>"


def _share(value: float) -> str:
    if value != value:
        return "-"
    return "< 0.0001" if 0 < value < 0.0001 else f"{value:.4f}"


def _reasons(about: dict[str, Any]) -> str:
    reasons = about["no_call_reasons"]
    if not reasons:
        return "<p>None: every record has a call.</p>"
    rows = "".join(
        f'<tr><td class="name">{escape(reason)}</td><td>{count:,}</td></tr>' for reason, count in reasons.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _levels(chunk: int) -> str:
    return (
        f"low if the record is shorter than {chunk / 2:g} bases (half a training chunk) or fewer than "
        f"{LOW_AGREEMENT:.0%} of its frames agree; high if at least {HIGH_CHUNKS} chunks have a score and at least "
        f"{HIGH_AGREEMENT:.0%} of its frames agree; else medium."
    )


def _facts(about: dict[str, Any]) -> str:
    settings, classifier, counts = about["settings"], about["classifier"], about["counts"]
    limits = [f"threshold {settings['threshold']:g}", f"rule {settings['rule']}"]
    if settings["max_fdr"] is not None:
        limits.append(f"false discovery rate at most {settings['max_fdr']:g}")
    if settings["min_length"]:
        limits.append(f"at least {settings['min_length']:,} bases")
    encoders = [_encoder(part, identity) for part, identity in classifier["encoders"].items()]
    facts: Iterable[tuple[str, str]] = (
        ("called by", ", ".join(limits)),
        ("classifier", f"{Path(settings['checkpoint']).name}, SHA-256 {settings['checkpoint_sha256'][:16]}…"),
        ("origin", classifier["origin"]),
        ("calibration", classifier["calibration"]),
        ("encoders", "; ".join(encoders)),
        ("features", classifier["layout"]),
        ("chunks", f"{classifier['chunk']} bases; {counts['chunks']:,} with a score, {counts['frames']:,} open frames"),
        ("run", about["run"][:16] + "…"),
        ("versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())),
        *(("input", f"{e['path']}: {e['records']:,} records, {e['bases']:,} bases") for e in about["inputs"][:50]),
    )
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)


def _encoder(part: str, identity: dict[str, Any]) -> str:
    place = " ".join(str(identity[key]) for key in ("hub_id", "repository", "revision") if identity.get(key))
    return f"{part}: {identity.get('name')}" + (f" ({place})" if place else "")
