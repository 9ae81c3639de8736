"""The page of a comparison: tables and plots in one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vnp.comparison.comparison import Compared, Measured, Pair
from vnp.comparison.formats import PAIRED, TITLES, difference, number, span, tests
from vnp.metrics.bootstrap import NAMES
from vnp.report.plots import (
    Series,
    as_svg,
    draw_bars,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
    draw_scores,
    figure,
)

if TYPE_CHECKING:
    from vnp.comparison.results import Disagreement, Results

_SHOWN = 200
_PAGE_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 96rem; padding: 0 1rem; color: #1b1b1b }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .6rem 0; font-size: 13px }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { background: #f4f4f4 }
td small { color: #666 } .wide { overflow-x: auto } svg { max-width: 100%; height: auto } summary { cursor: pointer }
"""


def page(results: Results) -> str:
    """One HTML page that needs nothing else: tables, and the plots as SVG."""
    parts = ["<h1>Accuracy</h1>", _list(results.notes)]
    names = list(next(iter(results.compared)).measured)
    for compared in results.compared:
        whole = [[name, *_cells(measured[0])] for name, measured in compared.measured.items()]
        parts += [f"<h2>By {compared.level}</h2>", _html_table(["", "number", "groups", *TITLES.values()], whole)]
        if compared.pairs:
            header = ["second - first", *(TITLES[name] for name in PAIRED), "McNemar p", "same call", "kappa"]
            parts.append(_html_table(header, [_pair_cells(pair) for pair in compared.pairs]))
            header = ["first, second", "both viral", "only first", "only second", "both host"]
            parts.append(_html_table(header, [_agreement_cells(pair) for pair in compared.pairs]))
        parts += _by_chunk(compared)
        parts.append(f'<div class="wide">{_plots(compared, results.series[compared.level])}</div>')
        parts += [_strata(compared, name) for name in names]
    if len(names) > 1:
        parts += [
            f"<h2>Records on which calls differ: {len(results.disagreements):,} of {results.records:,}</h2>",
            "" if len(results.disagreements) <= _SHOWN else f"<p>The first {_SHOWN}; all are in disagreements.tsv.</p>",
            _disagreement_table(results.disagreements[:_SHOWN], names),
        ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Accuracy</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_PAGE_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _plots(compared: Compared, series: Sequence[Series]) -> str:
    made, panels = figure(1, 3)
    for draw, axes in zip((draw_roc, draw_precision_recall, draw_reliability), panels, strict=True):
        draw(axes, series)
    drawn = as_svg(made)
    made, panels = figure(1, len(series), width=3.6, height=2.8)
    for axes, one in zip(panels, series, strict=True):
        draw_scores(axes, one)
    drawn += as_svg(made)
    if compared.pairs:
        made, panels = figure(1, len(PAIRED), width=3.4, height=1.2 + 0.35 * len(compared.pairs))
        for place, (axes, metric) in enumerate(zip(panels, PAIRED, strict=True)):
            found = [pair.differences[metric] for pair in compared.pairs]
            names = ["" if place else f"{pair.second} - {pair.first}" for pair in compared.pairs]
            axes.axvline(0, color="#999999", linewidth=0.8)
            spans = [(one.interval.low, one.interval.high) for one in found]
            draw_bars(axes, names, [one.value for one in found], spans, f"difference of {TITLES[metric]}")
        drawn += as_svg(made)
    return drawn


def _by_chunk(compared: Compared) -> list[str]:
    """Tables for each length of chunk, where chunks differ in it."""
    rows = [
        [f"{name}, {one.stratum}", *_cells(one)]
        for name, measured in compared.measured.items()
        for one in measured
        if one.by == "chunk"
    ]
    if not rows:
        return []
    tables = ["<h3>By length of chunk</h3>", _html_table(["", "number", "groups", *TITLES.values()], rows)]
    if compared.by_chunk:
        header = ["second - first", *(TITLES[name] for name in PAIRED), "McNemar p", "same call", "kappa"]
        pairs = [(f"{pair.stratum}: ", _pair_cells(pair)) for pair in compared.by_chunk]
        tables.append(_html_table(header, [[where + cells[0], *cells[1:]] for where, cells in pairs]))
    return tables


def _strata(compared: Compared, name: str) -> str:
    rows = [[f"{one.by}: {one.stratum}", *_cells(one)] for one in compared.measured[name][1:]]
    if not rows:
        return ""
    table = _html_table(["", "number", "groups", *TITLES.values()], rows)
    return f"<details><summary>{html.escape(name)}, part by part</summary>{table}</details>"


def _cells(one: Measured) -> list[str]:
    values = [f"{number(getattr(one.metrics, name))} <small>{span(one.intervals[name])}</small>" for name in NAMES]
    return [f"{one.metrics.count:,}", f"{one.groups:,}", *values]


def _pair_cells(pair: Pair) -> list[str]:
    kappa = pair.agreement.kappa
    values = [difference(pair, name) for name in PAIRED]
    return [f"{pair.second} - {pair.first}", *values, *tests(pair), "-" if kappa is None else f"{kappa:.3f}"]


def _agreement_cells(pair: Pair) -> list[str]:
    found = pair.agreement
    counts = (found.both_viral, found.first_viral, found.second_viral, found.both_host)
    return [f"{pair.first}, {pair.second}", *(f"{count:,}" for count in counts)]


def _disagreement_table(found: Sequence[Disagreement], names: Sequence[str]) -> str:
    rows = [
        [html.escape(one.name), f"{one.length:,}", "viral" if one.label else "host", html.escape(one.organism)]
        + [f"{one.probabilities[name]:.3f} {'viral' if one.calls[name] else 'host'}" for name in names]
        for one in found
    ]
    return _html_table(["record", "bases", "label", "organisms", *names], rows, escape=False)


def _html_table(header: Iterable[str], rows: Iterable[Sequence[str]], *, escape: bool = True) -> str:
    """Cells are HTML; the first of each row is text unless ``escape`` is off."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in (html.escape(row[0]) if escape else row[0], *row[1:])) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _list(texts: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>" if texts else ""
