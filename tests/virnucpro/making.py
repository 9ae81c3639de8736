"""Encoders and sequences for VirNucPro's functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from vnp.encoders import Encoder, from_folder
from vnp.encoders.registry import Launched

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def esm_folder(shared: Path) -> Path:
    return shared / "goldens/fastesm2_tiny"


@pytest.fixture(scope="module")
def esm(esm_folder: Path) -> Encoder:
    return from_folder(esm_folder)


def fasta(path: Path, sequences: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    return path


def proteins(count: int, seed: int = 0) -> dict[str, str]:
    rng = random.Random(seed)
    return {f"seq_chunk_{i}F1": "".join(rng.choices(RESIDUES, k=rng.randint(1, 120))) for i in range(count)}


def loaded(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", torch.load(path, weights_only=True))


class Broken:
    """Stands where nothing may be embedded again."""

    def __init__(self, like: Encoder) -> None:
        self.spec, self.width, self.precision = like.spec, like.width, like.precision
        self.token_budget: int | None = None
        self.events: list[str] = []
        self.kernel, self.tokens_read = like.kernel, 0

    def prepare(self, sequences: Sequence[str]) -> Sequence[str]:
        return sequences

    def embed(self, sequences: Sequence[str]) -> np.ndarray:
        raise AssertionError(f"{len(sequences)} sequences were embedded again")

    def launch(self, work: Sequence[str]) -> Launched:
        raise AssertionError(f"{len(work)} sequences were embedded again")
