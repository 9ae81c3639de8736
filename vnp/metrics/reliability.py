"""How far to trust a call: bins of calls, and how many of those of held-out records were wrong in each.

A bin is what a call must have: so many bases, a probability of what it says, a share of rows that agree with it, and no
more than so much novelty. Viral and host calls have bins of their own. Those of ``high`` are the widest of a small grid
in which no more than 2 % of the calls of held-out records are wrong, and 5 % of those of any organism group; those of
``medium`` are the same for 10 %. All else is ``low``.

That does not bound what is wrong with what resembles nothing known, for none of that is among held-out records of known
groups. So ``high`` takes ``LONG`` bases, a probability of ``SUREST``, and ``NEAREST`` of the novelty that right
calls have, whatever the held-out records would allow: what networks trained without whole organism groups need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8, Int64

from vnp.files.records import from_json

LOW, MEDIUM, HIGH = 0, 1, 2
LEVELS = {HIGH: "high", MEDIUM: "medium", LOW: "low"}
LIMITS = {HIGH: (0.02, 0.05), MEDIUM: (0.10, 0.25)}
"""Share of calls of a level that may be wrong, and of those of one organism group."""
FEWEST = 100
"""Held-out calls, viral or host, that a bin needs."""
LONG = 5_000
"""Bases of a record whose call is of high reliability, at least; too many sure calls of shorter ones are wrong."""
SUREST = 0.99
"""Probability of what it says that a call of high reliability has at least."""
NEAREST = 0.65
"""Share of the right calls that say the same; those of high reliability are no more novel than that many of them."""
_FEWEST_OF_GROUP = 50
_LENGTHS = (0, 300, 500, 1_000, 2_000, 3_000, 5_000)
_SURE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
_AGREEING = (0.0, 0.6, 0.8, 1.0)
_NOVEL = (1.0, 0.99, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2)


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """n calls, with what they are told apart by."""

    length: Int64[np.ndarray, "n"]  # bases of the record
    sure: Float[np.ndarray, "n"]  # probability of what the call says
    agreement: Float[np.ndarray, "n"]  # share of the rows that agree with it
    novelty: Float[np.ndarray, "n"]  # percentile; NaN where it is not known
    viral: Bool[np.ndarray, "n"]  # whether the call says viral

    def part(self, some: np.ndarray) -> Judgements:
        """Some of them."""
        return Judgements(*(getattr(self, name)[some] for name in self.__slots__))


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
class Bins:
    """What calls of a level have, by what they say; None where no bin is as good as that."""

    viral: Bin | None
    host: Bin | None

    def holds(self, calls: Judgements) -> Bool[np.ndarray, "n"]:
        """Which calls are in them."""
        found = np.zeros(len(calls.length), bool)
        for said, one in ((True, self.viral), (False, self.host)):
            if one is not None:
                found |= one.holds(calls) & (calls.viral == said)
        return found

    def __str__(self) -> str:
        if self.viral == self.host:
            return str(self.viral or "never: no bin is as good as that")
        said = {"viral": self.viral, "host": self.host}
        return "; ".join(f"{name} calls: {one or 'never, no bin is as good as that'}" for name, one in said.items())


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

    high: Bins
    medium: Bins
    measured: dict[str, Measured]  # by the name of the level, on records that the bins were not chosen on
    chosen_on: str  # which records the bins were chosen on
    measured_on: str  # which records they were measured on
    unseen: dict[str, Measured] = field(default_factory=dict)  # high calls on groups that a training never saw

    def levels(self, calls: Judgements) -> Int8[np.ndarray, "n"]:
        """The level of each call."""
        found = np.full(len(calls.length), LOW, np.int8)
        for level, one in ((MEDIUM, self.medium), (HIGH, self.high)):
            found[one.holds(calls)] = level
        return found

    def condition(self, level: int) -> str:
        """What a call of a level has, in words."""
        return "all else" if level == LOW else str({HIGH: self.high, MEDIUM: self.medium}[level])

    def sentences(self) -> list[str]:
        """What each level means, with its error."""
        found = []
        for level, name in LEVELS.items():
            condition, seen = self.condition(level), self.measured.get(name)
            told = ""
            if seen is not None and seen.wrong is not None:
                told = f" ({seen.wrong:.1%} of {seen.calls:,} calls were wrong, {seen.share:.0%} of all)"
            found.append(f"{name}: {condition}{told}")
        return [*found, self.on_unseen()] if self.unseen else found

    def on_unseen(self) -> str:
        """How many high calls are wrong on whole groups left out of a training; empty where nobody measured it."""
        told = [
            f"{name} {one.wrong or 0:.1%} of {one.calls:,} ({one.share:.1%} of its calls)"
            if one.calls
            else f"{name} has none"
            for name, one in self.unseen.items()
        ]
        return f"high calls wrong on groups that the training never saw: {', '.join(told)}" if told else ""

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
        # Earlier versions had one bin for both calls.
        both = {
            name: one if isinstance(one, Mapping) and "host" in one else {"viral": one, "host": one}
            for name, one in ((name, stored.get(name)) for name in ("high", "medium"))
        }
        return from_json(cls, {"unseen": {}, **stored, **both})


def fit_reliability(
    calls: Judgements, wrong: Bool[np.ndarray, "n"], group: Sequence[str] | np.ndarray | None = None
) -> tuple[Bins, Bins]:
    """Choose the bins of ``high`` and ``medium`` on held-out records: which calls are wrong, and organism groups."""
    groups = np.unique(np.asarray(group), return_inverse=True)[1] if group is not None else np.zeros(len(wrong), int)
    found = []
    for level, (limit, of_group) in LIMITS.items():
        viral, host = (_good(calls, wrong, groups, said, level, limit) for said in (True, False))
        counts, mistakes = (np.stack([getattr(one, name) for one in host]) for name in ("calls", "mistaken"))
        best, most = Bins(None, None), 0
        for one in viral:
            count = counts + one.calls
            told = (count >= _FEWEST_OF_GROUP) & (group is not None)
            good = ((mistakes + one.mistaken <= of_group * count) | ~told).all(axis=1)
            other = host[int(good.argmax())]
            if good.any() and one.size + other.size > most:
                best, most = Bins(one.bin, other.bin), one.size + other.size
        found.append(best)
    return found[0], found[1]


class _Candidate(NamedTuple):
    bin: Bin | None
    size: int
    calls: Int64[np.ndarray, "groups"]
    mistaken: Int64[np.ndarray, "groups"]


def _good(
    calls: Judgements, wrong: np.ndarray, group: np.ndarray, said: bool, level: int, limit: float
) -> list[_Candidate]:
    """Bins of the calls that say so in which few enough are wrong, the widest first, and none at all last."""
    some = calls.viral == said
    calls, wrong, of = calls.part(some), wrong[some], group[some]
    groups = int(group.max(initial=-1)) + 1
    nothing = np.zeros(groups, np.int64)
    known = calls.novelty[~wrong & np.isfinite(calls.novelty)]
    novel = [(part, float(np.ceil(np.quantile(known, part)))) for part in _NOVEL if part < 1 and len(known)]
    found = []
    for (part, novelty), length, sure, agreement in product([(1.0, 100.0), *novel], _LENGTHS, _SURE, _AGREEING):
        if level == HIGH and (length < LONG or sure < SUREST or part > NEAREST):
            continue
        one = Bin(length, sure, agreement, novelty)
        inside = one.holds(calls)
        size, mistaken = int(inside.sum()), int(wrong[inside].sum())
        if size >= FEWEST and (mistaken + 1) / (size + 2) <= limit:
            counts = (np.bincount(of[which], minlength=groups) for which in (inside, inside & wrong))
            found.append(_Candidate(one, size, *counts))
    return [*sorted(found, key=lambda one: -one.size), _Candidate(None, 0, nothing, nothing)]


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
