"""ESM2's layers on a GPU with their large products in 8 bits.

What 8 bits round off a weight is the same for every token, so it does not average out over a sequence as the rounding
of activations does. Most of it is what the mean input would give, and that is put back into the bias (Nagel et al.,
Data-Free Quantization through Weight Equalization and Bias Correction, ICCV 2019, section 4.2); the means are taken
from a few made-up proteins when the encoder is loaded. Sequences of few tokens, which average little, run in half
precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp.encoders.kernels.fused_esm2 import FusedEsm2, Pair
from vnp.encoders.kernels.triton_fp8 import (
    KIND,
    add_linear_fp8,
    linear_fp8,
    linear_gelu_fp8,
    normalise_fp8,
    quantise,
    steepness,
)
from vnp.encoders.models.esm2 import Esm2
from vnp.encoders.packing import Batch, collate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vnp.encoders.kernels.triton_attention import TritonAttention

# Codons of each residue in the standard code, in the order of ESM2's vocabulary from token 4 on: L A G V S E R T I D P
# K Q N F Y M H W C. Open frames have about this composition.
_CODONS = (6, 4, 4, 4, 6, 2, 6, 4, 3, 2, 4, 2, 2, 2, 2, 2, 1, 2, 1, 2)
_FIRST_RESIDUE, _BOS, _EOS = 4, 0, 2
_MADE_UP = (34, 52, 102, 168, 300)
_OF_EACH = 12


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's products in 8 bits, each weight with its rows' scales, biases that make up for the rounding."""

    shift_attention: torch.Tensor
    qkv: Pair
    qkv_bias: torch.Tensor
    shift_inner: torch.Tensor
    up: Pair
    up_bias: torch.Tensor
    steep: tuple[float, float]
    down: Pair


class Fp8Esm2(FusedEsm2):
    """An ESM2 trunk whose products with LayerNorm's or GELU's results run in 8 bits.

    Attention, its output projection (a twelfth of the work), the stream and LayerNorm stay in half precision.

    Args:
        model: whose weights are used; on a GPU, in half precision.
        attention: prepares the batch that the mean inputs are taken from.
    """

    # With random weights, the smallest cosine to float32 of 64 sequences was 0.9990 at 52 tokens, 0.9992 at 80.
    apart_below = 80

    def __init__(self, model: Esm2, attention: TritonAttention) -> None:
        super().__init__(model)
        self._eight: list[_Layer] = []
        means = self._mean_inputs(attention)
        lost = torch.zeros_like(self._last_shift)
        for layer, plain, first, third, fourth in zip(
            self._layers, model.layers, means[::3], means[1::3], means[2::3], strict=True
        ):
            qkv, up, down = (quantise(each[0]) for each in (plain.qkv, plain.up, plain.down))
            up_bias = layer.up_bias + _rounded_off(plain.up[0], up, third)
            self._eight.append(
                _Layer(
                    shift_attention=layer.shift_attention + lost,
                    qkv=qkv,
                    qkv_bias=plain.qkv[1].float() + _rounded_off(plain.qkv[0], qkv, first),
                    shift_inner=layer.shift_inner + lost,
                    up=up,
                    up_bias=up_bias,
                    steep=steepness(plain.up[0], up_bias),
                    down=down,
                )
            )
            lost = lost + _rounded_off(plain.down[0], down, fourth)
        self._eight_last_shift = self._last_shift + lost

    @torch.inference_mode()
    def _mean_inputs(self, attention: TritonAttention) -> list[torch.Tensor]:
        """Means over tokens of what goes into each product, in float32, three a layer."""
        ids = _made_up(self.vocabulary)
        batch = collate(ids, np.arange(len(ids)), attention, self._last_shift.device, None)
        means: list[torch.Tensor] = []
        super()._layer_by_layer(self._embed(batch), batch, lambda inputs: means.append(inputs.float().mean(dim=0)))
        return means

    def _layer_by_layer(
        self, x: torch.Tensor, batch: Batch, note: Callable[[torch.Tensor], None] = lambda _: None
    ) -> torch.Tensor:
        if int(batch.borders.lengths.min()) < self.apart_below:
            return super()._layer_by_layer(x, batch, note)
        epsilon = self._model.config.epsilon
        rows, width = x.shape
        normal = torch.empty_like(x, dtype=KIND), x.new_empty(rows, dtype=torch.float32)
        inner = x.new_empty(rows, self._model.config.inner, dtype=KIND), x.new_empty(rows, dtype=torch.float32)
        qkv = x.new_empty(rows, 3 * width)
        for layer, eight in zip(self._layers, self._eight, strict=True):
            normalise_fp8(x, eight.shift_attention, layer.norm_attention, epsilon, normal)
            linear_fp8(normal, eight.qkv, eight.qkv_bias, qkv)
            x.addmm_(self._attend(qkv, batch), layer.out)
            normalise_fp8(x, eight.shift_inner, layer.norm_inner, epsilon, normal, inner[1], eight.steep)
            linear_gelu_fp8(normal, eight.up, eight.up_bias, inner)
            add_linear_fp8(inner, eight.down, x)
        return self._eight_last_shift


def _rounded_off(weight: torch.Tensor, eight: Pair, mean: torch.Tensor) -> torch.Tensor:
    """What rounding a weight takes from its product with the mean input."""
    return (weight.float() - eight[0].float() * eight[1][:, None]) @ mean


def _made_up(vocabulary: int) -> list[NDArray[np.int64]]:
    """Token ids of proteins of several lengths, with the composition of random codons, always the same."""
    rng = np.random.default_rng(0)
    share = np.array(_CODONS) / sum(_CODONS)
    residues = np.minimum(np.arange(_FIRST_RESIDUE, _FIRST_RESIDUE + len(_CODONS)), vocabulary - 1)
    return [
        np.concatenate(([_BOS], rng.choice(residues, length - 2, p=share), [_EOS]))
        for length in np.repeat(_MADE_UP, _OF_EACH).tolist()
    ]
