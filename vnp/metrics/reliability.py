"""How far to trust a call: bins of calls, and how many of those of held-out records were wrong in each.

A bin is what a call must have: so many bases, a probability of what it says, a share of rows that agree with it, and no
more than so much novelty. The bin of ``high`` is the widest of a small grid in which no more than 2 % of the viral and
of the host calls of held-out records are wrong, and 5 % of those of any organism group; that of ``medium`` is the same
for 10 %. All else is ``low``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from vnp.files.records import from_json

LOW, MEDIUM, HIGH = 0, 1, 2
LEVELS = {HIGH: "high", MEDIUM: "medium", LOW: "low"}
LIMITS = {HIGH: (0.02, 0.05), MEDIUM: (0.10, 0.25)}
"""Share of calls of a level that may be wrong, and of those of one organism group."""
FEWEST = 100
"""Held-out calls, viral or host, that a bin needs."""
_FEWEST_OF_GROUP = 50
_LENGTHS = (0, 300, 500, 1_000, 2_000, 3_000, 5_000)
_SURE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
_AGREEING = (0.0, 0.6, 0.8, 1.0)
_NOVEL = (100.0, 99.0, 95.0, 90.0, 80.0, 60.0)


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """n calls, with what they are told apart by."""

    length: Int64[np.ndarray, "n"]  # bases of the record
    sure: Float[np.ndarray, "n"]  # probability of what the call says
    agreement: Float[np.ndarray, "n"]  # share of the rows that agree with it
    novelty: Float[np.ndarray, "n"]  # percentile; NaN where it is not known

    def part(self, some: np.ndarray) -> Judgements:
        """Some of them."""
        return Judgements(self.length[some], self.sure[some], self.agreement[some], self.novelty[some])


@dataclass(frozen=True, slots=True)
class Bin:
    """What a call of a level has at least."""

    length: int  # bases
    sure: float  # probability of what it says
    agreement: float  # share of rows
    novelty: float  # percentile, at most

    def holds(self, calls: Judgements) -> Bool[np.ndarray, "n"]:
        """Which calls are in it."""
        # What rounds to a bound reaches it; a record whose novelty is not known may be new.
        near = calls.novelty <= self.novelty if self.novelty < 100 else np.ones(len(calls.length), bool)
        found: Bool[np.ndarray, "n"] = (
            (calls.length >= self.length)
            & (calls.sure >= self.sure)
            & (calls.agreement >= self.agreement - 1e-6)
            & near
        )
        return found

    def __str__(self) -> str:
        said = [f"of at least {self.length:,} bases"] if self.length else []
        said += [f"a probability of at least {self.sure:g} for what the call says"]
        said += [f"at least {self.agreement:.0%} of the rows agree"] if self.agreement else []
        said += [f"novelty of at most {self.novelty:g}"] if self.novelty < 100 else []
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Measured:
    """Calls of held-out records of one level."""

    calls: int
    share: float  # of all calls
    wrong: float | None  # share of them; None where there are none
    viral_wrong: float | None  # of those that say viral
    host_wrong: float | None  # of those that say host


@dataclass(frozen=True, slots=True)
class Reliability:
    """The bins of a classifier and what was measured in them."""

    high: Bin | None  # None where no bin is as good as that
    medium: Bin | None
    measured: dict[str, Measured]  # by the name of the level, on records that the bins were not chosen on
    chosen_on: str  # which records the bins were chosen on
    measured_on: str  # which records they were measured on

    def levels(self, calls: Judgements) -> Int8[np.ndarray, "n"]:
        """The level of each call."""
        found = np.full(len(calls.length), LOW, np.int8)
        for level, one in ((MEDIUM, self.medium), (HIGH, self.high)):
            if one is not None:
                found[one.holds(calls)] = level
        return found

    def condition(self, level: int) -> str:
        """What a call of a level has, in words."""
        one = {HIGH: self.high, MEDIUM: self.medium}.get(level)
        return "all else" if level == LOW else str(one) if one is not None else "never: no bin is as good as that"

    def sentences(self) -> list[str]:
        """What each level means, with its error."""
        found = []
        for level, name in LEVELS.items():
            condition, seen = self.condition(level), self.measured.get(name)
            told = ""
            if seen is not None and seen.wrong is not None:
                told = f" ({seen.wrong:.1%} of {seen.calls:,} calls were wrong, {seen.share:.0%} of all)"
            found.append(f"{name}: {condition}{told}")
        return found

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reliability:
        """Read what ``to_json`` gave.

        Raises:
            TypeError: something is missing, or of another type.
            ValueError: a number cannot be.
        """
        return from_json(cls, dict(stored))


def fit_reliability(
    calls: Judgements,
    says_viral: Bool[np.ndarray, "n"],
    wrong: Bool[np.ndarray, "n"],
    group: Sequence[str] | np.ndarray | None = None,
) -> tuple[Bin | None, Bin | None]:
    """Choose the bins of ``high`` and ``medium`` on held-out records.

    ``says_viral`` is what each call says, ``wrong`` whether it is wrong, ``group`` the organism group.
    """
    groups = np.unique(np.asarray(group), return_inverse=True)[1] if group is not None else None
    found: dict[int, Bin | None] = {}
    for level, (limit, of_group) in LIMITS.items():
        best, most = None, 0
        for numbers in product(_LENGTHS, _SURE, _AGREEING, _NOVEL):
            one = Bin(*numbers)
            inside = one.holds(calls)
            count = int(inside.sum())
            if count <= most or not _good(inside, says_viral, wrong, limit):
                continue
            if groups is not None and not _good_in_groups(inside, wrong, groups, of_group):
                continue
            best, most = one, count
        found[level] = best
    return found[HIGH], found[MEDIUM]


def _good(inside: np.ndarray, says_viral: np.ndarray, wrong: np.ndarray, limit: float) -> bool:
    for said in (True, False):
        some = inside & (says_viral == said)
        count = int(some.sum())
        if count and (count < FEWEST or (wrong[some].sum() + 1) / (count + 2) > limit):
            return False
    return bool(inside.any())


def _good_in_groups(inside: np.ndarray, wrong: np.ndarray, group: np.ndarray, limit: float) -> bool:
    count = np.bincount(group[inside])
    mistaken = np.bincount(group[inside], weights=wrong[inside])
    told = count >= _FEWEST_OF_GROUP
    return bool((mistaken[told] <= limit * count[told]).all())


def measure_levels(
    level: Int8[np.ndarray, "n"], says_viral: Bool[np.ndarray, "n"], wrong: Bool[np.ndarray, "n"]
) -> dict[str, Measured]:
    """How many calls of each level are wrong."""
    found = {}
    for number, name in LEVELS.items():
        some = level == number
        shares = [_share(wrong[some & of]) for of in (np.ones(len(some), bool), says_viral, ~says_viral)]
        found[name] = Measured(int(some.sum()), float(some.mean()) if len(some) else 0.0, *shares)
    return found


def _share(wrong: np.ndarray) -> float | None:
    return float(wrong.mean()) if len(wrong) else None
