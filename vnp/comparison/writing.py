"""What a comparison writes: one table, one JSON, one page, and the records on which calls differ.

Numbers are written once, for the page and for the terminal alike.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vnp.comparison.comparison import Compared, Measured, Pair
from vnp.comparison.page import BY_CHUNK, PAIRED, difference, mcnemar_cell, measured_rows, of_chunks, page
from vnp.comparison.results import FILES, Disagreement, Results
from vnp.files.durable import write_text
from vnp.files.records import write_json
from vnp.files.tables import columns, table_text
from vnp.metrics.metrics import NAMES
from vnp.report.measured import Cell, joined


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
    letters = dict(zip(results.compared[0].measured, _letters(), strict=False))
    lines = [f"{letter} = {name}" for name, letter in letters.items()]
    for compared in results.compared:
        whole = {letters[name]: found[0] for name, found in compared.measured.items()}
        pairs = {_short(pair, letters): pair for pair in compared.pairs}
        lines += ["", f"{compared.level} level", *_shown(whole, NAMES), *_apart(pairs)]
        if compared.level == "chunk" and (by_chunk := list(of_chunks(compared))):
            each = {f"{letters[name]}, {one.stratum}": one for name, one in by_chunk}
            pairs = {f"{_short(pair, letters)}, {pair.stratum}": pair for pair in compared.pairs_by_chunk}
            lines += ["", "by length of chunk", *_shown(each, BY_CHUNK), *_apart(pairs)]
    return "\n".join(lines)


def _shown(measured: Mapping[str, Measured], metrics: Sequence[str]) -> list[str]:
    return _table(measured, measured_rows(list(measured.values()), metrics))


def _apart(pairs: Mapping[str, Pair]) -> list[str]:
    """The differences; McNemar's p-value with the counts it rests on; the share of cases called alike."""
    if not pairs:
        return []
    rows: list[list[Cell]] = [
        *([metric.title, *(difference(pair, metric.name) for pair in pairs.values())] for metric in PAIRED),
        ["McNemar p", *map(mcnemar_cell, pairs.values())],
        ["same call", *(f"{pair.agreement.share:.1%}" for pair in pairs.values())],
    ]
    return ["", *_table(pairs, rows)]


def _table(header: Iterable[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    return columns([["", *header], *(list(map(joined, row)) for row in rows)])


def _short(pair: Pair, letters: Mapping[str, str]) -> str:
    return f"{letters[pair.second]} - {letters[pair.first]}"


def _letters() -> Iterator[str]:
    """A to Z, then AA, AB and so on."""
    for count in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=count))


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
