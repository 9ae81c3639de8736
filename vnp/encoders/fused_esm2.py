"""ESM2's layers on a GPU with everything between the matrix products fused: in half precision, and in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from vnp.encoders.esm2 import Esm2
from vnp.encoders.packing import Batch
from vnp.encoders.triton_attention import tiles_of
from vnp.encoders.triton_fp8 import (
    KIND,
    add_linear_fp8,
    linear_fp8,
    linear_gelu_fp8,
    normalise_fp8,
    quantise,
    steepness,
)
from vnp.encoders.triton_linear import linear_gelu
from vnp.encoders.triton_rows import embed_scaled, gelu_in_place, normalise

if TYPE_CHECKING:
    from jaxtyping import Float32

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class _Esm2Layer:
    """One layer's tensors; the shifts are what the stream lacks before attention and before the inner network."""

    shift_attention: torch.Tensor
    norm_attention: Pair
    qkv: Pair
    out: torch.Tensor
    shift_inner: torch.Tensor
    norm_inner: Pair
    up: Pair
    up_bias: torch.Tensor
    down: torch.Tensor


class FusedEsm2:
    """An ESM2 trunk that computes what ``model`` does.

    Args:
        model: whose weights are used.
        joint: GELU within the matrix product.
    """

    slopes = None

    def __init__(self, model: Esm2, *, joint: bool = True) -> None:
        self.vocabulary, self.width, self.heads, self.head = model.vocabulary, model.width, model.heads, model.head
        self._model, self._joint = model, joint
        self._layers: list[_Esm2Layer] = []
        shift = torch.zeros_like(model.layers[0].out[1], dtype=torch.float32)
        for layer in model.layers:
            before, shift = shift, shift + layer.out[1].float()
            self._layers.append(
                _Esm2Layer(
                    shift_attention=before,
                    norm_attention=in_float32(layer.norm_attention),
                    qkv=layer.qkv,
                    out=layer.out[0].T,
                    shift_inner=shift,
                    norm_inner=in_float32(layer.norm_inner),
                    up=layer.up,
                    up_bias=layer.up[1].float(),
                    down=layer.down[0].T,
                )
            )
            shift = shift + layer.down[1].float()
        self._embeds_plainly = model.config.norm_before
        self._last_shift, self._last_norm = shift, in_float32(model.norm_after)

    def __call__(self, batch: Batch) -> Float32[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""
        attend = tiles_of(batch)
        rotary = self._model.rotary.tables(batch.borders.longest)
        scale = None if self._embeds_plainly else self._model.scale(batch)
        x = self._model.embed(batch) if scale is None else embed_scaled(batch.ids, self._model.words, scale)
        self._layer_by_layer(x, lambda qkv: attend.turned(qkv, batch.positions, rotary).flatten(1))
        last = torch.empty_like(x, dtype=torch.float32)
        return normalise(x, self._last_shift, self._last_norm, self._model.config.epsilon, last)

    def _layer_by_layer(self, x: torch.Tensor, attend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Run all layers over the stream ``x``, in place; ``attend`` takes (rows, 3, heads, head)."""
        epsilon = self._model.config.epsilon
        normal = torch.empty_like(x)
        inner = x.new_empty(len(x), self._model.config.inner)
        for layer in self._layers:
            normalise(x, layer.shift_attention, layer.norm_attention, epsilon, normal)
            x.addmm_(attend(linear(normal, *layer.qkv).view(len(x), 3, self.heads, self.head)), layer.out)
            normalise(x, layer.shift_inner, layer.norm_inner, epsilon, normal)
            if self._joint:
                linear_gelu(normal, layer.up[0], layer.up_bias, inner)
            else:
                inner = gelu_in_place(linear(normal, *layer.up))
            x.addmm_(inner, layer.down)


@dataclass(frozen=True, eq=False)
class _Fp8Layer:
    """One layer's products in 8 bits, each weight with its rows' scales, and how far the up projection can reach."""

    qkv: Pair
    qkv_bias: torch.Tensor
    up: Pair
    steep: tuple[float, float]
    down: Pair


class Fp8Esm2(FusedEsm2):
    """An ESM2 trunk whose products with LayerNorm's or GELU's results run in 8 bits.

    Attention, its output projection (a twelfth of the work), the stream and LayerNorm stay in half precision.
    """

    def __init__(self, model: Esm2) -> None:
        super().__init__(model)
        self._products = [
            _Fp8Layer(
                qkv=quantise(layer.qkv[0]),
                qkv_bias=layer.qkv[1].float(),
                up=quantise(layer.up[0]),
                steep=steepness(*layer.up),
                down=quantise(layer.down[0]),
            )
            for layer in model.layers
        ]

    def _layer_by_layer(self, x: torch.Tensor, attend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        epsilon = self._model.config.epsilon
        rows, width = x.shape
        normal = torch.empty_like(x, dtype=KIND), x.new_empty(rows, dtype=torch.float32)
        inner = x.new_empty(rows, self._model.config.inner, dtype=KIND), x.new_empty(rows, dtype=torch.float32)
        qkv = x.new_empty(rows, 3 * width)
        for layer, eight in zip(self._layers, self._products, strict=True):
            normalise_fp8(x, layer.shift_attention, layer.norm_attention, epsilon, normal, inner[1])
            linear_fp8(normal, eight.qkv, eight.qkv_bias, qkv)
            x.addmm_(attend(qkv.view(rows, 3, self.heads, self.head)), layer.out)
            normalise_fp8(x, layer.shift_inner, layer.norm_inner, epsilon, normal, inner[1], eight.steep)
            linear_gelu_fp8(normal, eight.up, layer.up_bias, inner)
            add_linear_fp8(inner, eight.down, x)


def in_float32(pair: Pair) -> Pair:
    """Give a weight and its bias in float32, as the kernels read them."""
    return pair[0].float(), pair[1].float()
