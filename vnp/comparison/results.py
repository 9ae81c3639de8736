"""What a comparison writes: one table, one JSON, one page of plots, and the records on which calls differ.

Numbers are written once, for the page and for the terminal alike.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vnp.comparison.comparison import Compared, Measured, Pair, as_json
from vnp.files.durable import write_text
from vnp.files.records import write_json
from vnp.files.tables import table_text
from vnp.metrics.metrics import METRICS, NAMES, Interval
from vnp.report.pages import render
from vnp.report.plots import Series, comparison_plots

FILES = ("accuracy.tsv", "accuracy.json", "accuracy.html", "disagreements.tsv")
_TITLES = [metric.title for metric in METRICS]
_PAIRED = [metric for metric in METRICS if metric.paired]
_PAIR_TITLES = [*(metric.title for metric in _PAIRED), "McNemar p", "same call"]
_BY_CHUNK = ("accuracy", "roc_auc", "f1", "mcc")
_MOST_DISAGREEMENTS = 200


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A record that not all contestants call the same."""

    name: str
    length: int
    label: int
    group: str
    organism: str
    probabilities: dict[str, float]
    calls: dict[str, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """What was measured besides: its own part of the page, and of the JSON under its name."""

    name: str
    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]  # texts
    content: Any  # the same for JSON
    plots: Sequence[str] = ()  # ``<svg>`` elements


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """A whole comparison."""

    about: dict[str, Any]  # what was compared and how: contestants, split, rule, seeds
    notes: Sequence[str]  # what a reader must know, one sentence each
    compared: Sequence[Compared]  # the levels
    series: Mapping[str, Sequence[Series]]  # for each level what to draw
    disagreements: Sequence[Disagreement]  # records on which calls differ
    records: int  # how many records were compared
    names: Sequence[str] = ()  # of the records, in the order of their series
    groups: Sequence[str] = ()  # of the records, what is drawn as a whole
    sections: Sequence[Section] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it but the curves."""
        return {
            **self.about,
            "notes": list(self.notes),
            "levels": {compared.level: as_json(compared) for compared in self.compared},
            "disagreements": {"records": self.records, "differing": len(self.disagreements)},
            **{section.name: section.content for section in self.sections},
        }


def write_results(results: Results, folder: Path) -> list[Path]:
    """Write ``accuracy.tsv``, ``accuracy.json``, ``accuracy.html`` and ``disagreements.tsv`` into a folder."""
    paths = [folder / name for name in FILES]
    write_text(paths[0], table_text(_metric_rows(results.compared)))
    write_json(paths[1], results.to_json())
    write_text(paths[2], page(results))
    write_text(paths[3], table_text(_disagreement_rows(results.disagreements)))
    return paths


def summary(results: Results) -> str:
    """Tables for a terminal of 80 columns: the metrics of each level, and the differences of pairs.

    Contestants are columns, by letters, since their names may be long.
    """
    names = list(results.compared[0].measured)
    letters = dict(zip(names, _letters(), strict=False))
    lines = [f"{letters[name]} = {name}" for name in names]
    for compared in results.compared:
        table = [["", "number", "groups", *_TITLES]]
        table += [
            [letters[name], f"{whole.metrics.count:,}", f"{whole.groups:,}", *_joined(whole, NAMES)]
            for name, (whole, *_) in compared.measured.items()
        ]
        lines += ["", f"{compared.level} level", *_turned(table)]
        if compared.pairs:
            lines += [
                "",
                *_turned(
                    [["", *_PAIR_TITLES], *([_short(pair, letters), *_pair_cells(pair)] for pair in compared.pairs)]
                ),
            ]
        if compared.level == "chunk":
            lines += _by_chunk(compared, letters)
    return "\n".join(lines)


def _by_chunk(compared: Compared, letters: Mapping[str, str]) -> Iterator[str]:
    """The metrics for each length of chunk, and what separates each two classifiers there."""
    titles = {metric.name: metric.title for metric in METRICS}
    table = [["", "number", "groups", *(titles[name] for name in _BY_CHUNK)]]
    table += [
        [f"{letters[name]}, {one.stratum}", f"{one.metrics.count:,}", f"{one.groups:,}", *_joined(one, _BY_CHUNK)]
        for name, one in _of_chunks(compared)
    ]
    if len(table) == 1:
        return
    yield from ("", "by length of chunk", *_turned(table))
    if compared.pairs_by_chunk:
        cells = [[f"{_short(pair, letters)}, {pair.stratum}", *_pair_cells(pair)] for pair in compared.pairs_by_chunk]
        yield from ("", *_turned([["", *_PAIR_TITLES], *cells]))


def _joined(one: Measured, metrics: Sequence[str]) -> list[str]:
    return [" ".join(_value(one, metric)).rstrip() for metric in metrics]


def _short(pair: Pair, letters: Mapping[str, str]) -> str:
    return f"{letters[pair.second]} - {letters[pair.first]}"


def _letters() -> Iterator[str]:
    """A to Z, then AA, AB and so on."""
    for count in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=count))


def _turned(table: Sequence[Sequence[str]]) -> list[str]:
    return columns(list(zip(*table, strict=True)))


Cell = str | tuple[str, str]
"""A text, or a number and, smaller behind it, how sure it is."""


class Table(NamedTuple):
    """A table of a page."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heading: str = ""


