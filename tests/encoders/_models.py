"""Small models for the engine's tests: the reference outputs' and random ones of odd sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from vnp.encoders.build import build
from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.spec import DNABERT as DNABERT_FAMILY
from vnp.encoders.spec import ESM2 as ESM2_FAMILY
from vnp.encoders.spec import EncoderSpec

GOLDENS = ("fastesm2_tiny", "esm2_tiny", "dnabert_s_tiny", "dnabert_s_tiny_prefixed")

ESM2: Mapping[str, object] = {
    "model_type": "esm",
    "vocab_size": 33,
    "mask_token_id": 32,
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 91,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "token_dropout": True,
}
DNABERT: Mapping[str, object] = {
    "model_type": "bert",
    "vocab_size": 50,
    "type_vocab_size": 2,
    "hidden_size": 84,
    "num_hidden_layers": 2,
    "num_attention_heads": 7,
    "intermediate_size": 53,
    "layer_norm_eps": 1e-12,
}


class Letters:
    """A tokenizer that gives every letter one number."""

    def encode_batch(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        return [np.array([0, *(4 + ord(c) % 20 for c in each), 2], np.int64) for each in sequences]


@dataclass(frozen=True)
class Golden:
    """A tiny model with the outputs of its published implementation."""

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    ids: list[NDArray[np.int64]]
    hidden: list[NDArray[np.float32]]
    means: list[NDArray[np.float32]]

    @classmethod
    def read(cls, folder: Path) -> Golden:
        stored = load_file(folder / "golden.safetensors")
        count = sum(name.startswith("ids_") for name in stored)
        ids, hidden, means = (
            [stored[f"{kind}_{i}"].numpy() for i in range(count)] for kind in ("ids", "hidden", "mean")
        )
        config = json.loads((folder / "config.json").read_text())
        return cls(config, load_file(folder / "model.safetensors"), ids, hidden, means)


def spec_for(config: Mapping[str, Any]) -> EncoderSpec:
    family = ESM2_FAMILY if "esm" in config["model_type"] else DNABERT_FAMILY
    return EncoderSpec("small", family.molecule, config["hidden_size"], family)


def encoder(
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    *,
    attention: str = "auto",
    precision: str = "fp32",
    token_budget: int | None = None,
    device: str = "cpu",
) -> TransformerEncoder:
    return build(
        config,
        state,
        Letters(),
        spec_for(config),
        device=device,
        precision=precision,
        token_budget=token_budget,
        attention=attention,
    )


def random_state(config: Mapping[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights in which nothing is 0 or 1, so that no term of a formula can be forgotten unseen."""
    sizes = spec_for(config).family.load_model().sizes.read(config)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in sizes.tensors().items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            state[name] = values if "embeddings" in name else values * shape[1] ** -0.5
        else:
            state[name] = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    return state


def random_ids(count: int, longest: int, *, vocabulary: int = 33, seed: int = 0) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count)
    return [np.concatenate(([0], rng.integers(4, vocabulary - 1, n - 2), [2])) for n in lengths]
