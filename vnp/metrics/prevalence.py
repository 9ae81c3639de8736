"""What share of some records is viral, and what probabilities become where it is another than they hold at.

A calibrated probability holds where viruses are as frequent as in the records that it was calibrated on. Where only
their share differs, odds change by one factor, and the share itself follows from how probable the records look: it is
what expectation-maximisation ends at, which turns probabilities to a share and takes their mean for the next one
(Saerens, Latinne and Decaestecker, Neural Computation 14, 2002).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vnp.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Float64, Int64

    from vnp.metrics.evidence import Evidence

AUTO, NONE = "auto", "none"
FEWEST = 50
"""Records below which a share is not estimated."""
FARTHEST = 95.0
"""Percentile of novelty that a twentieth of what resembles training is above."""
MOST_NOVEL = 0.25
"""Share of records above that percentile from which on probabilities are not trusted to tell a share."""
WIDEST = 0.3
"""Width of an interval from which on records do not tell the share."""
_BINS = 2000
_MOST_ODDS = 20.0
_REPLICATES = 200
_HALVINGS = 30
_GRID = 45
_FARTHEST_GRID = 7.0


@dataclass(frozen=True, slots=True)
class Prevalence:
    """A share of viruses, and how sure it is."""

    share: float  # of records that are viral
    low: float  # end of the interval of 95 %
    high: float  # the other end
    records: int  # that it was estimated from
    refused: str = ""  # why it should not be used; empty where it may
    units: bool = False  # whether the interval knows how much scores differ between held-out units


def given_prevalence(text: str) -> str | float:
    """What a user says of the share: ``auto``, ``none``, or a number between 0 and 1; UsageError for anything else."""
    if text in (AUTO, NONE):
        return text
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UsageError(
            f"--prevalence is the share of records that are viral, above 0 and below 1, or {AUTO} or {NONE}, "
            f"not {text!r}"
        )
    return share


Each = float | Any
"""A share of viruses, above 0 and below 1, or an array of one for each record."""


def at_prevalence(probability: Float64[np.ndarray, "n"], share: Each, before: Each = 0.5) -> Float64[np.ndarray, "n"]:
    """What probabilities of being viral become at a share of viruses, where they hold at the one ``before``."""
    import numpy as np

    viral, host = probability * (share / before), (1 - probability) * ((1 - share) / (1 - before))
    moved: Float64[np.ndarray, "n"] = viral / np.maximum(viral + host, np.finfo(np.float64).tiny)
    return moved


class Shares:
    """Counts records by their log-odds, so that millions take no more memory than ten."""

    def __init__(self) -> None:
        import numpy as np

        self.counts: Int64[np.ndarray, "bins"] = np.zeros(_BINS, np.int64)
        self.seen: dict[Evidence, Int64[np.ndarray, "l b"]] = {}
        """Those of each classifier that keeps what held-out records look like, by length and log-odds."""
        self.novel = self.told = 0

    def add(
        self,
        probability: Float64[np.ndarray, "n"],
        before: Each,
        novelty: Float[np.ndarray, "n"] | None = None,
        *,
        length: Int64[np.ndarray, "n"] | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Take in records, whose probabilities hold at the share of viruses ``before``.

        ``novelty`` is a percentile, NaN or None where that is not known; ``evidence`` is what held-out records of the
        same classifier look like, and needs the lengths in bases.
        """
        import numpy as np

        even = np.clip(at_prevalence(probability, 0.5, before), 1e-300, 1 - 1e-16)
        odds = np.clip(np.log(even) - np.log1p(-even), -_MOST_ODDS, _MOST_ODDS)
        place = np.rint((odds + _MOST_ODDS) / (2 * _MOST_ODDS) * (_BINS - 1)).astype(np.int64)
        self.counts += np.bincount(place, minlength=_BINS)
        if evidence is not None and length is not None:
            self.seen[evidence] = self.seen.get(evidence, 0) + evidence.count(even, length)
        if novelty is not None:
            known = np.isfinite(novelty)
            self.told += int(known.sum())
            self.novel += int((novelty[known] > FARTHEST).sum())

    def share(self) -> float:
        """The likeliest share; one record of either label is assumed beside them, so that it is never 0 or 1."""
        return float(_likeliest(self.counts[None].astype(float), _bin_odds())[0])

    def estimate(self) -> Prevalence:
        """The share with an interval of 95 %, and whether it can be trusted.

        With evidence for all records the interval holds the shares at which mixtures of held-out units, of as many
        records of like lengths, come to such an estimate (Neyman's construction); else it is over records drawn again.
        """
        import numpy as np

        total, share = int(self.counts.sum()), self.share()
        random = np.random.default_rng(0)
        known = total > 0 and sum(int(seen.sum()) for seen in self.seen.values()) == total
        low, high, reason = 0.0, 1.0, ""
        if known:
            low, high, reason = self._inverted(random)
        elif total:
            drawn = random.multinomial(total, self.counts / total, _REPLICATES).astype(float)
            low, high = map(float, np.quantile(_likeliest(drawn, _bin_odds()), (0.025, 0.975)))
        low, high = min(low, share), max(high, share)
        return Prevalence(share, low, high, total, self._refusal(total, low, high) or reason, units=known)

    def _inverted(self, random: np.random.Generator) -> tuple[float, float, str]:
        """The shares that explain what is estimated, and why there may be none."""
        import numpy as np

        from vnp.metrics.evidence import CENTERS

        seen = np.concatenate(list(self.seen.values())).astype(float)
        host, viral = (np.concatenate([one.shares[label] for one in self.seen], axis=1)[1:] for label in (0, 1))
        lines = seen.sum(axis=1)
        odds = np.tile(CENTERS, len(lines))
        grid = 1 / (1 + np.exp(-np.linspace(-_FARTHEST_GRID, _FARTHEST_GRID, _GRID)))
        found = np.empty((len(grid), len(host)))
        for number, share in enumerate(grid):
            expected = lines[:, None] * (share * viral + (1 - share) * host)
            found[number] = _likeliest(random.poisson(expected).reshape(len(host), -1), odds)
        estimate = _likeliest(seen.reshape(1, -1), odds)[0]
        below, above = np.quantile(found, (0.025, 0.975), axis=1)
        possible = np.flatnonzero((below <= estimate) & (estimate <= above))
        if not len(possible):
            return 0.0, 1.0, "no share of viruses explains the scores of the records, which are unlike held-out ones"
        # Between places of the grid the ends are as far on as the quantiles are.
        low, high = possible[0], possible[-1]
        ends = [0.0 if low == 0 else float(np.interp(estimate, above[low - 1 : low + 1], grid[low - 1 : low + 1]))]
        ends += [
            1.0 if high + 1 == len(grid) else float(np.interp(estimate, below[high : high + 2], grid[high : high + 2]))
        ]
        return ends[0], ends[1], ""

    def _refusal(self, total: int, low: float, high: float) -> str:
        if total < FEWEST:
            return f"{total:,} records with a score are too few, {FEWEST} are needed"
        if self.told and self.novel > MOST_NOVEL * self.told:
            return (
                f"{self.novel / self.told:.0%} of the records are farther from what was trained on than "
                f"{FARTHEST:.0f} % of held-out records are, so that probabilities may not hold"
            )
        if high - low > WIDEST:
            return f"the records do not tell: the share may be {low:.0%} or {high:.0%}"
        return ""


def _bin_odds() -> Float64[np.ndarray, "bins"]:
    import numpy as np

    return np.linspace(-_MOST_ODDS, _MOST_ODDS, _BINS)


def _likeliest(
    counts: Float64[np.ndarray, "draws bins"], odds: Float64[np.ndarray, "bins"]
) -> Float64[np.ndarray, "draws"]:
    """Where the likelihood, which has one summit, is highest, by halving: the end of expectation-maximisation."""
    import numpy as np

    used = counts.any(axis=0)
    counts, odds = counts[:, used], odds[used]
    viral, host = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))
    low, high = np.zeros(len(counts)), np.ones(len(counts))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        mixed = middle[:, None] * viral + (1 - middle[:, None]) * host
        rises = (counts * ((viral - host) / mixed)).sum(axis=1) + 1 / middle - 1 / (1 - middle) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    found: Float64[np.ndarray, "draws"] = (low + high) / 2
    return found
