"""ESM2's layers on a GPU with everything between the matrix products fused: in half precision, and in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from vnp.encoders.kernels.triton_attention import tiles_of
from vnp.encoders.kernels.triton_linear import linear_gelu
from vnp.encoders.kernels.triton_rows import embed_scaled, gelu_in_place, normalise
from vnp.encoders.models.esm2 import Esm2
from vnp.encoders.packing import Batch

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
    apart_below = 0

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
        x = self._embed(batch)
        shift = self._layer_by_layer(x, batch)
        last = torch.empty_like(x, dtype=torch.float32)
        return normalise(x, shift, self._last_norm, self._model.config.epsilon, last)

    def _embed(self, batch: Batch) -> torch.Tensor:
        scale = None if self._embeds_plainly else self._model.scale(batch)
        return self._model.embed(batch) if scale is None else embed_scaled(batch.ids, self._model.words, scale)

    def _attend(self, qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
        rotary = self._model.rotary.tables(batch.borders.longest)
        turned = tiles_of(batch).turned(qkv.view(len(qkv), 3, self.heads, self.head), batch.positions, rotary)
        return turned.flatten(1)

    def _layer_by_layer(
        self, x: torch.Tensor, batch: Batch, note: Callable[[torch.Tensor], None] = lambda _: None
    ) -> torch.Tensor:
        """Run all layers over the stream ``x``, in place.

        Args:
            x: shape (rows, width).
            batch: whose rows they are.
            note: shown what goes into the first, third and fourth product of each layer.

        Returns:
            What the stream lacks at its end, float32 of shape (width,).
        """
        epsilon = self._model.config.epsilon
        normal = torch.empty_like(x)
        inner = x.new_empty(len(x), self._model.config.inner)
        for layer in self._layers:
            normalise(x, layer.shift_attention, layer.norm_attention, epsilon, normal)
            note(normal)
            x.addmm_(self._attend(linear(normal, *layer.qkv), batch), layer.out)
            normalise(x, layer.shift_inner, layer.norm_inner, epsilon, normal)
            note(normal)
            if self._joint:
                linear_gelu(normal, layer.up[0], layer.up_bias, inner)
            else:
                inner = gelu_in_place(linear(normal, *layer.up))
            note(inner)
            x.addmm_(inner, layer.down)
        return self._last_shift


def in_float32(pair: Pair) -> Pair:
    """Give a weight and its bias in float32, as the kernels read them."""
    return pair[0].float(), pair[1].float()
