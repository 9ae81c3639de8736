"""Counts of what became of chunks and frames, by organism group and length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

COLUMNS = (
    "chunks", "ambiguous", "no_open_frame", "unannotated", "listed", "matched", "kept",
    "frames", "frames_unannotated", "frames_listed", "frames_matched", "frames_kept", "frames_annotated",
)  # fmt: skip
"""What is counted. Each chunk is one of ambiguous, without an open frame, without an annotated one, in a listed region,
matched by a viral genome, or kept; each open frame of unambiguous chunks is one of the last four. ``frames_annotated``
are those among the kept ones that lie in an annotated protein."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one organism group.

    Attributes:
        table: a row for each length, a number for each of ``COLUMNS``.
    """

    table: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def none(cls, lengths: int) -> Counts:
        """Counts of so many lengths, all 0."""
        return cls([dict.fromkeys(COLUMNS, 0) for _ in range(lengths)])

    def length(self, number: int) -> Callable[[str, int], None]:
        """A function that adds to a column of one length."""

        def add(column: str, count: int) -> None:
            self.table[number][column] += count

        return add


def add_up(counts: Iterable[Mapping[str, Counts]], lengths: int) -> dict[str, Counts]:
    """Add counts of several files up, by organism group, in the order of their names."""
    total: dict[str, Counts] = {}
    for file in counts:
        for group, own in file.items():
            into = total.setdefault(group, Counts.none(lengths))
            for number, row in enumerate(own.table):
                for column, count in row.items():
                    into.length(number)(column, count)
    return dict(sorted(total.items()))


def rows(counts: Mapping[str, Counts], names: Iterable[str]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Organism group, name of the length, and the numbers, row by row."""
    lengths = list(names)
    for group, own in counts.items():
        for name, numbers in zip(lengths, own.table, strict=True):
            yield group, name, numbers
