"""Models so small that measuring them takes no time."""

from __future__ import annotations

from typing import Any

from tests.encoders._models import DNABERT, ESM2, random_state
from vnp.encoders.weights.random_weights import RandomModel


def tiny_model(device: str = "cpu", family: str = "esm2", **_: Any) -> RandomModel:
    """Stands in for ``random_model``, whatever size is asked for."""
    config = {**DNABERT, "vocab_size": 4096} if family == "dnabert" else dict(ESM2)
    return RandomModel(family, config, random_state(config), device)
