"""Groups that a split must not cut, and its parts: their names and numbers, and how many units go into each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int8

from vnp.errors import InputError, UsageError
from vnp.sequences.samplesheet import table_rows

PARTS = ("train", "validation", "test")
"""Names of the parts of a split, by number."""
TRAIN, VALIDATION, TEST = range(3)
NO_SPLIT = -1
"""Number of the part of a row that has none."""
_NAMED = 5


def shares_of_parts(validation: float, test: float) -> dict[int, float]:
    """The share of each part that there is; ``UsageError`` where nothing is left to train on."""
    if not (0 < validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise UsageError(
            f"validation takes {validation:g} and test {test:g} of the groups; validation must be above 0, and "
            "something must be left to train on"
        )
    shares = {TRAIN: 1 - validation - test, VALIDATION: validation}
    return shares | {TEST: test} if test else shares


def deal(count: int, shares: Mapping[int, float]) -> Int8[np.ndarray, "count"]:
    """Parts for so many shuffled units: each part its share, rounded, and at least one.

    There are no fewer units than parts.
    """
    parts = np.zeros(count, np.int8)
    done = 0
    others = [part for part in shares if part != TRAIN]
    for place, part in enumerate(others):
        reserved = len(others) - place
        take = min(max(1, round(shares[part] * count)), count - done - reserved)
        parts[done : done + take] = part
        done += take
    return parts


def part_counts(split: Int8[np.ndarray, "n"]) -> dict[str, int]:
    """How many rows are in each part; empty where no row has one. Rows without a part count as ``none``."""
    numbers, counts = np.unique(split, return_counts=True)
    found = {("none" if number < 0 else PARTS[number]): count for number, count in zip(numbers, counts, strict=True)}
    if set(found) <= {"none"}:
        return {}
    return {name: int(found[name]) for name in (*PARTS, "none") if name in found}


def read_groups(path: Path) -> dict[str, str]:
    """Read which group each record is in.

    The file has two columns, separated by tabs, the record's name and its group; a first line that begins with
    ``record`` or ``#`` is a heading.

    Raises:
        InputError: the file cannot be read, a line has not two columns, or a record stands in two groups.
    """
    found: dict[str, str] = {}
    for line, cells in table_rows(path, "table of groups"):
        if not cells or (line == 1 and (cells[0] == "record" or cells[0].startswith("#"))):
            continue
        if len(cells) != 2 or not all(cell.strip() for cell in cells):
            raise InputError(f"has {len(cells)} columns; give record and group, with a tab", path=path, line=line)
        record, group = (cell.strip() for cell in cells)
        if found.setdefault(record, group) != group:
            raise InputError(f"puts {record} into {group} and into {found[record]}", path=path, line=line)
    if not found:
        raise InputError("names no record", path=path)
    return found


def look_up(names: Sequence[str], sources: Sequence[Mapping[str, str | None]], what: str) -> list[str]:
    """The group of every record, from the first source that knows it.

    ``what`` is looked up, for the message.

    Raises:
        InputError: some have none.
    """
    found = [next((source[name] for source in sources if source.get(name)), None) for name in names]
    missing = [name for name, value in zip(names, found, strict=True) if value is None]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(names):,} records have no {what} in the file given: {some(missing)}. Add a "
            "line for each, with the record's name, a tab, and its group"
        )
    return [value for value in found if value is not None]


def some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
