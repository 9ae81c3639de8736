"""ESM2's layers on a GPU with their large products in 8-bit floats (e4m3), on Hopper or newer.

Each row of the left side and each column of the result has a scale of its own, in float32; sums are float32. Weights
are rounded once, activations where they are made: LayerNorm writes 8 bits and each row's scale at once. What GELU gives
has no known largest value until its row is done, so its scale comes from a bound that is known before: a row x times a
weight row w is at most |x| |w| (Cauchy and Schwarz). A loose bound costs nothing but range, of which a float has
plenty: e4m3 keeps its 3 bits of precision from 2^-6 to 448.

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
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from vnp.encoders.kernels.fused import FusedEsm2
from vnp.encoders.kernels.triton_steps import (
    gelu,
    layer_norm_of_row,
    padded,
    place_of_tile,
    processors,
    product_of_tile,
)
from vnp.encoders.models.esm2 import Esm2
from vnp.encoders.models.trunk import Pair
from vnp.encoders.packing import Batch, collate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vnp.encoders.kernels.triton_attention import TritonAttention

KIND = torch.float8_e4m3fn
_LARGEST: tl.constexpr = tl.constexpr(448.0)
# Measured on an H100 against 8 other tilings: 1,000 to 1,360 TFLOP/s on the shapes of a 650M model.
_ROWS, _COLUMNS, _DEPTH, _GROUP, _STAGES = 128, 256, 128, 8, 3
_STORE, _GELU, _ADD = 0, 1, 2
# Codons of each residue in the standard code, in the order of ESM2's vocabulary from token 4 on: L A G V S E R T I D P
# K Q N F Y M H W C. Open frames have about this composition.
_CODONS = (6, 4, 4, 4, 6, 2, 6, 4, 3, 2, 4, 2, 2, 2, 2, 2, 1, 2, 1, 2)
_FIRST_RESIDUE, _BOS, _EOS = 4, 0, 2
_MADE_UP = (34, 52, 102, 168, 300)
_OF_EACH = 12


@triton.jit  # type: ignore[untyped-decorator]
def _normalise(  # type: ignore[no-untyped-def]
    x, shift, weight, bias, out, scales, bounds, epsilon, steepest, offset, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    BOUNDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    result = layer_norm_of_row(x, shift, weight, bias, epsilon, row, columns, WIDTH)
    largest = tl.maximum(tl.max(tl.abs(result), 0), 1e-6)
    tl.store(
        out + row * WIDTH + columns, (result * (_LARGEST / largest)).to(out.dtype.element_ty), mask=columns < WIDTH
    )
    tl.store(scales + row, largest / _LARGEST)
    if BOUNDED:
        tl.store(bounds + row, (tl.sqrt(tl.sum(result * result, 0)) * steepest + offset) / _LARGEST)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    sums, out, row, column, rows, weight_scales, bias, scale, bounds, STEP: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scale a tile of sums, and store it, its GELU, or its sum with what is there."""
    columns = column + tl.arange(0, COLUMNS)
    values = sums * scale[:, None] * tl.load(weight_scales + columns)[None, :]
    if STEP == 2:
        values += out.load([row, column]).to(tl.float32)
    else:
        values += tl.load(bias + columns)[None, :]
    if STEP == 1:
        lines = row + tl.arange(0, ROWS)
        bound = tl.load(bounds + lines, mask=lines < rows, other=1.0)
        values = gelu(values) / bound[:, None]
    out.store([row, column], values.to(out.dtype))


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _linear(  # type: ignore[no-untyped-def]
    x, weight, out, x_scales, weight_scales, bias, bounds, rows, WIDTH: tl.constexpr, INNER: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = INNER // COLUMNS
    half: tl.constexpr = COLUMNS // 2
    down = tl.cdiv(rows, ROWS)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        row, column = place_of_tile(tile, down, across, ROWS, COLUMNS, GROUP)
        sums = product_of_tile(x, weight, row, column, WIDTH, ROWS, COLUMNS, DEPTH)
        lines = row + tl.arange(0, ROWS)
        scale = tl.load(x_scales + lines, mask=lines < rows, other=0.0)
        # In halves, so that what is stored fits beside the operands in shared memory.
        left, right = tl.split(tl.permute(tl.reshape(sums, (ROWS, 2, half)), (0, 2, 1)))
        _finish(left, out, row, column, rows, weight_scales, bias, scale, bounds, STEP, ROWS, half)
        _finish(right, out, row, column + half, rows, weight_scales, bias, scale, bounds, STEP, ROWS, half)


def quantise(weight: torch.Tensor) -> Pair:
    """Round a weight of shape (inner, width) to e4m3; gives its rows, and the scale of each in float32."""
    rows = weight.float()
    scales = rows.abs().amax(dim=1).clamp(min=1e-12) / torch.finfo(KIND).max
    return (rows / scales[:, None]).to(KIND).contiguous(), scales


def steepness(weight: torch.Tensor, bias: torch.Tensor) -> tuple[float, float]:
    """Give s and o so that no number of ``x weight^T + bias``, rounding included, is larger than ``|x| s + o``."""
    room = 1.1  # e4m3 rounds by at most 1/16 on either side of the product
    return room * float(weight.float().norm(dim=1).max()), room * float(bias.float().abs().max())


def normalise_fp8(
    x: torch.Tensor,
    shift: torch.Tensor,
    norm: Pair,
    epsilon: float,
    out: Pair,
    bounds: torch.Tensor | None = None,
    steep: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Write LayerNorm of ``x + shift`` in 8 bits, and what the product after it can reach.

    ``x`` has shape (rows, width), ``out`` the same in e4m3 and its scales of shape (rows,); ``bounds`` of that shape
    become the scales at which the largest possible number of a product with ``steep`` from ``steepness`` just fits.
    """
    rows, width = x.shape
    size = padded(width)
    _normalise[(rows,)](
        x, shift, *norm, *out, out[1] if bounds is None else bounds, epsilon, *steep, WIDTH=width, PADDED=size,
        BOUNDED=bounds is not None, num_warps=1,
    )  # fmt: skip


def linear_fp8(x: Pair, weight: Pair, bias: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write ``x weight^T + bias`` in half precision, shape (rows, inner).

    ``x`` and ``weight`` are e4m3 with each row's scale, of shapes (rows, width) and (inner, width); width is a multiple
    of 128, inner of 256.
    """
    return _launch(x, weight, out, _STORE, bias, bias)


def linear_gelu_fp8(x: Pair, weight: Pair, bias: torch.Tensor, out: Pair) -> None:
    """Write GELU(x weight^T + bias) in 8 bits, with the scales from ``normalise_fp8``; see ``linear_fp8``."""
    _launch(x, weight, out[0], _GELU, bias, out[1])


def add_linear_fp8(x: Pair, weight: Pair, out: torch.Tensor) -> torch.Tensor:
    """Add ``x weight^T`` to ``out``, half precision of shape (rows, inner); see ``linear_fp8``."""
    return _launch(x, weight, out, _ADD, weight[1], weight[1])


def _launch(
    x: Pair, weight: Pair, out: torch.Tensor, step: int, bias: torch.Tensor, bounds: torch.Tensor
) -> torch.Tensor:
    rows, width = x[0].shape
    inner = len(weight[0])
    tiles = -(-rows // _ROWS) * (inner // _COLUMNS)
    _linear[(min(processors(out.device), tiles),)](
        TensorDescriptor.from_tensor(x[0], [_ROWS, _DEPTH]),
        TensorDescriptor.from_tensor(weight[0], [_COLUMNS, _DEPTH]),
        TensorDescriptor.from_tensor(out, [_ROWS, _COLUMNS // 2]), x[1], weight[1], bias, bounds, rows, WIDTH=width,
        INNER=inner, STEP=step, ROWS=_ROWS, COLUMNS=_COLUMNS, DEPTH=_DEPTH, GROUP=_GROUP,
        PROGRAMS=processors(out.device), num_warps=8, num_stages=_STAGES,
    )  # fmt: skip
    return out


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
