"""Deals units out to training, validation and test, so that every organism group has its share of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8

from vnp.errors import InputError, UsageError

PARTS = ("train", "validation", "test")
"""Names of the parts of a split, by number."""
TRAIN, VALIDATION, TEST = range(3)
_CLASSES = ("host", "viral")


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


@dataclass(frozen=True, slots=True)
class Unit:
    """What is dealt out as a whole.

    Attributes:
        label: 1 viral, 0 host.
        organism_group: such as ``viral`` or ``bacteria``.
        bases: in all its records.
    """

    label: int
    organism_group: str
    bases: int


def split_units(
    units: Mapping[str, Unit], *, validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> dict[str, int]:
    """Split units, stratified over organism groups.

    The units of each organism group are dealt out on their own, each part its share of them and at least one. A unit
    that holds more than half of the bases goes to training, for the others could not make up for it. Organism groups
    with fewer units than there are parts are dealt out together, one pile for each label; if even that is too small, it
    all goes to training.

    Args:
        units: by name; their order does not matter.
        validation: share of the units that training is watched on.
        test: share of the units that nothing is decided on; 0 for no test part.
        seed: of the dealing.

    Returns:
        The part of each unit, an index into ``PARTS``.

    Raises:
        UsageError: the shares leave nothing to train on.
        InputError: a label has fewer units than there are parts.
    """
    shares = shares_of_parts(validation, test)
    found: dict[str, int] = {}
    for label in (1, 0):
        own = {name: unit for name, unit in sorted(units.items()) if unit.label == label}
        if len(own) < len(shares):
            raise InputError(
                f"{_CLASSES[label]} units: {len(own)}, too few to give one to each of "
                f"{', '.join(PARTS[part] for part in shares)}: add genomes, name smaller units (--units genome or "
                "record, or the sheet's column group), or leave out the test part (--test 0)"
            )
        for number, pile in enumerate(_piles(own, len(shares))):
            if len(pile) < len(shares):
                found |= dict.fromkeys(pile, TRAIN)
                continue
            shuffled = [pile[place] for place in np.random.default_rng([seed, label, number]).permutation(len(pile))]
            largest = max(pile, key=lambda name: own[name].bases)
            if 2 * own[largest].bases > sum(own[name].bases for name in pile):
                # Training has the end of the row.
                shuffled.remove(largest)
                shuffled.append(largest)
            found |= dict(zip(shuffled, deal(len(pile), shares).tolist(), strict=True))
    return found


def _piles(units: Mapping[str, Unit], least: int) -> list[Sequence[str]]:
    """Units by organism group, those of small groups together at the end."""
    by_group: dict[str, list[str]] = {}
    for name, unit in units.items():
        by_group.setdefault(unit.organism_group, []).append(name)
    large = [pile for _, pile in sorted(by_group.items()) if len(pile) >= least]
    small = [name for _, pile in sorted(by_group.items()) if len(pile) < least for name in pile]
    return [*large, small]
