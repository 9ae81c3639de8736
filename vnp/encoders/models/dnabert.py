"""DNABERT-S: a MosaicBERT, which is a post-LayerNorm BERT with ALiBi and a gated feed-forward network.

Zhou et al., 2024 (DNABERT-S); Portes et al., NeurIPS 2023 (MosaicBERT). Positions enter only through ALiBi's
bias on attention; the names of tensors are those of the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import embedding, layer_norm, linear

from vnp.encoders.kernels.attention import alibi_slopes
from vnp.encoders.kernels.gelu import gelu
from vnp.encoders.weights.tensors import number, trunk, whole_number
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from jaxtyping import Float

    from vnp.encoders.packing import Batch

_PREFIX = "bert."
_BESIDE = (
    r"cls\.predictions\.(bias|decoder\.(weight|bias)|transform\.(dense|LayerNorm)\.(weight|bias))",
    r"cls\.seq_relationship\.(weight|bias)",
    r"pooler\.dense\.(weight|bias)",
    r"embeddings\.position_ids",
)

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class MosaicBertConfig:
    """Sizes of one MosaicBERT model, as in its config.json."""

    vocabulary: int
    types: int
    width: int
    depth: int
    heads: int
    inner: int
    epsilon: float

    @property
    def head(self) -> int:
        """Numbers in one attention head."""
        return self.width // self.heads

    @classmethod
    def read(cls, config: Mapping[str, object]) -> MosaicBertConfig:
        """Read config.json.

        Raises:
            WeightsError: a value is missing or impossible.
        """
        if config.get("hidden_act", "gelu") != "gelu":
            raise WeightsError(f"config.json: 'hidden_act' is {config['hidden_act']!r}; DNABERT-S has 'gelu'")
        width, heads = whole_number(config, "hidden_size"), whole_number(config, "num_attention_heads")
        if width % heads:
            raise WeightsError(f"config.json: hidden_size {width} does not divide into {heads} heads")
        return cls(
            vocabulary=whole_number(config, "vocab_size"),
            types=whole_number(config, "type_vocab_size"),
            width=width,
            depth=whole_number(config, "num_hidden_layers"),
            heads=heads,
            inner=whole_number(config, "intermediate_size"),
            epsilon=number(config, "layer_norm_eps"),
        )

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the trunk."""
        width, inner = self.width, self.inner
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocabulary, width),
            "embeddings.token_type_embeddings.weight": (self.types, width),
            "embeddings.LayerNorm.weight": (width,),
            "embeddings.LayerNorm.bias": (width,),
        }
        for i in range(self.depth):
            layer = f"encoder.layer.{i}."
            shapes[layer + "attention.self.Wqkv.weight"] = (3 * width, width)
            shapes[layer + "attention.self.Wqkv.bias"] = (3 * width,)
            shapes[layer + "mlp.gated_layers.weight"] = (2 * inner, width)
            for name, into in (("attention.output.dense", width), ("mlp.wo", inner)):
                shapes[f"{layer}{name}.weight"] = (width, into)
                shapes[f"{layer}{name}.bias"] = (width,)
            for name in ("attention.output.LayerNorm", "mlp.layernorm"):
                shapes[f"{layer}{name}.weight"] = shapes[f"{layer}{name}.bias"] = (width,)
        return shapes


@dataclass(frozen=True, eq=False)
class MosaicBertLayer:
    """One layer; the two halves around attention work row by row."""

    heads: int
    epsilon: float
    qkv: Pair
    out: Pair
    norm_attention: Pair
    gated: torch.Tensor
    down: Pair
    norm_inner: Pair

    def __call__(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Run the layer: (rows, width) to the same."""
        q, k, v = batch.by_rows(self.before, x)
        (y,) = batch.by_rows(self.after, x, batch.attend(q, k, v).flatten(1))
        return y

    def before(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give queries, keys and values, each (rows, heads, head)."""
        q, k, v = linear(x, *self.qkv).view(len(x), 3, self.heads, -1).unbind(1)
        return q, k, v

    def after(self, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor]:
        """Add what attention found, then the gated feed-forward network's answer, normalising after each."""
        x = layer_norm(x + linear(attended, *self.out), x.shape[-1:], *self.norm_attention, self.epsilon)
        gate, value = linear(x, self.gated).chunk(2, dim=-1)
        added = x + linear(gelu(gate) * value, *self.down)
        return (layer_norm(added, x.shape[-1:], *self.norm_inner, self.epsilon),)


class MosaicBert:
    """The trunk of DNABERT-S.

    Args:
        config: the content of config.json.
        state: the checkpoint; heads and other known tensors beside the trunk are left out.
        device: where to hold the weights.
        dtype: of weights and activations.

    Raises:
        WeightsError: config and checkpoint do not fit each other.
    """

    apart_below = 0

    def __init__(
        self,
        config: Mapping[str, object],
        state: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = MosaicBertConfig.read(config)
        tensors = trunk(state, self.config.tensors(), prefix=_PREFIX, beside=_BESIDE)
        self.vocabulary, self.width = self.config.vocabulary, self.config.width
        self.heads, self.head = self.config.heads, self.config.head
        self.slopes = alibi_slopes(self.config.heads)

        def take(name: str) -> torch.Tensor:
            return tensors[name].to(device, dtype)

        def pair(name: str) -> Pair:
            return take(name + ".weight"), take(name + ".bias")

        self._words = take("embeddings.word_embeddings.weight")
        self._type = take("embeddings.token_type_embeddings.weight")[0]
        self._norm = pair("embeddings.LayerNorm")
        self.layers = [self._layer(f"encoder.layer.{i}.", take, pair) for i in range(self.config.depth)]

    def _layer(self, name: str, take: Callable[[str], torch.Tensor], pair: Callable[[str], Pair]) -> MosaicBertLayer:
        return MosaicBertLayer(
            heads=self.config.heads,
            epsilon=self.config.epsilon,
            qkv=pair(name + "attention.self.Wqkv"),
            out=pair(name + "attention.output.dense"),
            norm_attention=pair(name + "attention.output.LayerNorm"),
            gated=take(name + "mlp.gated_layers.weight"),
            down=pair(name + "mlp.wo"),
            norm_inner=pair(name + "mlp.layernorm"),
        )

    def __call__(self, batch: Batch) -> Float[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""
        x = self.embed(batch)
        for layer in self.layers:
            x = layer(x, batch)
        return x

    def embed(self, batch: Batch) -> torch.Tensor:
        """Give what goes into the first layer, in a tensor of its own: (rows, width)."""
        x = embedding(batch.ids, self._words) + self._type
        return layer_norm(x, (self.width,), *self._norm, self.config.epsilon)
