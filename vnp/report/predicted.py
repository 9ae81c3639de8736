"""The report of a prediction: one page that stays below three megabytes however many records there are.

Everything drawn is counted in bins; the records themselves are packed as ``vnp.report.listing`` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vnp.metrics.reliability import HIGH, LEVELS, LOW, MEDIUM, Reliability
from vnp.report.calls import HOST, NO_CALL, RELIABILITY_NAMES, VIRAL, CalledRecords
from vnp.report.listing import Listed, Regions, Samples, Tracks, length_class, length_names, pack_listing, pack_tracks
from vnp.report.pages import render as render_page
from vnp.report.pages import short

_BINS = 50
_GRID = (44, 25)
_CURVE_POINTS = 200
_UNLIKE = 95


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the page shows."""

    about: dict[str, Any]  # settings, counts, inputs and classifier, as in ``predictions.json``
    records: CalledRecords  # what is said of them
    listed: Listed  # those that the table may list
    kinds: Sequence[str]  # names of the kinds
    samples: Samples  # of all records
    tracks: Tracks  # of all records
    regions: Regions  # viral stretches
    files: Sequence[tuple[str, str]]  # names of the files beside the page, and what they hold
    rule: str  # a sentence on how frames decide for their record
    levels: str  # a sentence on how reliability is told


def render(report: Report) -> str:
    """The page as text."""
    scored = report.records.scored > 0
    packed, count = pack_listing(report.records, report.listed, report.kinds, report.samples)
    packed_tracks, tracks = pack_tracks(report.listed, count, report.records, report.tracks, report.regions)
    return render_page(
        "calls.html",
        about=report.about,
        counts=report.about["counts"],
        names=[Path(entry["path"]).name for entry in report.about["inputs"]],
        any_score=bool(scored.any()),
        threshold=report.about["threshold"],
        histogram=_histogram(report.records.probability[scored]),
        curve=_curve(report.records.fdr[scored], report.about["counts"]["viral"]),
        heat=_heat(report.records.length[scored], report.records.probability[scored]),
        lengths=_lengths(report.records),
        reliability=_reliability(report.records),
        packed=packed,
        packed_tracks=packed_tracks,
        listed=count,
        tracks=tracks,
        regions=sum(map(len, report.regions.values())),
        files=report.files,
        trust=_trust(report),
        rule=report.rule,
        prevalence=(told := prevalence_in_words(report.about))[:1].upper() + told[1:],
        levels=report.levels,
        facts=list(_facts(report.about)),
    )


