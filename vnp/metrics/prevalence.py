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
_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Prevalence:
    """A share of viruses, and how sure it is."""

    share: float  # of records that are viral
    low: float  # end of the interval of 95 %
    high: float  # the other end
    records: int  # that it was estimated from
    refused: str = ""  # why it should not be used; empty where it may


def given_prevalence(text: str) -> str | float:
    """What a user says of the share: ``auto``, ``none``, or a number between 0 and 1.

    Raises:
        UsageError: it is something else.
    """
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
        self.novel = self.told = 0

    def add(
        self, probability: Float64[np.ndarray, "n"], before: Each, novelty: Float[np.ndarray, "n"] | None = None
    ) -> None:
        """Take in records.

        Args:
            probability: of being viral.
            before: share of viruses that they hold at.
            novelty: how far from training, as a percentile; NaN or None where that is not known.
        """
        import numpy as np

        even = np.clip(at_prevalence(probability, 0.5, before), 1e-300, 1 - 1e-16)
        odds = np.clip(np.log(even) - np.log1p(-even), -_MOST_ODDS, _MOST_ODDS)
        place = np.rint((odds + _MOST_ODDS) / (2 * _MOST_ODDS) * (_BINS - 1)).astype(np.int64)
        self.counts += np.bincount(place, minlength=_BINS)
        if novelty is not None:
            known = np.isfinite(novelty)
            self.told += int(known.sum())
            self.novel += int((novelty[known] > FARTHEST).sum())

    def share(self) -> float:
        """The likeliest share; one record of either label is assumed beside them, so that it is never 0 or 1."""
        return float(self._likeliest(self.counts[None].astype(float))[0])

    def estimate(self, seed: int = 0) -> Prevalence:
        """The share with an interval over records drawn again, and whether it can be trusted."""
        import numpy as np

        total, share = int(self.counts.sum()), self.share()
        low, high = 0.0, 1.0
        if total:
            drawn = np.random.default_rng(seed).multinomial(total, self.counts / total, _REPLICATES)
            low, high = map(float, np.quantile(self._likeliest(drawn.astype(float)), (0.025, 0.975)))
        return Prevalence(share, low, high, total, self._refusal(total, low, high))

    def _likeliest(self, counts: Float64[np.ndarray, "draws bins"]) -> Float64[np.ndarray, "draws"]:
        """Where the likelihood, which has one summit, is highest, by halving: the end of expectation-maximisation."""
        import numpy as np

        odds = np.linspace(-_MOST_ODDS, _MOST_ODDS, _BINS)
        used = counts.any(axis=0)
        counts = counts[:, used]
        viral = 1 / (1 + np.exp(-odds[used]))
        host = 1 / (1 + np.exp(odds[used]))
        low, high = np.zeros(len(counts)), np.ones(len(counts))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            mixed = middle[:, None] * viral + (1 - middle[:, None]) * host
            rises = (counts * ((viral - host) / mixed)).sum(axis=1) + 1 / middle - 1 / (1 - middle) > 0
            low, high = np.where(rises, middle, low), np.where(rises, high, middle)
        found: Float64[np.ndarray, "draws"] = (low + high) / 2
        return found

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
