"""The page of what was measured: of a comparison, and of a training. Words first, then tables and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vnp.metrics.metrics import METRICS, Interval
from vnp.report.pages import render

Cell = str | tuple[str, str]
"""A text, or a number and, smaller behind it, how sure it is."""
Terms = Sequence[tuple[str, str]]
"""Names with texts."""

METRIC_TERMS: Terms = [(metric.title, metric.meaning) for metric in METRICS]
LEVEL_TERMS: Terms = [
    ("record", "a sequence of the input: a read, a contig, a genome"),
    ("chunk", "a piece of a record, of the length that classifiers read at once"),
    ("frame", "one of six ways to read a chunk's codons, where no stop codon interrupts it"),
    ("group", "records that belong together, such as those of one genome: all are trained on, or all are held out"),
]
INTERVAL = (
    "95 % interval",
    "in brackets: where the number would lie, 95 times in 100, if other groups of the same kind had been held out. "
    "Whole groups are drawn, for records of one genome resemble each other",
)


class Table(NamedTuple):
    """A table of a page."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heading: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the page."""

    heading: str
    tables: Sequence[Table] = ()
    plots: Sequence[str] = ()  # ``<svg>`` elements, each a panel of its own
    hint: str = ""
    folded: bool = False  # shown only when asked for


def measured_page(
    heading: str,
    sub: str,
    words: Sequence[str],
    notes: Sequence[str],
    parts: Sequence[Part],
    terms: Terms,
    facts: Terms,
    files: Sequence[tuple[str, str]],
) -> str:
    """One HTML page that needs nothing else.

    Words, a sentence each, say what came out, notes what a reader must know, terms what words mean, facts how it was
    made, and files, by name, what lies beside the page.
    """
    return render(
        "measured.html", heading=heading, sub=sub, words=words, notes=notes, parts=parts, terms=terms, facts=facts,
        files=files,
    )  # fmt: skip


def joined(cell: Cell) -> str:
    """A cell as one text."""
    return cell if isinstance(cell, str) else " ".join(cell).rstrip()


def number(value: float | None, sign: str = "") -> str:
    """Three decimals, or a dash where there is no value; zero has no minus."""
    return "-" if value is None or value != value else f"{round(value, 3) + 0.0:{sign}.3f}"


def span(interval: Interval, sign: str = "") -> str:
    """Both ends of an interval, or nothing where there is none."""
    return "" if interval.low != interval.low else f"[{number(interval.low, sign)}, {number(interval.high, sign)}]"
