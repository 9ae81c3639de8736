"""ESM2 and FastESM2_650: a pre-LayerNorm transformer with rotary positions (Lin et al., Science 379, 2023).

One implementation for all sizes; the sizes come from config.json. Its names of tensors are those of the
published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn.functional import embedding, layer_norm, linear

from vnp.encoders.models.trunk import Pair, Sizes, Taken, Trunk, gelu, number, switch, whole_number
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray

    from vnp.encoders.packing import Batch

_MASKED_IN_TRAINING = 0.15 * 0.8
_ROTARY_BLOCK = 1024


@dataclass(frozen=True)
class Esm2Config(Sizes):
    """Sizes and switches of one ESM2 model, as in its config.json."""

    theta: float
    token_dropout: bool
    mask_token: int
    norm_before: bool

    @classmethod
    def read(cls, config: Mapping[str, object]) -> Esm2Config:
        """Read config.json."""
        if config.get("position_embedding_type") != "rotary" or config.get("hidden_act", "gelu") != "gelu":
            raise WeightsError(
                "config.json: ESM2 models have 'position_embedding_type' rotary and, if it is there, "
                f"'hidden_act' gelu, not {config.get('position_embedding_type')!r} and {config.get('hidden_act')!r}"
            )
        sizes = cls.of(
            config,
            theta=number(config, "rope_theta", 10000.0),
            token_dropout=switch(config, "token_dropout"),
            mask_token=whole_number(config, "mask_token_id") if switch(config, "token_dropout") else -1,
            norm_before=switch(config, "emb_layer_norm_before"),
        )
        if sizes.width % (2 * sizes.heads):
            raise WeightsError(
                f"config.json: hidden_size {sizes.width} does not make {sizes.heads} heads of even width"
            )
        return sizes

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the trunk."""
        width, inner = self.width, self.inner
        shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (self.vocabulary, width)}
        norms = ["encoder.emb_layer_norm_after"] + ["embeddings.layer_norm"] * self.norm_before
        for i in range(self.depth):
            layer = f"encoder.layer.{i}."
            norms += [layer + "LayerNorm", layer + "attention.LayerNorm"]
            for name, out, into in (
                ("attention.self.query", width, width),
                ("attention.self.key", width, width),
                ("attention.self.value", width, width),
                ("attention.output.dense", width, width),
                ("intermediate.dense", inner, width),
                ("output.dense", width, inner),
            ):
                shapes[f"{layer}{name}.weight"] = (out, into)
                shapes[f"{layer}{name}.bias"] = (out,)
        for name in norms:
            shapes[name + ".weight"] = shapes[name + ".bias"] = (width,)
        return shapes


