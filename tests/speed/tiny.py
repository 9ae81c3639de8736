"""Models so small that measuring them takes no time."""

from __future__ import annotations

from typing import Any

import torch

from tests.encoders._models import DNABERT, ESM2, random_state
from vnp.encoders.models.bare import BareModel
from vnp.encoders.spec import EncoderSpec, spec


def tiny_model(device: str = "cpu", like: EncoderSpec | None = None, **_: Any) -> BareModel:
    """Stands in for ``random_model``, whatever size is asked for."""
    like = like or spec("fastesm2_650")
    config = {**DNABERT, "vocab_size": 4096} if like.molecule == "dna" else dict(ESM2)
    return BareModel(like, config, random_state(config), torch.device(device), "random weights, small")
