"""Scores of rows by a trained classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64

from vnp.classifier.calibration import logistic
from vnp.classifier.model import margin
from vnp.errors import FeatureError, UsageError
from vnp.features.table import all_finite

if TYPE_CHECKING:
    from vnp.classifier.checkpoint import Checkpoint

_ROWS_AT_ONCE = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a classifier says of n rows.

    Args:
        raw: probability of viral as the network gives it.
        probability: the same, calibrated: what users are shown.
    """

    raw: Float64[np.ndarray, "n"]
    probability: Float64[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.raw)


class Scorer:
    """A classifier that is ready to score.

    Args:
        checkpoint: the classifier.
        device: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.

    Raises:
        UsageError: there is no such device here.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.device = choose_device(device)
        self._calibration = checkpoint.calibration
        self._width = checkpoint.layout.width
        self._network = checkpoint.model().to(self.device)

    def scores(self, features: Float[np.ndarray, "n width"]) -> Scores:
        """Score rows, some thousand at a time.

        Args:
            features: float16 or float32.

        Raises:
            FeatureError: the rows are of another width, or hold NaN or infinity.
        """
        margins = self.margins(features)
        return Scores(logistic(margins), self._calibration.apply(margins))

    def margins(self, features: Float[np.ndarray, "n width"]) -> Float64[np.ndarray, "n"]:
        """Log-odds of viral against host, not calibrated.

        Raises:
            FeatureError: the rows are of another width, or hold NaN or infinity.
        """
        if features.ndim != 2 or features.shape[1] != self._width:
            raise FeatureError(f"the classifier reads rows of {self._width} numbers, these have {features.shape[1:]}")
        if not all_finite(features):
            raise FeatureError("a row holds NaN or infinity and cannot be scored")
        found = np.empty(len(features), np.float64)
        with torch.inference_mode():
            for low in range(0, len(features), _ROWS_AT_ONCE):
                window = torch.from_numpy(np.ascontiguousarray(features[low : low + _ROWS_AT_ONCE]))
                logits = self._network(window.to(self.device).float())
                found[low : low + _ROWS_AT_ONCE] = margin(logits).double().cpu().numpy()
        return found


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device.

    Raises:
        UsageError: there is none of that name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"no device is called {name!r}; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; leave --device out or use --device cpu")
    return torch.device(name)
