"""DNABERT-S: a MosaicBERT, which is a post-LayerNorm BERT with ALiBi and a gated feed-forward network.

Zhou et al., 2024 (DNABERT-S); Portes et al., NeurIPS 2023 (MosaicBERT). Positions enter only through ALiBi's
bias on attention; the names of tensors are those of the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import embedding, layer_norm, linear

from vnp.encoders.kernels.attention import alibi_slopes
from vnp.encoders.models.trunk import Pair, Sizes, Taken, Trunk, gelu, whole_number
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from jaxtyping import Float

    from vnp.encoders.packing import Batch


@dataclass(frozen=True)
class MosaicBertConfig(Sizes):
    """Sizes of one MosaicBERT model, as in its config.json."""

    gates = 2

    types: int

    @classmethod
    def read(cls, config: Mapping[str, object]) -> MosaicBertConfig:
        """Read config.json."""
        if config.get("hidden_act", "gelu") != "gelu":
            raise WeightsError(f"config.json: 'hidden_act' is {config['hidden_act']!r}; DNABERT-S has 'gelu'")
        sizes = cls.of(config, types=whole_number(config, "type_vocab_size"))
        if sizes.width % sizes.heads:
            raise WeightsError(f"config.json: hidden_size {sizes.width} does not divide into {sizes.heads} heads")
        return sizes

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


class MosaicBert(Trunk):
    """The trunk of DNABERT-S; see ``Trunk``."""

    sizes = MosaicBertConfig
    prefix = "bert."
    beside = (
        r"cls\.predictions\.(bias|decoder\.(weight|bias)|transform\.(dense|LayerNorm)\.(weight|bias))",
        r"cls\.seq_relationship\.(weight|bias)",
        r"pooler\.dense\.(weight|bias)",
        r"embeddings\.position_ids",
    )
    published: ClassVar[Mapping[str, object]] = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "alibi_starting_size": 512,
        "vocab_size": 4096,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    small = (3, 384, 6, 768)
    ends, letters = (1, 2), (5, 4096)
    config: MosaicBertConfig

    def take(self, taken: Taken) -> None:
        """Take the tensors."""
        self.slopes = alibi_slopes(self.config.heads)
        self._words = taken.tensor("embeddings.word_embeddings.weight")
        self._type = taken.tensor("embeddings.token_type_embeddings.weight")[0]
        self._norm = taken.pair("embeddings.LayerNorm")
        self.layers = [self._layer(f"encoder.layer.{i}.", taken) for i in range(self.config.depth)]

    def _layer(self, name: str, taken: Taken) -> MosaicBertLayer:
        return MosaicBertLayer(
            heads=self.config.heads,
            epsilon=self.config.epsilon,
            qkv=taken.pair(name + "attention.self.Wqkv"),
            out=taken.pair(name + "attention.output.dense"),
            norm_attention=taken.pair(name + "attention.output.LayerNorm"),
            gated=taken.tensor(name + "mlp.gated_layers.weight"),
            down=taken.pair(name + "mlp.wo"),
            norm_inner=taken.pair(name + "mlp.layernorm"),
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
