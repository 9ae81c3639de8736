"""Turns the mean log-odds of a record's windows into a probability, for its length.

A longer record has more windows, and its mean is the surer for it: the probability is sigmoid(slope x mean + offset),
with slope and offset straight lines between knots on the logarithm of the length. The number of windows follows from
the length, so it needs no term of its own. The fit is a logistic regression (Platt, 1999) on hat functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vnp.errors import WeightsError

KNOTS = (150, 300, 500, 1000, 3000, 10000, 30000)
_RIDGE = 1e-3
_SMOOTH = 0.05
_ROUNDS = 100
_SMALLEST_SLOPE = 0.05
_BINS = 10


@dataclass(frozen=True, slots=True)
class LengthCalibration:
    """A probability from log-odds and length.

    Attributes:
        knots: lengths, growing; shorter and longer records are treated as the first and last one.
        slopes: at each knot.
        offsets: at each knot.
    """

    knots: tuple[int, ...]
    slopes: tuple[float, ...]
    offsets: tuple[float, ...]

    def probability(
        self, logit: Float64[np.ndarray, " n"], length: Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """The chance that each record is viral, where half of all are."""
        hats = _hats(length, self.knots)
        odds = (hats @ np.array(self.slopes)) * logit + hats @ np.array(self.offsets)
        return _sigmoid(odds)

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds."""
        return {"knots": list(self.knots), "slopes": list(self.slopes), "offsets": list(self.offsets)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LengthCalibration:
        """Read what ``to_json`` gave; WeightsError where it is not a calibration."""
        try:
            found = cls(*(tuple(stored[name]) for name in ("knots", "slopes", "offsets")))
            sizes = {len(found.knots), len(found.slopes), len(found.offsets)}
            rising = all(np.diff(found.knots) > 0) and np.isfinite([*found.slopes, *found.offsets]).all()
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"the calibration is damaged: {error}") from error
        if len(sizes) != 1 or not found.knots or not rising:
            raise WeightsError("the calibration is damaged: its knots, slopes and offsets do not fit")
        return found


def fit(
    viral: Bool[np.ndarray, " n"],
    logit: Float64[np.ndarray, " n"],
    length: Int64[np.ndarray, " n"],
    weight: Float64[np.ndarray, " n"] | None = None,
    knots: Sequence[int] = KNOTS,
) -> LengthCalibration:
    """Fit slopes and offsets at lengths by Newton's method; neighbours are drawn towards each other a little.

    Logits are mean log-odds. Each label of each stretch between knots is brought to the same weight.
    """
    hats = _hats(length, knots)
    features = np.concatenate((hats * logit[:, None], hats), axis=1)
    weights = np.ones(len(viral)) if weight is None else weight.astype(np.float64)
    stretch = np.digitize(length, knots)
    for one in np.unique(stretch):
        for label in (False, True):
            some = (stretch == one) & (viral == label)
            if some.any():
                weights[some] /= weights[some].sum()
    weights *= len(viral) / weights.sum()
    count = len(knots)
    steps = np.diff(np.eye(count), axis=0)
    rough = np.kron(np.eye(2), steps.T @ steps) * _SMOOTH * len(viral) / count + np.eye(2 * count) * _RIDGE
    found = np.concatenate((np.ones(count), np.zeros(count)))
    for _ in range(_ROUNDS):
        chance = _sigmoid(features @ found)
        slope = features.T @ (weights * (chance - viral)) + rough @ found
        curve = (features * (weights * chance * (1 - chance))[:, None]).T @ features + rough
        step = np.linalg.solve(curve, slope)
        found = found - step
        if np.abs(step).max() < 1e-9:
            break
    slopes = np.maximum(found[:count], _SMALLEST_SLOPE)
    return LengthCalibration(tuple(map(int, knots)), tuple(map(float, slopes)), tuple(map(float, found[count:])))


def calibration_error(viral: Bool[np.ndarray, " n"], probability: Float64[np.ndarray, " n"]) -> float:
    """The expected calibration error (Guo et al., ICML 2017) over ten bins of equal width."""
    bins = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    gap = np.bincount(bins, weights=probability - viral, minlength=_BINS)
    return float(np.abs(gap).sum() / len(viral))


def _hats(length: Int64[np.ndarray, " n"], knots: Sequence[int]) -> Float64[np.ndarray, "n knots"]:
    """How near each length is to each knot, on a logarithmic scale: rows of at most two numbers that add up to 1."""
    places = np.log(np.asarray(knots, dtype=np.float64))
    at = np.log(np.maximum(length, 1))
    return np.stack([np.interp(at, places, row) for row in np.eye(len(places))], axis=1)


def _sigmoid(x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    halved: Float64[np.ndarray, " n"] = 0.5 * (1 + np.tanh(0.5 * x))
    return halved
