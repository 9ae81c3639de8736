"""Parts of a split: their names and numbers, and how many units go into each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int8

from vnp.errors import UsageError

PARTS = ("train", "validation", "test")
"""Names of the parts of a split, by number."""
TRAIN, VALIDATION, TEST = range(3)
NO_SPLIT = -1
"""Number of the part of a row that has none."""


def shares_of_parts(validation: float, test: float) -> dict[int, float]:
    """The share of each part, without those that there are not.

    Raises:
        UsageError: the shares leave nothing to train on.
    """
    if not (0 < validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise UsageError(
            f"validation takes {validation:g} and test {test:g} of the groups; validation must be above 0, and "
            "something must be left to train on"
        )
    shares = {TRAIN: 1 - validation - test, VALIDATION: validation}
    return shares | {TEST: test} if test else shares


def deal(count: int, shares: Mapping[int, float]) -> Int8[np.ndarray, "count"]:
    """Parts for so many shuffled units: each part its share, rounded, and at least one.

    Args:
        count: of the units, no fewer than there are parts.
        shares: of the parts.
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
