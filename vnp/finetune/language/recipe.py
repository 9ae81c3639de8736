"""What a fine-tuning of a protein encoder is asked to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vnp.errors import UsageError

Objective = Literal["labels", "mlm", "contrastive"]
OBJECTIVES: tuple[Objective, ...] = ("labels", "mlm", "contrastive")
RATES = {"head": 1e-3, "lora": 3e-4, "top": 5e-5, "all": 2e-5}
"""The learning rate at its highest where nobody says, by what is trained."""


@dataclass(frozen=True, slots=True)
class TuningRecipe:
    """Everything but the set and the encoder that decides what comes out.

    The objective ``labels`` tells viral from host frames by a linear head on the pooled row; ``mlm`` guesses masked
    residues (Devlin et al., NAACL 2019; rates as ESM2's); ``contrastive`` draws rows of one label together
    (supervised: Khosla et al., NeurIPS 2020), among the rows that are computed at once.
    """

    objective: Objective = "labels"
    train: str = "lora"  # or ``head`` (the encoder stays as it is), ``top:N`` (the last N layers), ``all``
    steps: int = 1000  # of the optimiser
    tokens: int = 65_536  # in a step
    rate: float = 3e-4  # the learning rate at its highest
    warm_up: int = 100  # steps in which it rises; then it falls to nothing as a cosine
    decay: float = 0.01  # of weights (AdamW)
    rank: int = 8  # numbers between the two factors of an adapter
    alpha: float = 16.0  # adapters are multiplied by alpha / rank
    dropout: float = 0.0  # share of an adapter's inputs that is hidden
    masked: float = 0.15  # share of residues to guess
    temperature: float = 0.1  # of the contrastive softmax
    patience: int = 5  # looks at the validation units without a better loss after which training ends
    seed: int = 1  # of heads, adapters, order, masks and dropout

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"no objective is called {self.objective!r}; use {', '.join(OBJECTIVES)}")
        trained_layers(self.train, 1)
        if min(self.steps, self.tokens, self.warm_up, self.rank, self.patience) < 1:
            raise UsageError("steps, tokens, warm-up, rank and patience must be above 0")
        if not (math.isfinite(self.rate) and self.rate > 0 and self.alpha > 0 and self.temperature > 0):
            raise UsageError("the rate, alpha and the temperature must be above 0")
        if not (0 <= self.dropout < 1 and 0 < self.masked < 1):
            raise UsageError("dropout must be from 0 up to 1, and the share of masked residues between 0 and 1")


def trained_layers(train: str, depth: int) -> range:
    """The layers whose own weights are trained, of so many; ``train`` is as in ``TuningRecipe``.

    Raises:
        UsageError: it is none of the four.
    """
    kind, colon, count = train.partition(":")
    if train in ("head", "lora"):
        return range(0)
    if train == "all":
        return range(depth)
    if kind == "top" and colon and count.isdecimal() and int(count) > 0:
        return range(max(0, depth - int(count)), depth)
    raise UsageError(f"--train is head, lora, all, or top:N with the number of layers, not {train!r}")
