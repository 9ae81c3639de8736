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
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, linear

from vnp.encoders.kernels.attention import ByLength
from vnp.encoders.kernels.triton_attention import TritonAttention, tiles_of
from vnp.encoders.kernels.triton_steps import (
    SHARED_MEMORY,
    embed_scaled,
    gate,
    gelu_in_place,
    interleave,
    linear_gelu,
    normalise,
)
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.models.esm2 import Esm2
from vnp.encoders.models.trunk import Pair, Trunk
from vnp.encoders.packing import AttentionShape, Batch, Borders, collate
from vnp.encoders.spec import Family
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from jaxtyping import Float32

log = logging.getLogger(__name__)

_LEAST_COSINE = {torch.float16: 0.9995, torch.bfloat16: 0.99}
_LEAST_COSINE_FP8 = 0.9  # of one token's state, if kernels are right; ``doctor --fp8`` measures what rounding costs
_FEW = 48  # rows of a launch that is only to compile a kernel


class Fused(ABC):
    """A trunk that computes what ``model`` does; see the head of this file.

    Args:
        model: whose weights are used.
    """

    apart_below = 0

    def __init__(self, model: Trunk) -> None:
        self.vocabulary, self.width, self.heads, self.head = model.vocabulary, model.width, model.heads, model.head
        self.slopes = model.slopes

    @abstractmethod
    def __call__(self, batch: Batch) -> Float32[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""

    @abstractmethod
    def launches(self, attention: TritonAttention) -> list[Callable[[], object]]:
        """One launch of each kernel, so that they can be compiled side by side."""


@dataclass(frozen=True, eq=False)
class Esm2Tensors:
    """One layer of ESM2; the shifts are what the stream lacks before attention and before the inner network."""

    shift_attention: torch.Tensor
    norm_attention: Pair
    qkv: Pair
    out: torch.Tensor
    shift_inner: torch.Tensor
    norm_inner: Pair
    up: Pair
    up_bias: torch.Tensor
    down: torch.Tensor


class FusedEsm2(Fused):
    """An ESM2 trunk that computes what ``model`` does.

    Args:
        model: whose weights are used.
        joint: GELU within the matrix product.
    """

    def __init__(self, model: Esm2, *, joint: bool = True) -> None:
        super().__init__(model)
        self._model, self._joint = model, joint
        self._layers: list[Esm2Tensors] = []
        shift = torch.zeros_like(model.layers[0].out[1], dtype=torch.float32)
        for layer in model.layers:
            before, shift = shift, shift + layer.out[1].float()
            self._layers.append(
                Esm2Tensors(
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

    def launches(self, attention: TritonAttention) -> list[Callable[[], object]]:
        """One launch of each kernel, so that they can be compiled side by side."""
        layer, epsilon, words = self._layers[0], self._model.config.epsilon, self._model.words
        batch = collate([np.zeros(_FEW, np.int64)], np.arange(1), attention, words.device, None)
        x, inner = words.new_zeros(_FEW, self.width), words.new_zeros(_FEW, self._model.config.inner)
        joint = partial(linear_gelu, x, layer.up[0], layer.up_bias, inner)
        return [
            joint if self._joint else partial(gelu_in_place, inner),
            partial(self._attend, x.new_zeros(_FEW, 3 * self.width), batch),
            partial(normalise, x, layer.shift_attention, layer.norm_attention, epsilon, torch.empty_like(x)),
            partial(normalise, x, layer.shift_attention, layer.norm_attention, epsilon, x.float()),
            partial(self._embed, batch),
        ]

    def _embed(self, batch: Batch) -> torch.Tensor:
        scale = None if self._embeds_plainly else self._model.scale(batch)
        return self._model.embed(batch) if scale is None else embed_scaled(batch.ids, self._model.words, scale)

    def _attend(
        self, qkv: torch.Tensor, batch: Batch, out: torch.Tensor | None = None, factor: float = 1.0
    ) -> torch.Tensor:
        rotary = self._model.rotary.halves(batch.borders.longest)
        by_head = qkv.view(len(qkv), 3, self.heads, self.head)
        into = None if out is None else out.view(len(qkv), self.heads, self.head)
        return tiles_of(batch).turned(by_head, batch.positions, rotary, into, factor).flatten(1)

    def _layer_by_layer(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Run all layers over the stream ``x``, (rows, width), in place; gives what it lacks at its end, (width,)."""
        self._run(self._layers, x, batch)
        return self._last_shift

    def _run(
        self,
        layers: Sequence[Esm2Tensors],
        x: torch.Tensor,
        batch: Batch,
        note: Callable[[torch.Tensor], None] = lambda _: None,
    ) -> None:
        """Run some layers over the stream.

        ``note`` is shown, layer by layer, the stream before attention, what goes into the second product, the stream
        before the inner network, and what goes into the fourth product.
        """
        epsilon = self._model.config.epsilon
        normal = torch.empty_like(x)
        inner = x.new_empty(len(x), self._model.config.inner)
        for layer in layers:
            note(x)
            normalise(x, layer.shift_attention, layer.norm_attention, epsilon, normal)
            attended = self._attend(linear(normal, *layer.qkv), batch)
            note(attended)
            x.addmm_(attended, layer.out)
            note(x)
            normalise(x, layer.shift_inner, layer.norm_inner, epsilon, normal)
            if self._joint:
                linear_gelu(normal, layer.up[0], layer.up_bias, inner)
            else:
                inner = gelu_in_place(linear(normal, *layer.up))
            note(inner)
            x.addmm_(inner, layer.down)


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


class FusedMosaicBert(Fused):
    """A MosaicBERT trunk that computes what ``model`` does; see ``FusedEsm2``."""

    def __init__(self, model: MosaicBert, *, joint: bool) -> None:
        super().__init__(model)
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

    def launches(self, attention: TritonAttention) -> list[Callable[[], object]]:
        """One launch of each kernel; see ``FusedEsm2``."""
        layer, epsilon, rows = self._layers[0], self._model.config.epsilon, _FEW
        x, inner = layer.down.new_zeros(rows, self.width), layer.down.new_zeros(rows, self._model.config.inner)
        attend = attention.prepare(Borders(np.array([_FEW]), attention.layout, x.device))
        q, k, v = x.new_zeros(_FEW, 3, self.heads, self.head).unbind(1)
        gated = linear(x, layer.gated) if not self._joint else x
        return [
            partial(linear_gelu, x, layer.gated, None, inner) if self._joint else partial(gate, gated, inner),
            partial(attend, q, k, v),
            partial(normalise, x, layer.out_bias, layer.norm_attention, epsilon, torch.empty_like(x)),
            partial(normalise, x, layer.out_bias, layer.norm_attention, epsilon, x.float()),
        ]


def in_float32(pair: Pair) -> Pair:
    """Give a weight and its bias in float32, as the kernels read them."""
    return pair[0].float(), pair[1].float()


def fuse(model: Trunk, family: Family, shape: AttentionShape) -> tuple[Fused, TritonAttention]:
    """Make the fastest fused form of a model that runs here and agrees with it, and its attention.

    Raises:
        EncoderError: none fits, runs and agrees.
    """
    if family.fused is None:
        raise EncoderError(f"nobody wrote any for {family.title}")
    form: Callable[..., Fused] = resolve_name(family.fused)
    attention = _attention(shape)
    joins = _has_tiles(shape.device) and model.width % 64 == 0 and model.config.inner % 256 == 0
    faults = []
    for joint in (True, False) if joins else (False,):
        try:
            fused = form(model, joint=joint)
            _compile(fused, attention)
            agree(fused, attention, model, shape)
        except Exception as error:  # whatever a kernel's compiler or library raises, the next one may run
            faults.append(f"{type(error).__name__}: {error}")
            log.warning("fused layers%s: %s", ", GELU in the product" if joint else "", faults[-1])
        else:
            return fused, attention
    raise EncoderError("; ".join(faults))


def fuse_fp8(model: Trunk, family: Family, shape: AttentionShape) -> tuple[Fused, TritonAttention]:
    """Make the 8-bit form of a model, of a family that has one, or say why not; see ``fuse``."""
    attention = _attention(shape)
    if not _has_tiles(shape.device):
        raise EncoderError(
            "8-bit products need a GPU of compute capability 9.0 (Hopper) or newer with "
            f"{SHARED_MEMORY // 1024} KiB of shared memory a block"
        )
    if model.width % 256 or model.config.inner % 256:
        raise EncoderError(f"8-bit products need widths that are multiples of 256, not {model.width}")
    try:
        fused: Fused = resolve_name(str(family.eight_bits))(model, attention)
        _compile(fused, attention)
        agree(fused, attention, model, shape, ((90, 129, 80), (300, 177)), least=_LEAST_COSINE_FP8)
    except EncoderError:
        raise
    except Exception as error:  # whatever a kernel's compiler or library raises
        raise EncoderError(f"8-bit products do not run: {type(error).__name__}: {error}") from error
    return fused, attention


def _compile(fused: Fused, attention: TritonAttention) -> None:
    """Compile kernels side by side: a compiler is mostly one thread's work outside of Python.

    What fails here is compiled, or fails, where it is used next, in the thread that asked for it.
    """
    launches = fused.launches(attention)
    device = torch.cuda.current_device()

    def one(launch: Callable[[], object]) -> None:
        with torch.inference_mode(), torch.cuda.device(device), suppress(Exception):
            torch.zeros((), device=device)  # gives the thread a GPU's context, which a launch alone does not
            launch()

    with ThreadPoolExecutor(len(launches)) as threads:
        list(threads.map(one, launches))


def _has_tiles(device: torch.device) -> bool:
    """Whether a GPU has the bulk copy engine and the room for the tiles of our own products."""
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", SHARED_MEMORY)
    return torch.cuda.get_device_capability(device) >= (9, 0) and room >= SHARED_MEMORY


def _attention(shape: AttentionShape) -> TritonAttention:
    half = shape.dtype in (torch.float16, torch.bfloat16)
    if shape.device.type != "cuda" or not half or torch.cuda.get_device_capability(shape.device) < (8, 0):
        raise EncoderError("fused layers need half precision on a CUDA device of compute capability 8.0 or newer")
    if shape.head not in (32, 64, 128):
        raise EncoderError(f"fused layers need heads of 32, 64 or 128 numbers, not {shape.head}")
    return TritonAttention(shape, rotary=shape.slopes is None)


def agree(
    fused: Callable[[Batch], torch.Tensor],
    attention: TritonAttention,
    model: Trunk,
    shape: AttentionShape,
    lengths: Sequence[Sequence[int]] = ((3, 70, 1, 129), (300, 5)),
    least: float | None = None,
) -> None:
    """Refuse a form whose last hidden states of a few random sequences are not those of the plain layers.

    ``least`` is the smallest cosine of two states that is let pass; by default what the precision allows for.
    """
    rng = np.random.default_rng(0)
    plain = ByLength(shape)
    wanted = _LEAST_COSINE[shape.dtype] if least is None else least
    with torch.inference_mode():
        for each in lengths:
            ids = [rng.integers(0, model.vocabulary, n) for n in each]
            members = np.arange(len(ids))
            got = fused(collate(ids, members, attention, shape.device, None)).float()
            want = model(collate(ids, members, plain, shape.device, None)).float()
            found = float(cosine_similarity(got, want, dim=-1).min())
            size = float((got.norm() / want.norm() - 1).abs())
            if not (found >= wanted and size < 0.01):
                raise EncoderError(f"differ from the plain layers: cosine {found:.6f}, size {size:.2g}")
