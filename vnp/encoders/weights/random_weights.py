"""Trunks without a tokenizer, with random weights where no others are: enough to check and time the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from vnp.encoders.build import build
from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.dnabert import MosaicBertConfig
from vnp.encoders.models.esm2 import Esm2Config
from vnp.encoders.spec import EncoderSpec
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Family = Literal["esm2", "esm2_3b", "dnabert"]

_ESM2: Mapping[str, object] = {
    "model_type": "esm",
    "vocab_size": 33,
    "mask_token_id": 32,
    "token_dropout": True,
    "position_embedding_type": "rotary",
    "layer_norm_eps": 1e-5,
}
_DNABERT: Mapping[str, object] = {
    "model_type": "bert",
    "vocab_size": 4096,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
_SIZES: Mapping[tuple[str, bool], tuple[int, int, int, int]] = {  # layers, width, heads, inner
    ("esm2", True): (33, 1280, 20, 5120),
    ("esm2_3b", True): (36, 2560, 40, 10240),
    ("dnabert", True): (12, 768, 12, 3072),
    ("esm2", False): (3, 256, 4, 1024),
    ("esm2_3b", False): (3, 256, 4, 1024),
    ("dnabert", False): (3, 384, 6, 768),
}


@dataclass(frozen=True, eq=False)
class RandomModel:
    """A trunk's configuration and tensors.

    Attributes:
        family: ``esm2``, ``esm2_3b`` or ``dnabert``.
        config: the content of a config.json.
        state: tensors under their names without prefix.
        device: where encoders of it run; the tensors may be elsewhere.
    """

    family: str
    config: Mapping[str, object]
    state: Mapping[str, torch.Tensor]
    device: str

    def encoder(self, precision: str, attention: str, token_budget: int | None = None) -> TransformerEncoder:
        """Build an encoder of it that takes token ids only; see ``vnp.encoders.build.build``."""
        protein = self.family != "dnabert"
        spec = EncoderSpec(
            name=f"random {self.family}",
            molecule="protein" if protein else "dna",
            width=int(str(self.config["hidden_size"])),
            family="esm2" if protein else "dnabert",
            pooling="residues" if protein else "tokens",
            tokenizer="none",
        )
        return build(
            self.config,
            self.state,
            _NoTokenizer(),
            spec,
            device=self.device,
            precision=precision,
            token_budget=token_budget,
            attention=attention,
        )

    def sequences(self, lengths: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
        """Random tokens between the first and last special token."""
        rng = np.random.default_rng(seed)
        low, high, first = (4, 24, 0) if self.family != "dnabert" else (5, 4096, 1)
        return [np.concatenate(([first], rng.integers(low, high, n - 2), [2])) for n in lengths]

    def products(self) -> list[tuple[int, int]]:
        """Shapes (out, into) of one layer's matrix products; queries, keys and values are one."""
        width, inner = int(str(self.config["hidden_size"])), int(str(self.config["intermediate_size"]))
        gates = 2 if self.family == "dnabert" else 1
        return [(3 * width, width), (width, width), (gates * inner, width), (width, inner)]

    def operations(self, lengths: NDArray[np.int64]) -> float:
        """Floating-point operations of matrix products and attention."""
        depth, width = int(str(self.config["num_hidden_layers"])), int(str(self.config["hidden_size"]))
        weights = sum(math.prod(t.shape) for name, t in self.state.items() if "layer" in name and t.ndim == 2)
        return float(2 * weights * lengths.sum() + 4 * depth * width * (lengths.astype(float) ** 2).sum())


class _NoTokenizer:
    def encode_batch(self, sequences: list[str]) -> list[NDArray[np.int64]]:
        raise EncoderError(f"a model with random weights has no tokenizer for {len(sequences)} sequences")


def random_model(
    device: str, family: Family, *, full: bool = False, layers: int | None = None, seed: int = 0
) -> RandomModel:
    """Make a model with random weights.

    Args:
        device: where the weights are made.
        family: the architecture.
        full: the published size instead of a small one.
        layers: another number of layers.
        seed: of the weights.

    Returns:
        The model, in float32.
    """
    depth, width, heads, inner = _SIZES[family, full]
    config = {
        **(_DNABERT if family == "dnabert" else _ESM2),
        "num_hidden_layers": layers or depth,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    shapes = (MosaicBertConfig if family == "dnabert" else Esm2Config).read(config).tensors()
    return RandomModel(family, config, _random_state(shapes, device, seed), device)


def _random_state(shapes: Mapping[str, tuple[int, ...]], device: str, seed: int) -> dict[str, torch.Tensor]:
    """Weights as transformers are initialised, but large enough in attention that it is far from uniform."""
    generator = torch.Generator(device=device).manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("weight") and len(shape) == 1:
            state[name] = torch.ones(shape, device=device)
            continue
        spread = 0.02
        if len(shape) == 2 and any(part in name for part in ("query", "key", "Wqkv")):
            spread = 1.2 * shape[1] ** -0.5
        elif "word_embeddings" in name:
            spread = 1.0
        state[name] = spread * torch.randn(shape, generator=generator, device=device)
    return state


def mixed_lengths(count: int, longest: int, seed: int) -> NDArray[np.int64]:
    """Lengths as open frames of reads and contigs have them: many short, few long.

    Args:
        count: how many.
        longest: the longest one, which is always there.
        seed: of the draw.

    Returns:
        Tokens of each sequence, from 10 up.
    """
    drawn = np.exp(np.random.default_rng(seed).uniform(np.log(10), np.log(longest), count)).astype(np.int64)
    drawn[0] = longest
    return drawn
