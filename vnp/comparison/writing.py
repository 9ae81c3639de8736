"""What a comparison writes: one table, one JSON, one page, and the records on which calls differ.

Numbers are written once, for the page and for the terminal alike.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vnp.comparison.comparison import Compared, Measured, Pair
from vnp.comparison.page import PAIRED, of_chunks, page, value_of
from vnp.comparison.results import FILES, Disagreement, Results
from vnp.files.durable import write_text
from vnp.files.records import write_json
from vnp.files.tables import columns, table_text
from vnp.metrics.metrics import METRICS, NAMES
from vnp.report.measured import number, span

_TITLES = [metric.title for metric in METRICS]
_PAIR_TITLES = [*(metric.title for metric in PAIRED), "McNemar p", "same call"]
_BY_CHUNK = ("accuracy", "roc_auc", "f1", "mcc")


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
        for name, one in of_chunks(compared)
    ]
    if len(table) == 1:
        return
    yield from ("", "by length of chunk", *_turned(table))
    if compared.pairs_by_chunk:
        cells = [[f"{_short(pair, letters)}, {pair.stratum}", *_pair_cells(pair)] for pair in compared.pairs_by_chunk]
        yield from ("", *_turned([["", *_PAIR_TITLES], *cells]))


def _joined(one: Measured, metrics: Sequence[str]) -> list[str]:
    return [" ".join(value_of(one, metric)).rstrip() for metric in metrics]


def _short(pair: Pair, letters: Mapping[str, str]) -> str:
    return f"{letters[pair.second]} - {letters[pair.first]}"


def _letters() -> Iterator[str]:
    """A to Z, then AA, AB and so on."""
    for count in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=count))


def _turned(table: Sequence[Sequence[str]]) -> list[str]:
    return columns(list(zip(*table, strict=True)))


def _pair_cells(pair: Pair) -> list[str]:
    """The differences; McNemar's p-value with the counts it rests on; the share of cases called alike."""
    cells = []
    for metric in PAIRED:
        found = pair.second_minus_first[metric.name]
        known = found.value == found.value
        cells.append(f"{number(found.value, '+')} {span(found.interval, '+')}" if known else "-")
    test = pair.mcnemar
    return [
        *cells, f"{test.p_value:.2g} ({test.first_only:,} : {test.second_only:,})", f"{pair.agreement.share:.1%}",
    ]  # fmt: skip


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
