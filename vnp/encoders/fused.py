"""Both models' layers on a GPU in half precision, with everything between the matrix products fused into few kernels.

What differs from the plain layers, which stay the reference:

- A residual is added by the matrix product that makes it. The biases of those products are left out of the stream
  and added where it is read, as one constant for each layer: ``x = stream + shift``.
- LayerNorm reads the stream once and writes once; the last one writes float32.
- GELU runs in the epilogue of the product before it, where the GPU has the bulk copy engine (Hopper or newer).
- Rotary positions are applied while attention loads its queries and keys.

An encoder uses these only after they agreed with the plain layers on its own weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, linear

from vnp.encoders.attention import AttentionShape, ByLength
from vnp.encoders.dnabert import MosaicBert
from vnp.encoders.esm2 import Esm2
from vnp.encoders.packing import Batch, collate
from vnp.encoders.triton_attention import Tiles, TritonAttention
from vnp.encoders.triton_linear import interleave, linear_gelu
from vnp.encoders.triton_rows import embed_scaled, gate, gelu_in_place, normalise
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from jaxtyping import Float32

log = logging.getLogger(__name__)

Pair = tuple[torch.Tensor, torch.Tensor]

_LEAST_COSINE = {torch.float16: 0.9995, torch.bfloat16: 0.99}


def _float(pair: Pair) -> Pair:
    return pair[0].float(), pair[1].float()


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

    def __init__(self, model: Esm2, *, joint: bool) -> None:
        self.vocabulary, self.width, self.heads, self.head = model.vocabulary, model.width, model.heads, model.head
        self._model, self._joint = model, joint
        self._layers = []
        shift = torch.zeros_like(model.layers[0].out[1], dtype=torch.float32)
        for layer in model.layers:
            before, shift = shift, shift + layer.out[1].float()
            self._layers.append(
                _Esm2Layer(
                    shift_attention=before,
                    norm_attention=_float(layer.norm_attention),
                    qkv=layer.qkv,
                    out=layer.out[0].T,
                    shift_inner=shift,
                    norm_inner=_float(layer.norm_inner),
                    up=layer.up,
                    up_bias=layer.up[1].float(),
                    down=layer.down[0].T,
                )
            )
            shift = shift + layer.down[1].float()
        self._embeds_plainly = model.config.norm_before
        self._last_shift, self._last_norm = shift, _float(model.norm_after)

    def __call__(self, batch: Batch) -> Float32[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""
        epsilon = self._model.config.epsilon
        attend = _tiles(batch)
        rotary = self._model.rotary.tables(batch.borders.longest)
        scale = None if self._embeds_plainly else self._model.scale(batch)
        x = self._model.embed(batch) if scale is None else embed_scaled(batch.ids, self._model.words, scale)
        normal = torch.empty_like(x)
        inner = x.new_empty(len(x), self._model.config.inner)
        for layer in self._layers:
            normalise(x, layer.shift_attention, layer.norm_attention, epsilon, normal)
            qkv = linear(normal, *layer.qkv).view(len(x), 3, self.heads, self.head)
            x.addmm_(attend.turned(qkv, batch.positions, rotary).flatten(1), layer.out)
            normalise(x, layer.shift_inner, layer.norm_inner, epsilon, normal)
            if self._joint:
                linear_gelu(normal, layer.up[0], layer.up_bias, inner)
            else:
                inner = gelu_in_place(linear(normal, *layer.up))
            x.addmm_(inner, layer.down)
        return normalise(x, self._last_shift, self._last_norm, epsilon, torch.empty_like(x, dtype=torch.float32))


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

    def __init__(self, model: MosaicBert, *, joint: bool) -> None:
        self.vocabulary, self.width, self.heads, self.head = model.vocabulary, model.width, model.heads, model.head
        self.slopes = model.slopes
        self._model, self._joint = model, joint
        self._layers = [
            _MosaicBertLayer(
                qkv=layer.qkv,
                out=layer.out[0].T,
                out_bias=layer.out[1].float(),
                norm_attention=_float(layer.norm_attention),
                gated=interleave(layer.gated) if joint else layer.gated,
                down=layer.down[0].T,
                down_bias=layer.down[1].float(),
                norm_inner=_float(layer.norm_inner),
            )
            for layer in model.layers
        ]

    def __call__(self, batch: Batch) -> Float32[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""
        epsilon = self._model.config.epsilon
        attend = _tiles(batch)
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


Fused = FusedEsm2 | FusedMosaicBert


def _tiles(batch: Batch) -> Tiles:
    if not isinstance(batch.attend, Tiles):
        raise EncoderError("fused layers attend with their own kernel, and this batch was prepared for another")
    return batch.attend


def fuse(model: Esm2 | MosaicBert, shape: AttentionShape) -> tuple[Fused, TritonAttention]:
    """Make the fastest fused form of a model that runs here and agrees with it.

    Args:
        model: on a CUDA device, in half precision.
        shape: its attention.

    Returns:
        The fused model, and the attention that its batches are prepared for.

    Raises:
        EncoderError: none fits, runs and agrees.
    """
    half = shape.dtype in (torch.float16, torch.bfloat16)
    if shape.device.type != "cuda" or not half or torch.cuda.get_device_capability(shape.device) < (8, 0):
        raise EncoderError("fused layers need half precision on a CUDA device of compute capability 8.0 or newer")
    if shape.head not in (32, 64, 128):
        raise EncoderError(f"fused layers need heads of 32, 64 or 128 numbers, not {shape.head}")
    attention = TritonAttention(shape, rotary=shape.slopes is None)
    hopper = torch.cuda.get_device_capability(shape.device) >= (9, 0)
    joins = hopper and model.width % 64 == 0 and model.config.inner % 256 == 0
    faults = []
    for joint in (True, False) if joins else (False,):
        try:
            fused = FusedEsm2(model, joint=joint) if isinstance(model, Esm2) else FusedMosaicBert(model, joint=joint)
            agree(fused, attention, model, shape)
        except Exception as error:  # whatever a kernel's compiler or library raises, the next one may run
            faults.append(f"{type(error).__name__}: {error}")
            log.warning("fused layers%s: %s", ", GELU in the product" if joint else "", faults[-1])
        else:
            return fused, attention
    raise EncoderError("; ".join(faults))


def agree(
    fused: Callable[[Batch], torch.Tensor],
    attention: TritonAttention,
    model: Esm2 | MosaicBert,
    shape: AttentionShape,
    lengths: Sequence[Sequence[int]] = ((3, 70, 1, 129), (300, 5)),
) -> None:
    """Compare the last hidden states of a few random sequences with those of the plain layers.

    Args:
        fused: what is checked.
        attention: that its batches are prepared for.
        model: the plain layers.
        shape: its attention.
        lengths: of the sequences, batch by batch.

    Raises:
        EncoderError: they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    plain = ByLength(shape)
    with torch.inference_mode():
        for each in lengths:
            ids = [rng.integers(0, model.vocabulary, n) for n in each]
            members = np.arange(len(ids))
            got = fused(collate(ids, members, attention, shape.device, None)).float()
            want = model(collate(ids, members, plain, shape.device, None)).float()
            least = float(cosine_similarity(got, want, dim=-1).min())
            size = float((got.norm() / want.norm() - 1).abs())
            if not (least >= _LEAST_COSINE[shape.dtype] and size < 0.01):
                raise EncoderError(f"differ from the plain layers: cosine {least:.6f}, size {size:.2g}")
