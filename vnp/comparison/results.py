"""What a comparison writes: one table, one JSON, one page of plots, and the records on which calls differ."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnp.comparison.comparison import Compared
from vnp.comparison.formats import PAIRED, TITLES, both_ends, difference, exact, number, span, tests
from vnp.files.durable import replacing
from vnp.files.records import write_json
from vnp.metrics.bootstrap import NAMES
from vnp.report.accuracy import page
from vnp.report.plots import Series

FILES = ("accuracy.tsv", "accuracy.json", "accuracy.html", "disagreements.tsv")
_BY_CHUNK = ("accuracy", "roc_auc", "f1", "mcc")
_COUNTS = ("count", "viral", "true_positives", "false_positives", "true_negatives", "false_negatives")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A record that not all contestants call the same.

    Args:
        name: of the record.
        length: in bases.
        label: 1 viral, 0 host.
        group: that a split must not cut.
        organism: group of organisms.
        probabilities: of viral, by contestant.
        calls: whether each calls it viral.
    """

    name: str
    length: int
    label: int
    group: str
    organism: str
    probabilities: dict[str, float]
    calls: dict[str, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """A whole comparison.

    Args:
        about: what was compared and how: contestants, split, rule, seeds.
        notes: what a reader must know, one sentence each.
        compared: the levels.
        series: for each level what to draw.
        disagreements: records on which calls differ.
        records: how many records were compared.
    """

    about: dict[str, Any]
    notes: Sequence[str]
    compared: Sequence[Compared]
    series: Mapping[str, Sequence[Series]]
    disagreements: Sequence[Disagreement]
    records: int

    def to_json(self) -> dict[str, Any]:
        """All of it but the curves."""
        return {
            **self.about,
            "notes": list(self.notes),
            "levels": {compared.level: compared.to_json() for compared in self.compared},
            "disagreements": {"records": self.records, "differing": len(self.disagreements)},
        }


def write_results(results: Results, folder: Path) -> list[Path]:
    """Write ``accuracy.tsv``, ``accuracy.json``, ``accuracy.html`` and ``disagreements.tsv`` into a folder.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    paths = [folder / name for name in FILES]
    _write_text(paths[0], _table(_metric_rows(results.compared)))
    write_json(paths[1], results.to_json())
    _write_text(paths[2], page(results))
    _write_text(paths[3], _table(_disagreement_rows(results.disagreements)))
    return paths


def summary(results: Results) -> str:
    """Tables for a terminal: the metrics of each level, and the differences of pairs."""
    lines: list[str] = []
    for compared in results.compared:
        rows = [["", "number", *TITLES.values()]]
        for name, measured in compared.measured.items():
            whole = measured[0]
            values = [number(getattr(whole.metrics, metric)) for metric in NAMES]
            rows.append([name, f"{whole.metrics.count:,}", *values])
            rows.append(["", f"{whole.groups:,} groups", *(span(whole.intervals[metric]) for metric in NAMES)])
        lines += ["", f"{compared.level} level", *_columns(rows)]
        if compared.pairs:
            rows = [["second - first", *(TITLES[name] for name in PAIRED), "McNemar p", "same call"]]
            for pair in compared.pairs:
                values = [difference(pair, name) for name in PAIRED]
                rows.append([f"{pair.second} - {pair.first}", *values, *tests(pair)])
            lines += ["", *_columns(rows)]
        if compared.level == "chunk":
            lines += _by_chunk(compared)
    return "\n".join(lines[1:])


def _by_chunk(compared: Compared) -> Iterator[str]:
    """The metrics for each length of chunk, and what separates each two classifiers there."""
    rows = [["by length of chunk", "length", "number", "groups", *(TITLES[name] for name in _BY_CHUNK)]]
    for name, measured in compared.measured.items():
        for one in (one for one in measured if one.by == "chunk"):
            values = [both_ends(one, metric) for metric in _BY_CHUNK]
            rows.append([name, one.stratum, f"{one.metrics.count:,}", f"{one.groups:,}", *values])
    if len(rows) == 1:
        return
    yield from ("", *_columns(rows))
    if compared.by_chunk:
        header = ["second - first", "length", *(TITLES[name] for name in PAIRED), "McNemar p", "same call"]
        rows = [header] + [
            [f"{pair.second} - {pair.first}", pair.stratum, *(difference(pair, name) for name in PAIRED), *tests(pair)]
            for pair in compared.by_chunk
        ]
        yield from ("", *_columns(rows))


def _metric_rows(levels: Sequence[Compared]) -> Iterator[list[str]]:
    ends = [f"{name}{end}" for name in NAMES for end in ("", "_low", "_high")]
    yield ["contestant", "level", "by", "stratum", "groups", *_COUNTS, *ends]
    for compared in levels:
        for contestant, found in compared.measured.items():
            for one in found:
                counts = [str(getattr(one.metrics, name)) for name in _COUNTS]
                values = [
                    exact(value)
                    for name in NAMES
                    for value in (getattr(one.metrics, name), one.intervals[name].low, one.intervals[name].high)
                ]
                yield [contestant, compared.level, one.by, one.stratum, str(one.groups), *counts, *values]


def _disagreement_rows(found: Sequence[Disagreement]) -> Iterator[list[str]]:
    names = list(found[0].probabilities) if found else []
    columns = [f"{what}:{name}" for name in names for what in ("probability", "call")]
    yield ["record", "length", "label", "group", "organism", *columns]
    for one in found:
        cells = [
            cell for name in names for cell in (exact(one.probabilities[name]), "viral" if one.calls[name] else "host")
        ]
        yield [one.name, str(one.length), "viral" if one.label else "host", one.group, one.organism, *cells]


def _table(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