def _histogram(probability: Float64[np.ndarray, "n"]) -> dict[str, Any]:
    """Bars and grid on a logarithmic scale: ends of each bar, its count and its height."""
    counts = np.bincount(np.minimum((probability * _BINS).astype(np.int64), _BINS - 1), minlength=_BINS)
    decades = max(1, math.ceil(math.log10(max(int(counts.max(initial=0)), 1) + 1)))

    def height(count: float) -> float:
        return math.log10(count + 1) / math.log10(10**decades + 1) if count else 0.0

    powers = range(0, decades + 1, max(1, decades // 4))
    bars = [(place / _BINS, (place + 1) / _BINS, count, height(count)) for place, count in enumerate(counts.tolist())]
    return {"bars": bars, "grid": [(height(10**power), short(10**power)) for power in powers]}


def _curve(fdr: Float64[np.ndarray, "n"], viral: int) -> dict[str, Any]:
    """The rate by number of records called, thinned, and the place of those that are."""
    rate = np.sort(fdr[~np.isnan(fdr)])
    at = np.unique(np.linspace(0, len(rate) - 1, min(_CURVE_POINTS, len(rate))).astype(np.int64))
    x, y = (at + 1.0, rate[at]) if len(rate) else (np.empty(0), np.empty(0))
    most = max(float(x[-1]) if len(x) else 1.0, 1.0)
    highest = float(y.max(initial=0.0))
    top = next((top for top in (0.01, 0.02, 0.04, 0.1, 0.2, 0.4) if highest <= top), 1.0)
    note = f"{viral:,} called, FDR {float(np.interp(viral, x, y)):.3g}" if viral and len(x) else ""
    return {
        "points": [(across / most, up / top) for across, up in zip(x.tolist(), y.tolist(), strict=True)],
        "grid": [(share / 4, f"{top * share / 4:.3g}") for share in range(5)],
        "ticks": [(value / most, short(value)) for value in _round_steps(most)],
        "marked": viral / most,
        "note": note,
    }


def _round_steps(most: float) -> list[float]:
    """Some round numbers from 0 on, for an axis."""
    step = 10 ** math.floor(math.log10(most))
    while most / step > 5:
        step *= 2
    while most / step < 2.5 and step > 1:
        step /= 2
    step = max(1.0, step)
    return [step * place for place in range(int(most / step) + 1)]


def _heat(bases: Int64[np.ndarray, "n"], probability: Float64[np.ndarray, "n"]) -> dict[str, Any]:
    """Cells of length, on a logarithmic scale, and probability: column, row, count, and how dark from 0 to 1."""
    across, up = _GRID
    length: Float64[np.ndarray, "n"] = np.log10(np.maximum(bases, 1))
    low = np.floor(length.min()) if len(length) else 2.0
    high = max(float(np.ceil(length.max())) if len(length) else 3.0, low + 1)
    column = np.minimum(((length - low) / (high - low) * across).astype(np.int64), across - 1)
    row = np.minimum((probability * up).astype(np.int64), up - 1)
    counts = np.bincount(column * up + row, minlength=across * up).reshape(across, up)
    most = math.log1p(int(counts.max(initial=1)))
    found = [(column, row, int(counts[column, row])) for column, row in np.argwhere(counts > 0).tolist()]
    powers = range(int(low), int(high) + 1)
    return {
        "cells": [(column, row, count, math.log1p(count) / most) for column, row, count in found],
        "across": across,
        "up": up,
        "ticks": [((power - low) / (high - low), short(10.0**power)) for power in powers],
    }


Bars = list[tuple[str, dict[str, int]]]
"""Rows of a chart of shares: name, and how many of each class of CSS."""


def _lengths(records: CalledRecords) -> Bars:
    place, names = length_class(records.length), length_names()
    kinds = (("viral", VIRAL), ("host", HOST), ("none", NO_CALL))
    counted = {kind: np.bincount(place[records.call == call], minlength=len(names)) for kind, call in kinds}
    return [
        (name, {kind: int(counted[kind][row]) for kind, _ in kinds})
        for row, name in enumerate(names)
        if (place == row).any()
    ]


def _reliability(records: CalledRecords) -> Bars:
    bars = []
    for name, call in (("viral", VIRAL), ("host", HOST)):
        levels = records.reliability[records.call == call]
        counts = {RELIABILITY_NAMES[level]: int((levels == level).sum()) for level in (HIGH, MEDIUM, LOW)}
        bars.append((name, counts))
    return bars


def _trust(report: Report) -> dict[str, Any]:
    """What was measured on held-out records, and how this run compares."""
    classifier, records = report.about["classifier"], report.records
    stored = classifier["reliability"]
    found = Reliability.from_json(stored) if stored else None
    levels = []
    for level, name in LEVELS.items():
        here = int((records.reliability[records.call != NO_CALL] == level).sum())
        levels.append(
            (name, found.condition(level), found.measured.get(name), here) if found else (name, "", None, here)
        )
    known = records.novelty[~np.isnan(records.novelty)]
    return {
        "levels": levels,
        "held_out": classifier["held_out"],
        "measured_on": found.measured_on if found else "",
        "unseen": found.on_unseen() if found else "",
        "alone": classifier["origin"] == "native" or not report.about["counts"]["scored_by_native"],
        "presets": [(name, preset["specificity"]) for name, preset in classifier["presets"].items()],
        "preset": report.about["settings"]["preset"],
        "unlike": _UNLIKE,
        "novel": int((known > _UNLIKE).sum()),
        "known": len(known),
    }


def _facts(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    settings, classifier, counts = about["settings"], about["classifier"], about["counts"]
    limits = [_viral_from(settings), f"rule {settings['rule']}"]
    if settings["max_fdr"] is not None:
        limits.append(f"false discovery rate at most {settings['max_fdr']:g}")
    if settings["min_length"]:
        limits.append(f"at least {settings['min_length']:,} bases")
    yield "called by", ", ".join(limits)
    yield "prevalence", prevalence_in_words(about)
    yield "classifier", f"{Path(settings['checkpoint']).name}, SHA-256 {settings['checkpoint_sha256'][:16]}…"
    yield "origin", classifier["origin"]
    yield "calibration", classifier["calibration"]
    yield "encoders", "; ".join(_encoder(part, identity) for part, identity in classifier["encoders"].items())
    yield "features", classifier["layout"]
    scored = f"{counts['chunks']:,} with a score, {counts['rows']:,} rows ({classifier['rows']})"
    yield "chunks", f"{classifier['chunk']} bases; {scored}"
    if "cascade" in about:
        yield "settled by native", cascade_in_words(about)
    yield "run", about["run"][:16] + "…"
    yield "versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    for entry in about["inputs"][:50]:
        yield "input", f"{entry['path']}: {entry['records']:,} records, {entry['bases']:,} bases"


def _viral_from(settings: dict[str, Any]) -> str:
    """What makes a record viral, in words."""
    if settings["threshold"] is not None:
        return f"threshold {settings['threshold']:g}"
    return f"preset {settings['preset']}" if settings["preset"] else "more likely viral than not"


def cascade_in_words(about: dict[str, Any]) -> str:
    """How many records were not embedded, and what is promised of them, from what ``predictions.json`` holds."""
    cascade = about["cascade"]
    return (
        f"{cascade['settled_by_native']:,} of {about['counts']['records']:,} records are called by native and were not "
        f"embedded; of calls like those of the {cascade['part']} part, {cascade['risk']:.2%} at most are expected to "
        "differ by that"
    )


def prevalence_in_words(about: dict[str, Any]) -> str:
    """For which share of viruses probabilities are told, and how it is known, from what ``predictions.json`` holds."""
    found, asked = about["prevalence"], about["settings"]["prevalence"]
    if found is None:
        return "probabilities are told for the share of viruses that they were calibrated at"
    if found["refused"]:
        return f"--prevalence {asked} is not used: {found['refused']}. Calls are as without it"
    if asked != "auto":
        return f"{found['share']:.2%} of the records are viral, as was given"
    # Predictions and checkpoints of earlier versions do not know how much units differ.
    alone = "" if found.get("units") else ", which knows of chance alone and not of calibration that is off"
    return (
        f"{found['share']:.2%} of the records are viral, estimated from {found['records']:,} records "
        f"({found['low']:.2%} to {found['high']:.2%}{alone})"
    )


def _encoder(part: str, identity: dict[str, Any]) -> str:
    place = " ".join(str(identity[key]) for key in ("hub_id", "repository", "revision") if identity.get(key))
    return f"{part}: {identity.get('name')}" + (f" ({place})" if place else "")
