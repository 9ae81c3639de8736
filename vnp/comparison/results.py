"""What a comparison found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vnp.comparison.comparison import Compared, as_json
from vnp.report.plots import Series

FILES = ("accuracy.tsv", "accuracy.json", "accuracy.html", "disagreements.tsv")


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
    hint: str = ""  # what it means


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