def page(results: Results) -> str:
    """One HTML page that needs nothing else: tables, and the plots as SVG."""
    levels = []
    for compared in results.compared:
        spans: dict[str, list[tuple[float, float, float]]] = {}
        for metric in _PAIRED:
            found = [pair.second_minus_first[metric.name] for pair in compared.pairs]
            spans[metric.title] = [(one.value, one.interval.low, one.interval.high) for one in found]
        levels.append(
            {
                "name": compared.level,
                "tables": list(_tables(compared)),
                "plots": comparison_plots(
                    results.series[compared.level], [_names(pair) for pair in compared.pairs], spans
                ),
                "parts": [
                    _measured_table([(f"{one.by}: {one.stratum}", one) for one in parts], f"{name}, part by part")
                    for name, (_, *parts) in compared.measured.items()
                    if parts
                ],
            }
        )
    names = list(results.compared[0].measured)
    return render(
        "accuracy.html", notes=results.notes, levels=levels, sections=results.sections,
        differing=_differing(results, names),
    )  # fmt: skip


def _tables(compared: Compared) -> Iterator[Table]:
    yield _measured_table([(name, measured[0]) for name, measured in compared.measured.items()])
    header = ["second - first", *_PAIR_TITLES, "kappa"]
    if compared.pairs:
        yield Table(header, [[_names(pair), *_pair_cells(pair), _kappa(pair)] for pair in compared.pairs])
        counts = ["both_viral", "first_viral", "second_viral", "both_host"]
        rows = [
            [f"{pair.first}, {pair.second}", *(f"{getattr(pair.agreement, name):,}" for name in counts)]
            for pair in compared.pairs
        ]
        yield Table(["first, second", "both viral", "only first", "only second", "both host"], rows)
    by_chunk = [(f"{name}, {one.stratum}", one) for name, one in _of_chunks(compared)]
    if by_chunk:
        yield _measured_table(by_chunk, "By length of chunk")
    if compared.pairs_by_chunk:
        rows = [
            [f"{pair.stratum}: {_names(pair)}", *_pair_cells(pair), _kappa(pair)] for pair in compared.pairs_by_chunk
        ]
        yield Table(header, rows)


def _measured_table(found: Sequence[tuple[str, Measured]], heading: str = "") -> Table:
    rows: list[list[Cell]] = [
        [name, f"{one.metrics.count:,}", f"{one.groups:,}", *(_value(one, metric) for metric in NAMES)]
        for name, one in found
    ]
    return Table(["", "number", "groups", *_TITLES], rows, heading)


