"""How the network is trained: VirNucPro's recipe, and one for large batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vnp.errors import UsageError

Balance = Literal["none", "label", "sampling", "group"]


MOST_SEED = 2**63 - 1


def require_seed(seed: int) -> None:
    """Make sure that PyTorch can take a seed; UsageError where it is negative or too large."""
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"the seed is {seed}; it must be at least 0 and at most {MOST_SEED}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Optimiser and its numbers."""

    name: str  # of the recipe
    optimiser: Literal["sgd", "adamw"]  # ``sgd`` (with momentum) or ``adamw``
    batch: int  # rows of a step
    rate: float  # learning rate at the beginning
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.0  # of AdamW
    step: int = 10  # epochs after which the learning rate is multiplied by ``gamma``, again and again
    gamma: float = 0.85  # see ``step``
    dropout: float = 0.5  # share of hidden units that are switched off
    epochs: int = 200  # the most there may be
    patience: int = 5  # epochs without a smaller validation loss after which training stops
    # ``label`` weighs the loss of each class by the inverse of its share; ``sampling`` draws rows, with replacement, so
    # that both classes are shown as often, ``group`` so that the organism groups of a class are too; ``none`` takes
    # rows as they are
    balance: Balance = "none"

    def __post_init__(self) -> None:
        """Refuse numbers with which training cannot work, by UsageError."""
        for name, least, most in (
            ("batch", 2, 10**7), ("epochs", 1, 10**9), ("patience", 1, 10**9), ("step", 1, 10**9),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {least}")
            if getattr(self, name) > most:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at most {most}")
        if not 0 < self.rate < 100:
            raise UsageError(f"the learning rate is {self.rate}; it must be above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}; it must be at least 0 and below 1")

    def rate_of(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return float(self.rate * self.gamma ** (epoch // self.step))


VIRNUCPRO = Recipe("virnucpro", "sgd", batch=32, rate=2e-4)
"""What VirNucPro's train.py does; there the last batch of an epoch may hold a single row, here it is left out then."""

ADAMW = Recipe("adamw", "adamw", batch=4096, rate=1e-3, weight_decay=1e-2, step=1, gamma=0.9)
DEFAULT_RECIPE = "virnucpro"
RECIPES = {recipe.name: recipe for recipe in (VIRNUCPRO, ADAMW)}
