"""Trunks without a tokenizer, with random weights where no others are: enough to check and time the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp.encoders.build import build
from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.trunk import Sizes, Trunk
from vnp.encoders.spec import EncoderSpec
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from numpy.typing import NDArray


RANDOM = "random weights"


@dataclass(frozen=True, eq=False)
class BareModel:
    """An encoder's trunk without its tokenizer."""

    spec: EncoderSpec  # the encoder that it is a model of; its width may be another
    config: Mapping[str, object]  # the content of a config.json
    state: Mapping[str, torch.Tensor]  # tensors under their names without prefix
    device: torch.device  # where encoders of it run; the tensors may be elsewhere
    source: str = RANDOM  # where its weights come from, in words

    @property
    def is_random(self) -> bool:
        """Whether its weights are random."""
        return self.source.startswith(RANDOM)

    @property
    def name(self) -> str:
        """Of the encoder, such as ``fastesm2_650``."""
        return self.spec.name

    @property
    def size(self) -> str:
        """Layers and width, in words."""
        return f"{self.sizes.depth} layers of {self.sizes.width}"

    @property
    def trunk(self) -> type[Trunk]:
        """The class that runs it."""
        found: type[Trunk] = self.spec.family.load_model()
        return found

    @property
    def sizes(self) -> Sizes:
        """Its sizes, as in its configuration."""
        return self.trunk.sizes.read(self.config)

    def encoder(self, precision: str, attention: str = "auto", token_budget: int | None = None) -> TransformerEncoder:
        """Build an encoder of it that takes token ids only; see ``vnp.encoders.build.build``."""
        one = self.spec
        return build(
            self.config,
            self.state,
            _NoTokenizer(),
            EncoderSpec(f"random {one.name}", one.molecule, self.sizes.width, one.family),
            device=self.device,
            precision=precision,
            token_budget=token_budget,
            attention=attention,
        )

    def sequences(self, lengths: NDArray[np.int64], seed: int = 0) -> list[NDArray[np.int64]]:
        """Random tokens of these lengths between the first and the last special token."""
        rng = np.random.default_rng(seed)
        first, last = self.trunk.ends
        return [np.concatenate(([first], rng.integers(*self.trunk.letters, n - 2), [last])) for n in lengths]

    def operations(self, lengths: NDArray[np.int64]) -> float:
        """Floating-point operations of matrix products and attention for sequences of these tokens."""
        weights = sum(math.prod(t.shape) for name, t in self.state.items() if "layer" in name and t.ndim == 2)
        squares = 4 * self.sizes.depth * self.sizes.width * (lengths.astype(float) ** 2).sum()
        return float(2 * weights * lengths.sum() + squares)


class _NoTokenizer:
    def encode_batch(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        raise EncoderError(f"a model with random weights has no tokenizer for {len(sequences)} sequences")


def random_model(
    device: str | torch.device, spec: EncoderSpec, *, full: bool = False, layers: int | None = None, seed: int = 0
) -> BareModel:
    """Make a model in float32 with random weights, small or as large as the published one; ``layers`` may be others."""
    trunk: type[Trunk] = spec.family.load_model()
    depth, width, heads, inner = (spec.depth, spec.width, spec.heads, spec.inner) if full else trunk.small
    config = {
        **trunk.published,
        "num_hidden_layers": layers or depth,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    state = _random_state(trunk.sizes.read(config).tensors(), device, seed)
    return BareModel(spec, config, state, torch.device(device), f"{RANDOM}, {'published size' if full else 'small'}")


def _random_state(
    shapes: Mapping[str, tuple[int, ...]], device: str | torch.device, seed: int
) -> dict[str, torch.Tensor]:
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
    """Tokens of so many open frames, as reads and contigs have them: many short, few long, from 10 to the longest."""
    drawn = np.exp(np.random.default_rng(seed).uniform(np.log(10), np.log(longest), count)).astype(np.int64)
    drawn[0] = longest
    return drawn
