"""MosaicBERT's layers on a GPU in half precision, with everything between the matrix products fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from vnp.encoders.kernels.fused_esm2 import Pair, in_float32
from vnp.encoders.kernels.triton_attention import tiles_of
from vnp.encoders.kernels.triton_linear import interleave, linear_gelu
from vnp.encoders.kernels.triton_rows import gate, normalise
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.packing import Batch

if TYPE_CHECKING:
    from jaxtyping import Float32


@dataclass(frozen=True, eq=False)
class _MosaicBertLayer:
    qkv: Pair
    out: torch.Tensor
    out_bias: torch.Tensor
    norm_attention: Pair
    gated: torch.Tensor
    down: torch.Tensor
    down_bias: torch.Tensor
    norm_inner: Pair


class FusedMosaicBert:
    """A MosaicBERT trunk that computes what ``model`` does; see ``FusedEsm2``."""

    apart_below = 0

    def __init__(self, model: MosaicBert, *, joint: bool) -> None:
        self.vocabulary, self.width, self.heads, self.head = model.vocabulary, model.width, model.heads, model.head
        self.slopes = model.slopes
        self._model, self._joint = model, joint
        self._layers = [
            _MosaicBertLayer(
                qkv=layer.qkv,
                out=layer.out[0].T,
                out_bias=layer.out[1].float(),
                norm_attention=in_float32(layer.norm_attention),
                gated=interleave(layer.gated) if joint else layer.gated,
                down=layer.down[0].T,
                down_bias=layer.down[1].float(),
                norm_inner=in_float32(layer.norm_inner),
            )
            for layer in model.layers
        ]

    def __call__(self, batch: Batch) -> Float32[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""
        epsilon = self._model.config.epsilon
        attend = tiles_of(batch)
        x = self._model.embed(batch)
        inner = x.new_empty(len(x), self._model.config.inner)
        last = torch.empty_like(x, dtype=torch.float32)
        for layer in self._layers:
            q, k, v = linear(x, *layer.qkv).view(len(x), 3, self.heads, self.head).unbind(1)
            x.addmm_(attend(q, k, v).flatten(1), layer.out)
            normalise(x, layer.out_bias, layer.norm_attention, epsilon, x)
            if self._joint:
                linear_gelu(x, layer.gated, None, inner)
            else:
                gate(linear(x, layer.gated), inner)
            x.addmm_(inner, layer.down)
            normalise(x, layer.down_bias, layer.norm_inner, epsilon, last if layer is self._layers[-1] else x)
        return last