@dataclass(frozen=True, eq=False)
class Esm2Layer:
    """One layer; the two halves around attention work row by row."""

    heads: int
    epsilon: float
    norm_attention: Pair
    qkv: Pair
    out: Pair
    norm_inner: Pair
    up: Pair
    down: Pair

    def __call__(self, x: torch.Tensor, batch: Batch, rotary: Pair) -> torch.Tensor:
        """Run the layer: (rows, width) to the same."""
        q, k, v = batch.by_rows(self.before, x, *rotary)
        (y,) = batch.by_rows(self.after, x, batch.attend(q, k, v).flatten(1))
        return y

    def before(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give queries, keys and values, each (rows, heads, head), the first two rotated."""
        normal = layer_norm(x, x.shape[-1:], *self.norm_attention, self.epsilon)
        qkv = linear(normal, *self.qkv).view(len(x), 3, self.heads, -1)
        rotated = rotate(qkv[:, :2], cos[:, None, None], sin[:, None, None])
        return rotated[:, 0], rotated[:, 1], qkv[:, 2]

    def after(self, x: torch.Tensor, attended: torch.Tensor) -> tuple[torch.Tensor]:
        """Add what attention found, then the feed-forward network's answer."""
        x = x + linear(attended, *self.out)
        normal = layer_norm(x, x.shape[-1:], *self.norm_inner, self.epsilon)
        return (x + linear(gelu(linear(normal, *self.up)), *self.down),)


def rotate(qk: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (i, i + d/2) of a head by its angle, computed in float32 (Su et al., RoFormer, 2021)."""
    low, high = qk.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(qk.dtype)


class Esm2(Trunk):
    """The trunk of an ESM2 model; see ``Trunk``."""

    sizes = Esm2Config
    prefix = "esm."
    beside = (
        r"lm_head\.(bias|(dense|layer_norm)\.(weight|bias)|decoder\.(weight|bias))",
        r"contact_head\.regression\.(weight|bias)",
        r"pooler\.dense\.(weight|bias)",
        r"embeddings\.position_ids",
        r"embeddings\.position_embeddings\.weight",  # saved by old versions of transformers, unused with rotary
        r"(encoder\.)?(layer\.\d+\.attention\.self\.)?rotary_embeddings\.inv_freq",
    )
    published: ClassVar[Mapping[str, object]] = {
        "model_type": "esm",
        "architectures": ["EsmModel"],
        "vocab_size": 33,
        "mask_token_id": 32,
        "token_dropout": True,
        "position_embedding_type": "rotary",
        "layer_norm_eps": 1e-5,
    }
    small = (3, 256, 4, 1024)
    ends, letters = (0, 2), (4, 24)
    config: Esm2Config

    def take(self, taken: Taken) -> None:
        """Take the tensors, and refuse a checkpoint with other rotary frequencies."""
        self.words = taken.tensor("embeddings.word_embeddings.weight")
        self._norm_before = taken.joined("embeddings.layer_norm") if self.config.norm_before else None
        self.norm_after = taken.joined("encoder.emb_layer_norm_after")
        self.layers = [self._layer(f"encoder.layer.{i}.", taken) for i in range(self.config.depth)]
        self.rotary = RotaryTable(self.config.head, self.config.theta, self.words.device)
        for name, tensor in taken.checkpoint.items():
            if name.endswith("rotary_embeddings.inv_freq"):
                self.rotary.agree(name, tensor)

    def _layer(self, name: str, taken: Taken) -> Esm2Layer:
        return Esm2Layer(
            heads=self.config.heads,
            epsilon=self.config.epsilon,
            norm_attention=taken.joined(name + "attention.LayerNorm"),
            qkv=taken.joined(*(f"{name}attention.self.{each}" for each in ("query", "key", "value"))),
            out=taken.joined(name + "attention.output.dense"),
            norm_inner=taken.joined(name + "LayerNorm"),
            up=taken.joined(name + "intermediate.dense"),
            down=taken.joined(name + "output.dense"),
        )

    def __call__(self, batch: Batch) -> Float[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""
        x = self.embed(batch)
        rotary = self.rotary(batch.positions, batch.borders.longest)
        for layer in self.layers:
            x = layer(x, batch, rotary)
        return layer_norm(x, (self.width,), *self.norm_after, self.config.epsilon)

    def embed(self, batch: Batch) -> torch.Tensor:
        """Give what goes into the first layer, in a tensor of its own: (rows, width)."""
        x = embedding(batch.ids, self.words)
        scale = self.scale(batch)
        if scale is not None:
            x = (x.float() * scale[:, None]).to(x.dtype)
        if self._norm_before is not None:
            x = layer_norm(x, (self.width,), *self._norm_before, self.config.epsilon)
        return x

    def scale(self, batch: Batch) -> torch.Tensor | None:
        """Give what token dropout multiplies each row's word vector by: float32 (rows,), or None without it."""
        return token_scale(batch, self.config.mask_token) if self.config.token_dropout else None


def token_scale(batch: Batch, mask_token: int) -> torch.Tensor:
    """Give what token dropout multiplies each row's word vector by: float32 (rows,).

    In training, tokens were zeroed as by dropout; the scale makes up for how few are zero now.
    """
    masked = batch.ids == mask_token
    counts = torch.zeros_like(batch.lengths).index_add_(0, batch.owners, masked.long())
    scale = (1 - _MASKED_IN_TRAINING) / (1 - counts.float() / batch.lengths.float())
    return scale[batch.owners].masked_fill(masked, 0.0)


class RotaryTable:
    """Cosines and sines of every position seen so far, in float32, grown in blocks of one size.

    Blocks of one size keep each value the same bits however long the table has become.
    """

    def __init__(self, head: int, theta: float, device: torch.device) -> None:
        steps = torch.arange(0, head, 2, dtype=torch.int64).float() / head
        self._frequencies = (1.0 / theta**steps).numpy()
        self._device = device
        self._length = 0
        self._tables: Pair | None = None
        self._halves: Pair | None = None

    def agree(self, name: str, stored: torch.Tensor) -> None:
        """Refuse a checkpoint whose frequencies are others; rounding to bfloat16 is let pass."""
        own = self._frequencies
        theirs = stored.detach().float().cpu().numpy()
        if theirs.shape != own.shape or not np.allclose(theirs, own, rtol=1e-2, atol=1e-6):
            raise WeightsError(
                f"the weights' {name} {theirs[:3]}... is not what config.json asks for: {own[:3]}... "
                f"of shape {own.shape}"
            )

    def __call__(self, positions: torch.Tensor, longest: int) -> Pair:
        """Give cosines and sines of these positions, none of which is beyond ``longest``: (rows, head / 2) each."""
        cos, sin = self.tables(longest)
        return cos[positions], sin[positions]

    def tables(self, longest: int) -> Pair:
        """Give cosines and sines of at least ``longest`` positions: (positions, head / 2) each."""
        if self._tables is None or longest > self._length:
            blocks = -(-longest // _ROTARY_BLOCK)
            angles = [self._angles(block * _ROTARY_BLOCK) for block in range(blocks)]
            cos = np.concatenate([np.cos(each).astype(np.float32) for each in angles])
            sin = np.concatenate([np.sin(each).astype(np.float32) for each in angles])
            self._tables = (torch.from_numpy(cos).to(self._device), torch.from_numpy(sin).to(self._device))
            self._length = len(cos)
            self._halves = None
        return self._tables

    def halves(self, longest: int) -> Pair:
        """Give ``tables`` in float16, which attention in half precision reads faster and rounds no further."""
        cos, sin = self.tables(longest)
        if self._halves is None:
            self._halves = cos.half(), sin.half()
        return self._halves

    def _angles(self, first: int) -> NDArray[np.float64]:
        # The product is rounded to float32 as in the published code, its cosine taken exactly.
        places = np.arange(first, first + _ROTARY_BLOCK, dtype=np.float32)
        angles: NDArray[np.float32] = places[:, None] * self._frequencies
        return angles.astype(np.float64)
