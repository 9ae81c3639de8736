"""What probabilities of held-out records of either label look like, and how sure that is: the evidence for a share.

Records are counted by length and log-odds, in shares of their label. These shares are known from some units only, and
from the organisms that were held out; other units, in another mixture, look otherwise. So there are many draws: each
weighs the units of every organism group, and the groups, anew at random (the Bayesian bootstrap, Rubin 1981, in two
stages). What a share of viruses is estimated as in mixtures of every draw says which shares an estimate may come of.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

DRAWS = 100
LENGTHS = (300, 500, 1_000, 3_000)
"""Bases at which the next line of counts begins."""
ODDS = (-6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
"""Log-odds, where half of all are viral, at which the next column begins."""
_VARIANCE = 2.0
"""Of the weights: twice a bootstrap's, since the units and groups of other records are a sample as well."""
_FEWEST_UNITS = 2
_SHAPE = (2, DRAWS + 1, len(LENGTHS) + 1, len(ODDS) + 1)
CENTERS: Float64[np.ndarray, "b"] = np.array(
    [ODDS[0] - 1, *((low + high) / 2 for low, high in pairwise(ODDS)), ODDS[-1] + 1]
)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Shares of the viral (1) and of the host (0) records of each length in each class of log-odds.

    The first draw is of all units with equal weights; the others are of units and groups that are weighed at random.
    """

    shares: Float32[np.ndarray, "2 draws l b"]

    def count(self, probability: Float64[np.ndarray, "n"], length: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "l b"]:
        """How many records, of probabilities where half of all are viral, are in each class."""
        line, column = _places(probability, length)
        counts: Int64[np.ndarray, "l b"] = _counted(1, np.zeros_like(line), line, column)[0]
        return counts

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds: base64 of float16."""
        stored = base64.b64encode(self.shares.astype("<f2").tobytes()).decode()
        return {"lengths": list(LENGTHS), "log_odds": list(ODDS), "draws": DRAWS, "shares": stored}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evidence:
        """Read what ``to_json`` gave; ValueError where it is no such thing."""
        try:
            same = (tuple(stored["lengths"]), tuple(stored["log_odds"]), stored["draws"]) == (LENGTHS, ODDS, DRAWS)
            shares = np.frombuffer(base64.b64decode(stored["shares"], validate=True), "<f2").astype(np.float32)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not what held-out records look like: {error}") from error
        if not same or shares.size != np.prod(_SHAPE) or not (np.isfinite(shares) & (shares >= 0)).all():
            raise ValueError("what held-out records look like has numbers that cannot be")
        return cls(shares.reshape(_SHAPE))


def _places(
    probability: Float64[np.ndarray, "n"], length: Int64[np.ndarray, "n"]
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """Line and column of each record; probabilities where half of all are viral."""
    even = np.clip(probability, 1e-300, 1 - 1e-16)
    odds = np.log(even) - np.log1p(-even)
    return np.searchsorted(LENGTHS, length, side="right"), np.searchsorted(ODDS, odds, side="right")


def _counted(
    units: int, unit: Int64[np.ndarray, "n"], line: Int64[np.ndarray, "n"], column: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "units l b"]:
    shape = (units, *_SHAPE[2:])
    place = np.ravel_multi_index((unit, line, column), shape)
    counts: Int64[np.ndarray, "units l b"] = np.bincount(place, minlength=int(np.prod(shape))).reshape(shape)
    return counts


def fit_evidence(
    probability: Float64[np.ndarray, "n"],
    length: Int64[np.ndarray, "n"],
    viral: Bool[np.ndarray, "n"],
    unit: np.ndarray,
    group: np.ndarray | None = None,
    seed: int = 0,
) -> Evidence | None:
    """Count held-out records by label, length in bases and probability of being viral where half of all are.

    ``unit`` is what was kept apart as a whole, ``group`` that of organisms, None where all of a label are one; the seed
    is of the draws. None where a label has fewer than two units.
    """
    line, column = _places(probability, length)
    random = np.random.default_rng(seed)
    shares = np.empty(_SHAPE, np.float32)
    for label in (0, 1):
        some = viral == bool(label)
        units, first, number = np.unique(np.asarray(unit)[some], return_index=True, return_inverse=True)
        if len(units) < _FEWEST_UNITS:
            return None
        counts = _counted(len(units), number, line[some], column[some]).astype(np.float64)
        known = np.zeros(len(units), np.int64)
        if group is not None:
            known = np.unique(np.asarray(group)[some][first], return_inverse=True)[1]
        shares[label] = _drawn(counts, known, random)
    return Evidence(shares)


def _drawn(
    counts: Float64[np.ndarray, "units l b"], group: Int64[np.ndarray, "units"], random: np.random.Generator
) -> Float64[np.ndarray, "draws l b"]:
    """Shares of one label in every draw; a length that there is none of has those of all lengths."""
    of_unit = _weights(random, len(counts)) * _weights(random, int(group.max()) + 1)[:, group]
    mixed = np.tensordot(of_unit, counts, 1)
    whole = mixed.sum(axis=1, keepdims=True)
    mixed = np.where(mixed.sum(axis=2, keepdims=True) > 0, mixed, whole)
    summed = mixed.sum(axis=2, keepdims=True)
    shares: Float64[np.ndarray, "draws l b"] = np.divide(mixed, summed, out=np.zeros_like(mixed), where=summed > 0)
    return shares


def _weights(random: np.random.Generator, size: int) -> Float64[np.ndarray, "draws size"]:
    """Numbers around 1, which in the first draw they all are."""
    return np.concatenate([np.ones((1, size)), random.gamma(1 / _VARIANCE, _VARIANCE, (DRAWS, size))])
