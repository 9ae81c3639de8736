"""How the frames of a chunk or record become one probability: every rule there is, by its name.

Options, tables and pages read ``RULES``, so another rule is another entry there. Its names are read where a command
line is, on hosts that may have no NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vnp.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64, Int32, Int64


LEVELS = ("frame", "chunk", "record")
_LEAST = 1e-12


@dataclass(frozen=True, slots=True)
class Rule:
    """How frames decide for what they are of."""

    name: str  # in options, files, pages and documentation
    meaning: str  # for the help of options
    sentence: str  # for pages
    # numbers of n frames to those of m chunks or records. It is given the numbers; the weights of the frames; the
    # frames in an order that keeps those of one key together; where in this order each key begins; and the surest frame
    # of each key
    combine: Callable[[Any, Any, Any, Any, Any], Float64[np.ndarray, "m"]]


def _weighted_mean(values: Any, weight: Any, order: Any, start: Any, _best: Any) -> Float64[np.ndarray, "m"]:
    import numpy as np

    mean: Float64[np.ndarray, "m"] = np.add.reduceat((values * weight)[order], start) / np.add.reduceat(
        weight[order], start
    )
    return mean


def _mean_logit(values: Any, _weight: Any, order: Any, start: Any, _best: Any) -> Float64[np.ndarray, "m"]:
    import numpy as np

    sure = np.clip(values, _LEAST, 1 - _LEAST)
    logit = np.log(sure) - np.log1p(-sure)
    mean = np.add.reduceat(logit[order], start) / np.diff(np.r_[start, len(order)])
    found: Float64[np.ndarray, "m"] = 1 / (1 + np.exp(-mean))
    return found


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "best-frame",
            "the surest one alone, as in VirNucPro",
            # The highest P(viral) of all frames against their highest P(host); viral where two are as sure.
            "The surest open frame of a record decides (VirNucPro's rule).",
            combine=lambda values, _weight, _order, _start, best: values[best],
        ),
        Rule(
            "length-weighted",
            "their mean weighted with their lengths",
            "A record has the mean of its open frames, weighted with their lengths.",
            combine=_weighted_mean,
        ),
        Rule(
            "mean-logit",
            "the mean of their log-odds",
            "A record has the mean of the log-odds of its rows.",
            combine=_mean_logit,
        ),
    )
}
BEST_FRAME = "best-frame"
"""The rule of VirNucPro, and the default."""
MEAN_LOGIT = "mean-logit"
"""The rule of the native network."""


def find_rule(name: str) -> Rule:
    """The rule of a name; UsageError where there is none."""
    if name not in RULES:
        raise UsageError(f"no rule {name!r} to combine frames: choose {' or '.join(RULES)}")
    return RULES[name]


@dataclass(frozen=True, slots=True, eq=False)
class Aggregated:
    """Predictions of chunks or records, made of those of their frames; m of them, in ascending order of their keys."""

    key: Int64[np.ndarray, "m"]  # what the frames had in common
    probability: Float64[np.ndarray, "m"]  # of viral
    frames: Int64[np.ndarray, "m"]  # how many frames went into it
    best: Int64[np.ndarray, "m"]  # row of the frame that is surest
    first: Int64[np.ndarray, "m"]  # row of the first frame, to look up what all share, such as the label

    def __len__(self) -> int:
        return len(self.key)


def chunk_keys(record: Int64[np.ndarray, "n"], chunk: Int32[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """One number for each chunk of each record, ascending as they are."""
    import numpy as np

    return np.asarray(record, np.int64) << 32 | np.asarray(chunk, np.int64)


def aggregate(
    probability: Float64[np.ndarray, "n"],
    key: Int64[np.ndarray, "n"],
    *,
    rule: str = BEST_FRAME,
    length: Int64[np.ndarray, "n"] | None = None,
) -> Aggregated:
    """Frames to chunks (``key`` from ``chunk_keys``) or to records (``key`` the record), by one of ``RULES``.

    The length of each frame in bases is its weight; all count the same without it. UsageError where the rule is
    unknown.
    """
    import numpy as np

    combine = find_rule(rule).combine
    probability = np.asarray(probability, np.float64)
    if not len(probability):
        none = np.empty(0, np.int64)
        return Aggregated(none, np.empty(0), none, none, none)
    # Within a key the surest frame comes last, viral behind host where both are as sure.
    order = np.lexsort((probability, np.maximum(probability, 1 - probability), key))
    ordered = np.asarray(key)[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    frames = np.diff(np.r_[start, len(order)])
    best = order[start + frames - 1]
    weight = np.ones(len(order)) if length is None else np.asarray(length, np.float64)
    combined = combine(probability, weight, order, start, best)
    return Aggregated(ordered[start], combined, frames, best, np.minimum.reduceat(order, start))
