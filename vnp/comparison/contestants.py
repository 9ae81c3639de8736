"""Who takes part in a contest, and its rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from vnp.classifier.recipe import VIRNUCPRO, Recipe, require_seed
from vnp.errors import UsageError
from vnp.features.read import Features
from vnp.metrics.bootstrap import REPLICATES
from vnp.metrics.rules import BEST_FRAME


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part.

    Args:
        name: in tables and plots.
        features: the rows; those of other contestants must be of the same records.
        checkpoint: a trained classifier, or None to train one on the rows of the common split.
    """

    name: str
    features: Features
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How a contest goes.

    Args:
        parts: parts of the layout, ``dna`` or ``protein``, whose columns alone take part too, of each file that is
            trained on.
        split: of those who are trained: ``group``, ``random``, or a file; ``auto`` is the split that came with the data
            where there is one, for checkpoints too, else ``group``.
        validation: share of groups to watch in training.
        test: share of groups to compare on.
        seed: of the split, the trainings and the intervals.
        everything: compare on every labelled row, seen in training or not; only where all have checkpoints.
        rule: how frames become chunks and records.
        replicates: draws of groups for the intervals.
        recipe: of the trainings.
        device: to train and score on.
        organisms: group of organisms by the name of a record or of its group; by default the input file decides.
    """

    parts: tuple[str, ...] = ()
    split: Literal["auto", "group", "random"] | Path = "auto"
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    everything: bool = False
    rule: str = BEST_FRAME
    replicates: int = REPLICATES
    recipe: Recipe = VIRNUCPRO
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    organisms: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse a seed that no training can take.

        Raises:
            UsageError: it is negative or too large.
        """
        require_seed(self.seed)


def require_sense(contestants: Sequence[Contestant], rules: Rules) -> None:
    """Make sure that the rules fit the contestants.

    Raises:
        UsageError: they do not.
    """
    names = [entered.name for one in contestants for entered in with_parts(one, rules.parts)]
    files = [file_name(name) for name in names]
    twice = [name for name, file in zip(names, files, strict=True) if files.count(file) > 1]
    if not names:
        raise UsageError("nothing to compare: give runs, features.h5 files, or FEATURES@MODEL.pth")
    if twice:
        raise UsageError(f"two contestants are called {twice[0]}; tell them apart with NAME=FEATURES")
    if rules.everything and any(one.checkpoint is None for one in contestants):
        raise UsageError("--all compares on rows that were trained on, so it goes with checkpoints only")


def with_parts(one: Contestant, parts: Sequence[str]) -> list[Contestant]:
    """A contestant, and the parts of its columns, where it is to be trained.

    Raises:
        LayoutError: there is no such part.
    """
    if one.checkpoint is not None:
        return [one]
    alone = [replace(one, name=f"{one.name} {part} alone", features=one.features.only(part)) for part in parts]
    return [one, *alone]


def file_name(name: str) -> str:
    """What a contestant's files are called."""
    return re.sub(r"[^\w.-]", "_", name)
