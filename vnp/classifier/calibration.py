"""Scores that mean what they say: of the rows scored 0.8, about 80 % are viral.

Temperature scaling divides the log-odds by one number (Guo et al., ICML 2017, arXiv:1706.04599); isotonic regression
fits a rising step function, here joined by straight lines (Zadrozny & Elkan, KDD 2002). Which one is kept is decided
by the log-loss on parts of the validation rows that it was not fitted on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int8, Int64

from vnp.classifier.recipe import Recipe
from vnp.errors import FeatureError

Kind = Literal["none", "temperature", "isotonic"]
_FOLDS = 5
_LOGIT_BOUND = 700.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A rising function from log-odds to a probability."""

    kind: Kind = "none"  # ``none`` is the logistic function itself
    temperature: float = 1.0  # what the log-odds are divided by
    # what is taken from the log-odds first: the share of viral rows that training was shown differs from that of the
    # data where it weighs or samples classes
    offset: float = 0.0
    margins: tuple[float, ...] = ()  # log-odds of the corners of an isotonic function, rising
    probabilities: tuple[float, ...] = ()  # its values there
    # mean log-loss on rows held out from the fit, by kind; what the choice was made by
    log_loss: tuple[tuple[str, float], ...] = ()

    def apply(self, margin: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """Calibrated probability of viral.

        ``margin`` is the log-odds of viral against host, as the network gives them.
        """
        if self.kind == "isotonic":
            joined: Float64[np.ndarray, "n"] = np.interp(margin, self.margins, self.probabilities)
            return joined
        return logistic((margin - self.offset) / self.temperature)

    def _is_sound(self) -> bool:
        """Whether the numbers make a function that rises and gives probabilities."""
        if self.kind != "isotonic":
            return (
                self.kind in ("none", "temperature")
                and 0 < self.temperature < np.inf
                and np.isfinite(self.offset).item()
            )
        if not self.margins or len(self.margins) != len(self.probabilities):
            return False
        corners = np.array([self.margins, self.probabilities])
        inside = corners[1].min() >= 0 and corners[1].max() <= 1
        return bool(inside and np.isfinite(corners).all() and (np.diff(corners) >= 0).all())

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Calibration:
        """Read what ``dataclasses.asdict`` gave, perhaps by way of JSON; FeatureError where it is no calibration."""
        try:
            made = cls(
                kind=stored["kind"],
                temperature=float(stored["temperature"]),
                offset=float(stored["offset"]),
                margins=tuple(map(float, stored["margins"])),
                probabilities=tuple(map(float, stored["probabilities"])),
                log_loss=tuple((str(kind), float(loss)) for kind, loss in stored["log_loss"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureError(f"not a calibration: {str(stored)[:200]}") from error
        if not made._is_sound():
            raise FeatureError(f"not a calibration that rises with the score: {str(stored)[:200]}")
        return made


def logistic(margin: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Probability of log-odds, without overflow."""
    probability: Float64[np.ndarray, "n"] = 1.0 / (1.0 + np.exp(-np.clip(margin, -_LOGIT_BOUND, _LOGIT_BOUND)))
    return probability


def log_loss(label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "n"]) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    of_label = np.where(label == 1, probability, 1.0 - probability)
    return float(-np.log(np.clip(of_label, 1e-15, 1.0)).mean())


def shown_odds(label: Int8[np.ndarray, "m"], recipe: Recipe) -> float:
    """By how much the log-odds of viral are higher, in what training is shown, than among its rows."""
    if recipe.balance == "none":
        return 0.0
    viral = float((label == 1).mean())
    return float(np.log((1.0 - viral) / viral))


def fit_calibration(
    margin: Float64[np.ndarray, "n"],
    label: Int8[np.ndarray, "n"],
    group: Int64[np.ndarray, "n"],
    *,
    kind: Literal["auto", "none", "temperature", "isotonic"] = "auto",
    offset: float = 0.0,
) -> Calibration:
    """Fit a calibration on validation rows.

    Rows of a group are held out together, for they resemble each other. ``auto`` keeps the kind with the smaller
    log-loss on held-out groups, the simpler one on a tie.
    """
    if kind in ("none", "temperature", "isotonic"):
        return _fit(kind, margin, label, offset)
    held_out = _held_out(margin, label, group, offset)
    losses = tuple((name, log_loss(label, probability)) for name, probability in held_out.items())
    best = min(losses, key=lambda entry: entry[1])[0] if losses else "temperature"
    fitted = _fit(best, margin, label, offset)
    return Calibration(**{**asdict(fitted), "log_loss": losses})


def _held_out(
    margin: Float64[np.ndarray, "n"], label: Int8[np.ndarray, "n"], group: Int64[np.ndarray, "n"], offset: float
) -> dict[str, Float64[np.ndarray, "n"]]:
    """Probabilities of every row by each kind, fitted on the other groups; empty if there are too few groups."""
    fold = _folds(label, group)
    found: dict[str, Float64[np.ndarray, "n"]] = {}
    if fold is None:
        return found
    for kind in ("temperature", "isotonic"):
        found[kind] = np.empty(len(margin))
        for number in np.unique(fold):
            here = fold == number
            found[kind][here] = _fit(kind, margin[~here], label[~here], offset).apply(margin[here])
    return found


def _folds(label: Int8[np.ndarray, "n"], group: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"] | None:
    """Groups of each class dealt out in turn, largest first; None where a fold would leave only one class."""
    _, member, sizes = np.unique(group, return_inverse=True, return_counts=True)
    viral = np.bincount(member, weights=label) * 2 >= sizes
    if min(viral.sum(), (~viral).sum()) < 2:
        return None
    fold_of = np.empty(len(sizes), np.int64)
    order = np.lexsort((-sizes, viral))
    fold_of[order] = np.arange(len(order)) % _FOLDS
    fold: Int64[np.ndarray, "n"] = fold_of[member]
    apart = [fold != number for number in np.unique(fold)]
    return fold if all(len(np.unique(label[others])) == 2 for others in apart) else None


def _fit(kind: str, margin: Float64[np.ndarray, "n"], label: Int8[np.ndarray, "n"], offset: float) -> Calibration:
    if kind == "temperature":
        return Calibration("temperature", _temperature(margin - offset, label), offset)
    if kind == "isotonic":
        return _isotonic(margin, label)
    return Calibration("none", offset=offset)


def _temperature(margin: Float64[np.ndarray, "n"], label: Int8[np.ndarray, "n"]) -> float:
    """The temperature with the least log-loss, between 1/100 and 100; convex in its inverse."""
    from scipy.optimize import minimize_scalar

    signed = np.where(label == 1, margin, -margin)
    found = minimize_scalar(
        lambda inverse: float(np.logaddexp(0.0, -inverse * signed).mean()),
        bounds=(0.01, 100.0),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(1.0 / found.x)


def _isotonic(margin: Float64[np.ndarray, "n"], label: Int8[np.ndarray, "n"]) -> Calibration:
    """Isotonic regression, kept off 0 and 1: no finite number of rows shows that an event is impossible."""
    from sklearn.isotonic import IsotonicRegression

    least = 1.0 / (len(label) + 2.0)
    fitted = IsotonicRegression(y_min=least, y_max=1.0 - least, out_of_bounds="clip").fit(margin, label)
    return Calibration(
        "isotonic",
        margins=tuple(map(float, fitted.X_thresholds_)),
        probabilities=tuple(map(float, fitted.y_thresholds_)),
    )
