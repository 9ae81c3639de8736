"""The report of a prediction: one page that stays small however many records there are.

Everything drawn is counted in bins, and the table holds the best thousand records, so that the page of a million
records weighs about as much as that of a thousand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int32, Int64

from vnp.metrics.reliability import HIGH, LEVELS, LOW, MEDIUM
from vnp.report.pages import render as render_page
from vnp.report.pages import short

VIRAL, HOST, NO_CALL = 1, 0, -1
RELIABILITY_NAMES = {**LEVELS, -1: ""}
_MOST_ROWS = 1000
_LEAST_ROWS = 25
_BINS = 50
_GRID = (44, 25)
_CURVE_POINTS = 200
_LENGTHS = (300, 500, 1_000, 3_000, 10_000, 30_000)


@dataclass(frozen=True, slots=True, eq=False)
class CalledRecords:
    """What is said of each of r records, in input order; NaN or -1 where there is nothing to say."""

    length: Int64[np.ndarray, "r"]  # bases
    scored: Int32[np.ndarray, "r"]  # chunks with a score
    score: Float64[np.ndarray, "r"]  # raw probability of viral
    probability: Float64[np.ndarray, "r"]  # the same, calibrated
    call: Int8[np.ndarray, "r"]  # ``VIRAL``, ``HOST`` or ``NO_CALL``
    fdr: Float64[np.ndarray, "r"]  # false discovery rate if this record and all at least as probable were called viral
    agreement: Float64[np.ndarray, "r"]  # share of the record's frames that alone would have got its call
    reliability: Int8[np.ndarray, "r"]  # ``HIGH``, ``MEDIUM`` or ``LOW``
    novelty: Float32[np.ndarray, "r"]  # share of held-out records that are nearer to training, in per cent

    def best(self) -> list[int]:
        """Places of the records for the table: viral calls, filled up with others where these are few."""
        scored = np.flatnonzero(self.scored > 0)
        viral = self.call[scored] == VIRAL
        count = min(_MOST_ROWS, max(int(viral.sum()), _LEAST_ROWS), len(scored))
        probability = self.probability[scored]
        if count < len(scored):
            # Sorting a million records for a thousand would take longer than all the rest of the page.
            rank = probability + 2.0 * viral
            border = np.partition(rank, len(rank) - count)[len(rank) - count]
            kept = rank >= border
            scored, viral, probability = scored[kept], viral[kept], probability[kept]
        order = np.lexsort((scored, -self.length[scored], -probability, ~viral))[:count]
        return [int(at) for at in scored[order]]


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What the page shows."""

    about: dict[str, Any]  # settings, counts, inputs and classifier, as in ``predictions.json``
    records: CalledRecords  # what is said of them
    best: Sequence[tuple[int, str]]  # places and names of the records for the table, best first
    rule: str  # a sentence on how frames decide for their record
    levels: str  # a sentence on how reliability is told


def render(report: Report) -> str:
    """The page as text."""
    scored = report.records.scored > 0
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
        rows=[_row(report.records, at, name) for at, name in report.best],
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
    place = np.searchsorted(_LENGTHS, records.length, side="right")
    edges = [short(edge) for edge in _LENGTHS]
    names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"from {edges[-1]}"]
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


def _row(records: CalledRecords, at: int, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "call": {VIRAL: "viral", HOST: "host"}.get(int(records.call[at]), "no call"),
        "length": int(records.length[at]),
        "chunks": int(records.scored[at]),
        "reliability": RELIABILITY_NAMES[int(records.reliability[at])],
        **{name: float(getattr(records, name)[at]) for name in ("probability", "score", "fdr", "agreement", "novelty")},
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
    yield "run", about["run"][:16] + "…"
    yield "versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    for entry in about["inputs"][:50]:
        yield "input", f"{entry['path']}: {entry['records']:,} records, {entry['bases']:,} bases"


def _viral_from(settings: dict[str, Any]) -> str:
    """What makes a record viral, in words."""
    if settings["threshold"] is not None:
        return f"threshold {settings['threshold']:g}"
    return f"preset {settings['preset']}" if settings["preset"] else "more likely viral than not"


def prevalence_in_words(about: dict[str, Any]) -> str:
    """For which share of viruses probabilities are told, and how it is known, from what ``predictions.json`` holds."""
    found, asked = about["prevalence"], about["settings"]["prevalence"]
    if found is None:
        return "probabilities are told for the share of viruses that they were calibrated at"
    if found["refused"]:
        return f"--prevalence {asked} is not used: {found['refused']}. Calls are as without it"
    interval = f", estimated from {found['records']:,} records ({found['low']:.2%} to {found['high']:.2%})"
    return f"{found['share']:.2%} of the records are viral{interval if asked == 'auto' else ', as was given'}"


def _encoder(part: str, identity: dict[str, Any]) -> str:
    place = " ".join(str(identity[key]) for key in ("hub_id", "repository", "revision") if identity.get(key))
    return f"{part}: {identity.get('name')}" + (f" ({place})" if place else "")
