"""Where a shard begins and what is in it. Importing this loads no libraries: a login node may have none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """Where a unit is.

    Args:
        input: index of the input file.
        record: ordinal of the record within that file.
        chunk: ordinal of the chunk within that record.
        offset: byte at which the record starts in the file, or -1 where the file must be read from its start.
        line: line at which it starts, 1-based, or -1 where that is not known.
    """

    input: int
    record: int
    chunk: int
    offset: int
    line: int


START = (0, 0, 0, 1)


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of the shard table.

    Args:
        number: 0-based.
        start: its first unit.
        units: how many units it holds.
        rows: how many open frames these have.
        tokens: expected tokens of both encoders.
        bases: bases of its chunks, overlaps counted twice.
    """

    number: int
    start: Position
    units: int
    rows: int
    tokens: int
    bases: int

    def blocks(self, block_units: int) -> int:
        """How many blocks of at most so many units it is cut into."""
        return -(-self.units // block_units)