def _differing(results: Results, names: Sequence[str]) -> dict[str, Any] | None:
    if len(names) < 2:
        return None
    found = results.disagreements
    rows = [
        [one.name, f"{one.length:,}", "viral" if one.label else "host", one.organism]
        + [f"{one.probabilities[name]:.3f} {'viral' if one.calls[name] else 'host'}" for name in names]
        for one in found[:_MOST_DISAGREEMENTS]
    ]
    all_in = f"The first {_MOST_DISAGREEMENTS}; all are in disagreements.tsv."
    return {
        "heading": f"Records on which calls differ: {len(found):,} of {results.records:,}",
        "hint": all_in if len(found) > _MOST_DISAGREEMENTS else "",
        "table": Table(["record", "bases", "label", "organisms", *names], rows),
    }


def _of_chunks(compared: Compared) -> Iterator[tuple[str, Measured]]:
    """What was measured on each length of chunk, where chunks differ in it."""
    for name, measured in compared.measured.items():
        yield from ((name, one) for one in measured if one.by == "chunk")


def _names(pair: Pair) -> str:
    return f"{pair.second} - {pair.first}"


def _pair_cells(pair: Pair) -> list[str]:
    """The differences; McNemar's p-value with the counts it rests on; the share of cases called alike."""
    cells = []
    for metric in _PAIRED:
        found = pair.second_minus_first[metric.name]
        known = found.value == found.value
        cells.append(f"{found.value:+.3f} {_span(found.interval, sign='+')}" if known else "-")
    test = pair.mcnemar
    return [
        *cells, f"{test.p_value:.2g} ({test.first_only:,} : {test.second_only:,})", f"{pair.agreement.share:.1%}",
    ]  # fmt: skip


def _kappa(pair: Pair) -> str:
    return "-" if pair.agreement.kappa is None else f"{pair.agreement.kappa:.3f}"


def _value(one: Measured, metric: str) -> tuple[str, str]:
    return _number(one.metrics[metric]), _span(one.intervals[metric])


def _number(value: float) -> str:
    """Three decimals, or a dash where there is no value."""
    return "-" if value != value else f"{value:.3f}"


def _span(interval: Interval, sign: str = "") -> str:
    """Both ends of an interval, or nothing where there is none."""
    return "" if interval.low != interval.low else f"[{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _exact(value: float) -> str:
    """Six decimals for a file, empty where there is no value."""
    return "" if value != value else f"{value:.6f}"


def _metric_rows(levels: Sequence[Compared]) -> Iterator[list[str]]:
    ends = [f"{name}{end}" for name in NAMES for end in ("", "_low", "_high")]
    counts = list(next(iter(levels[0].measured.values()))[0].metrics.counts)
    yield ["contestant", "level", "by", "stratum", "groups", *counts, *ends]
    for compared in levels:
        for contestant, found in compared.measured.items():
            for one in found:
                values = [
                    _exact(value)
                    for name in NAMES
                    for value in (one.metrics[name], one.intervals[name].low, one.intervals[name].high)
                ]
                whole = map(str, (one.groups, *one.metrics.counts.values()))
                yield [contestant, compared.level, one.by, one.stratum, *whole, *values]


def _disagreement_rows(found: Sequence[Disagreement]) -> Iterator[list[str]]:
    names = list(found[0].probabilities) if found else []
    columns = [f"{what}:{name}" for name in names for what in ("probability", "call")]
    yield ["record", "length", "label", "group", "organism", *columns]
    for one in found:
        cells = [
            cell for name in names for cell in (_exact(one.probabilities[name]), "viral" if one.calls[name] else "host")
        ]
        yield [one.name, str(one.length), "viral" if one.label else "host", one.group, one.organism, *cells]


def columns(rows: Sequence[Sequence[str]], width: int = 80) -> list[str]:
    """Lines of a table for a terminal, its header first; the first column stands to the left.

    Columns that do not fit beside the others follow in a table below, with the first one again.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    tables: list[list[int]] = [[]]
    for number, own in enumerate(widths[1:], 1):
        if tables[-1] and widths[0] + sum(2 + widths[other] for other in tables[-1]) + 2 + own > width:
            tables.append([])
        tables[-1].append(number)
    lines: list[str] = []
    for shown in tables:
        lines += [""] * bool(lines)
        lines += ["  ".join([row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in shown)]) for row in rows]
    return lines
