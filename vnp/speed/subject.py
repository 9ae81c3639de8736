"""The models that are measured: published sizes with random weights, or real weights where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int64

from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.dnabert import MosaicBertConfig
from vnp.encoders.models.esm2 import Esm2Config
from vnp.encoders.spec import spec as lookup
from vnp.encoders.weights.check import check_fit, read_state
from vnp.encoders.weights.folders import find_folder, read_config
from vnp.encoders.weights.random_weights import Family, RandomModel, random_model
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RANDOM = "random weights"
MODELS = ("fastesm2_650", "esm2_650m", "esm2_3b", "dnabert_s")
FAMILIES: Mapping[str, Family] = {
    "fastesm2_650": "esm2",
    "esm2_650m": "esm2",
    "esm2_3b": "esm2_3b",
    "dnabert_s": "dnabert",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """One model to measure.

    Its tensors stay on the CPU, so that what a contestant takes of a GPU's memory is its own.

    Attributes:
        name: of the encoder, such as ``fastesm2_650``.
        source: where its weights come from, in words.
        model: its configuration and tensors.
    """

    name: str
    source: str
    model: RandomModel

    @property
    def device(self) -> torch.device:
        """Where it is measured."""
        return torch.device(self.model.device)

    @property
    def is_random(self) -> bool:
        """Whether its weights are random."""
        return self.source.startswith(_RANDOM)

    @property
    def reads_dna(self) -> bool:
        """Whether it is a model of DNA."""
        return self.model.family == "dnabert"

    @property
    def size(self) -> str:
        """Layers and width, in words."""
        return f"{self.model.config['num_hidden_layers']} layers of {self.model.config['hidden_size']}"

    def encoder(self, precision: str, attention: str = "auto", token_budget: int | None = None) -> TransformerEncoder:
        """Build the engine for it; see ``vnp.encoders.build.build``."""
        return self.model.encoder(precision, attention, token_budget)

    def sequences(self, lengths: Int64[np.ndarray, "n"], seed: int = 0) -> list[NDArray[np.int64]]:
        """Random tokens of these lengths between the first and the last special token."""
        return self.model.sequences(lengths, seed)

    def products(self) -> list[tuple[int, int]]:
        """Shapes (out, into) of one layer's matrix products."""
        return self.model.products()

    def operations(self, lengths: Int64[np.ndarray, "n"]) -> float:
        """Floating-point operations of matrix products and attention for sequences of these tokens."""
        return self.model.operations(lengths)


def find_subject(name: str, device: str, *, weights: Path | None, full: bool, seed: int = 0) -> Subject:
    """Make a model ready to be measured.

    Args:
        name: one of ``MODELS``.
        device: such as ``cuda:0``.
        weights: a folder of weights, as for ``vnp.encoders.load``; None for the default one, which is looked at only
            for the published size.
        full: without weights, the published size instead of a small one.
        seed: of random weights.

    Returns:
        The model, with real weights where they are there.

    Raises:
        WeightsError: the folder that was named is not there, or what is in it is damaged.
    """
    spec = lookup(name)
    try:
        folder = find_folder(spec, weights)
    except WeightsError:
        # A folder without this model is no mistake; one that is not there, or half a model, is.
        if weights is not None and (not weights.is_dir() or (weights / name).exists()):
            raise
        return _random(name, device, full, seed)
    if weights is None and not full:
        return _random(name, device, full, seed)
    check_fit(spec, folder)
    config = read_config(folder)
    shapes = (MosaicBertConfig if spec.family == "dnabert" else Esm2Config).read(config).tensors()
    state = read_state(folder, spec.pins)
    plain = {key.removeprefix("esm.").removeprefix("bert."): tensor for key, tensor in state.items()}
    missing = [key for key in shapes if key not in plain]
    if missing:
        raise WeightsError(f"{folder} lacks the tensor {missing[0]}; fetch it again: python -m jobs.fetch {name}")
    model = RandomModel(FAMILIES[name], config, {key: plain[key] for key in shapes}, device)
    return Subject(name, f"weights of {folder}", model)


def _random(name: str, device: str, full: bool, seed: int) -> Subject:
    model = random_model(device, FAMILIES[name], full=full, seed=seed)
    kept = replace(model, state={key: tensor.cpu() for key, tensor in model.state.items()})
    return Subject(name, f"{_RANDOM}, published size" if full else f"{_RANDOM}, small", kept)
