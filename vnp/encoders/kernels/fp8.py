"""ESM2's layers on a GPU with all their matrix products in 8-bit floats (e4m3), on Hopper or newer.

Nothing runs between products but attention: each product's epilogue writes what the next one reads.

- Every reading of the stream is through LayerNorm, which takes away the mean of a row. So the stream is kept without
  it: what is added has none either, because the weights that make it are centred when the encoder is loaded.
- LayerNorm is part of the product behind it. With r the inverse spread of a row x, g and b its weight and bias,
  LayerNorm(x) W^T = r x (gW)^T + b W^T. So the stream itself is rounded, where a product adds to it, and that product's
  epilogue also sums up the squares of its tile's rows; a small kernel makes r of those.
- The stream's scale in 8 bits is one number for each place in the model, from the largest number that a few made-up
  proteins reach, with room: a float's precision is the same from 2^-6 to 448, so a loose scale costs nothing but range.
- What attention and GELU give is scaled by what they can reach at most. A row that LayerNorm made of w numbers is
  sqrt(w) long, so its product with a weight's row v is at most sqrt(w) |v| (Cauchy and Schwarz); attention averages
  such numbers, and GELU makes none larger.
- A weight has one scale. Sums are float32, and an epilogue has as few numbers to load as can be: each takes its time.

Weights are rounded by what goes into their products on the made-up proteins, when the encoder is loaded; see
``rounding``. Sequences of fewer than 48 tokens, which average little, run in half precision, and so does the first
layer of a deep model: its stream is still small, so it loses most, and there are more layers to carry that on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl
from torch.nn.functional import layer_norm
from triton.tools.tensor_descriptor import TensorDescriptor

from vnp.encoders.kernels.fused import Esm2Tensors, FusedEsm2
from vnp.encoders.kernels.rounding import (
    KIND,
    LARGEST,
    Weight,
    centred_behind_norm,
    centred_onto_stream,
    quantise_together,
)
from vnp.encoders.kernels.triton_steps import padded, place_of_tile, processors, product_of_tile, warps
from vnp.encoders.models.esm2 import Esm2, Esm2Layer
from vnp.encoders.packing import Batch, collate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from vnp.encoders.kernels.triton_attention import TritonAttention

_STREAM_ROOM = 4.0  # a sequence's stream may be so many times larger than those of the made-up ones
# Measured on an H100 against 8 other tilings: 1,000 to 1,360 TFLOP/s on the shapes of a 650M model.
_ROWS, _COLUMNS, _DEPTH, _GROUP, _STAGES = 128, 256, 128, 8, 3
_PART = _COLUMNS // 2  # numbers of a row that one sum of squares is of
_STORE, _GELU, _ADD = 0, 1, 2
_BLOCK = 128
# Codons of each residue in the standard code, in the order of ESM2's vocabulary from token 4 on: L A G V S E R T I D P
# K Q N F Y M H W C. Open frames have about this composition.
_CODONS = (6, 4, 4, 4, 6, 2, 6, 4, 3, 2, 4, 2, 2, 2, 2, 2, 1, 2, 1, 2)
_FIRST_RESIDUE, _BOS, _EOS = 4, 0, 2
_TOGETHER = 8  # layers whose weights are rounded side by side
_MADE_UP = (34, 52, 102, 168, 300)
_OF_EACH = 12
# Layers that all run in 8 bits: of 36, with random weights, they left what sets sequences apart a cosine of 0.9897.
_DEEP = 33


@triton.jit
def _short_gelu(x):  # type: ignore[no-untyped-def]
    """Compute x * Phi(x) to within 6e-5, which is far below what 8 bits round; see ``gelu`` in ``triton_steps``."""
    a = tl.abs(x)
    power = (-0.024884434416890144 * a - 0.4988246262073517) * a
    power = (power - 1.1292409896850586) * a - 1.003533124923706
    return tl.maximum(x, 0.0) - a * tl.exp2(power)


@triton.jit  # type: ignore[untyped-decorator]
def _enter(  # type: ignore[no-untyped-def]
    x, eight, spread, epsilon, factor, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    real = columns < WIDTH
    places = row * WIDTH + columns
    values = tl.load(x + places, mask=real, other=0.0).to(tl.float32)
    centred = tl.where(real, values - tl.sum(values, 0) / WIDTH, 0.0)
    tl.store(x + places, centred.to(x.dtype.element_ty), mask=real)
    tl.store(eight + places, (centred * factor).to(eight.dtype.element_ty), mask=real)
    tl.store(spread + row, 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + epsilon))


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _spread(  # type: ignore[no-untyped-def]
    squares, spread, rows, epsilon, WIDTH: tl.constexpr, PARTS: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lines = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.arange(0, PADDED)
    real = (part < PARTS)[:, None] & (lines < rows)[None, :]
    found = tl.sum(tl.load(squares + part[:, None] * rows + lines[None, :], mask=real, other=0.0), 0)
    tl.store(spread + lines, 1.0 / tl.sqrt(found / WIDTH + epsilon), mask=lines < rows)


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    products, out, eight, row, column, rows, bias, scale, squares, factor, STEP: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Scale a tile of products, and store it, its GELU, or its sum with what is there and the squares of its rows."""
    offset = tl.load(bias + column + tl.arange(0, COLUMNS))[None, :]
    if STEP == 2:
        values = products * scale + (out.load([row, column]).to(tl.float32) + offset)
        out.store([row, column], values.to(out.dtype))
        eight.store([row, column], (values * factor).to(eight.dtype))
        lines = row + tl.arange(0, ROWS)
        tl.store(squares + (column // COLUMNS) * rows + lines, tl.sum(values * values, 1), mask=lines < rows)
    else:
        values = products * scale[:, None] + offset
        if STEP == 1:
            values = _short_gelu(values) * factor
        out.store([row, column], values.to(out.dtype))


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _linear(  # type: ignore[no-untyped-def]
    x, weight, out, eight, bias, spread, squares, scale, factor, rows, WIDTH: tl.constexpr, INNER: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = INNER // COLUMNS
    half: tl.constexpr = COLUMNS // 2
    down = tl.cdiv(rows, ROWS)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        row, column = place_of_tile(tile, down, across, ROWS, COLUMNS, GROUP)
        products = product_of_tile(x, weight, row, column, WIDTH, ROWS, COLUMNS, DEPTH)
        by_row = scale
        if STEP != 2:
            lines = row + tl.arange(0, ROWS)
            by_row = tl.load(spread + lines, mask=lines < rows, other=0.0) * scale
        # In halves, so that what is stored fits beside the operands in shared memory.
        left, right = tl.split(tl.permute(tl.reshape(products, (ROWS, 2, half)), (0, 2, 1)))
        _finish(left, out, eight, row, column, rows, bias, by_row, squares, factor, STEP, ROWS, half)
        _finish(right, out, eight, row, column + half, rows, bias, by_row, squares, factor, STEP, ROWS, half)


@dataclass(frozen=True, eq=False)
class Stream:
    """The stream of a batch: what layers add to, and what the next product reads of it.

    Attributes:
        x: half precision, shape (rows, width), each row without its mean.
        eight: the same in e4m3, scaled.
        spread: inverse of each row's standard deviation, float32 of shape (rows,).
        squares: of a row's numbers, a sum for each ``_PART`` of them: float32 of shape (parts, rows).
    """

    x: torch.Tensor
    eight: torch.Tensor
    spread: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def enter(cls, x: torch.Tensor, epsilon: float, scale: float) -> Stream:
        """Begin with what goes into the first layer, which loses its means; ``scale`` is that of ``eight``."""
        rows, width = x.shape
        squares = x.new_empty(width // _PART, rows, dtype=torch.float32)
        stream = cls(x, torch.empty_like(x, dtype=KIND), x.new_empty(rows, dtype=torch.float32), squares)
        size = padded(width)
        _enter[(rows,)](
            x, stream.eight, stream.spread, epsilon, 1 / scale, WIDTH=width, PADDED=size, num_warps=warps(size)
        )
        return stream

    def linear(self, weight: Weight, out: torch.Tensor) -> None:
        """Write ``LayerNorm(x) weight^T + bias`` in half precision; widths are multiples of 256."""
        self._launch(self.eight, weight, out, _STORE, 1.0)

    def linear_gelu(self, weight: Weight, out: torch.Tensor, factor: float) -> None:
        """Write its GELU times ``factor`` in 8 bits."""
        self._launch(self.eight, weight, out, _GELU, factor)

    def add(self, inputs: torch.Tensor, weight: Weight, epsilon: float, scale: float) -> None:
        """Add ``inputs weight^T + bias``, of inputs in 8 bits; ``scale`` is that of ``eight`` from now on."""
        self._launch(inputs, weight, self.x, _ADD, 1 / scale)
        parts, rows = self.squares.shape
        _spread[(-(-rows // _BLOCK),)](
            self.squares, self.spread, rows, epsilon, WIDTH=self.x.shape[1], PARTS=parts, PADDED=padded(parts),
            BLOCK=_BLOCK,
        )  # fmt: skip

    def _launch(self, x: torch.Tensor, weight: Weight, out: torch.Tensor, step: int, factor: float) -> None:
        rows, width = x.shape
        inner = len(weight.rows)
        tiles = -(-rows // _ROWS) * (inner // _COLUMNS)
        half = [_ROWS, _PART]
        _linear[(min(processors(out.device), tiles),)](
            TensorDescriptor.from_tensor(x, [_ROWS, _DEPTH]),
            TensorDescriptor.from_tensor(weight.rows, [_COLUMNS, _DEPTH]), TensorDescriptor.from_tensor(out, half),
            TensorDescriptor.from_tensor(self.eight, half), weight.bias, self.spread, self.squares, weight.scale,
            factor, rows, WIDTH=width, INNER=inner, STEP=step, ROWS=_ROWS, COLUMNS=_COLUMNS, DEPTH=_DEPTH,
            GROUP=_GROUP, PROGRAMS=processors(out.device), num_warps=8, num_stages=_STAGES,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's products, and the scales of what goes into them."""

    stream_attention: float
    qkv: Weight
    attended: float
    out: Weight
    stream_inner: float
    up: Weight
    inner: float
    down: Weight


@dataclass(frozen=True, eq=False)
class _Seen:
    """What goes into a product, on made-up proteins."""

    mean: torch.Tensor  # over tokens
    scale: float  # of the stream in 8 bits, where that goes in
    moments: torch.Tensor  # mean products of each two numbers without their means, (width, width)


def _rounded(seen: Sequence[_Seen], layers: Sequence[Esm2Tensors], plain: Sequence[Esm2Layer]) -> list[_Layer]:
    """Layers in 8 bits; each product of them all is rounded side by side."""
    # In float32, with what is before a product as a part of it.
    pairs = [
        (
            centred_behind_norm(own.qkv, layer.norm_attention),
            centred_onto_stream(own.out),
            centred_behind_norm(own.up, layer.norm_inner),
            centred_onto_stream(own.down),
        )
        for layer, own in zip(layers, plain, strict=True)
    ]
    rows = [
        quantise_together(
            torch.stack([four[place][0] for four in pairs]), torch.stack([e.moments for e in seen[place::4]])
        )
        for place in range(4)
    ]
    found = []
    for number, (qkv, out, up, down) in enumerate(pairs):
        before, second, between, fourth = seen[4 * number : 4 * number + 4]
        first = Weight.of(qkv, before.mean, before.scale, rows[0][number])
        third = Weight.of(up, between.mean, between.scale, rows[2][number])
        attended, inner = first.largest / LARGEST, third.largest / LARGEST
        found.append(
            _Layer(
                stream_attention=before.scale,
                qkv=first,
                attended=attended,
                out=Weight.of(out, second.mean, attended, rows[1][number]),
                stream_inner=between.scale,
                up=third,
                inner=inner,
                down=Weight.of(down, fourth.mean, inner, rows[3][number]),
            )
        )
    return found


class Fp8Esm2(FusedEsm2):
    """An ESM2 trunk whose products run in 8 bits.

    The stream, queries, keys and values, and all that attention computes stay in half precision or better.

    Args:
        model: whose weights are used; on a GPU, in half precision.
        attention: prepares the batch that means and the stream's size are taken from.
    """

    # With random weights, of 200 sequences of 51 and 52 tokens the smallest cosine to float32 was 0.99962, and the
    # smallest of what sets them apart 0.9929.
    apart_below = 48

    def __init__(self, model: Esm2, attention: TritonAttention) -> None:
        super().__init__(model)
        self._in_half = int(len(model.layers) > _DEEP)
        self._eight: list[_Layer] = []
        self._look(model, attention)

    def launches(self, attention: TritonAttention) -> list[Callable[[], object]]:
        """One launch of each kernel; see ``FusedEsm2``."""
        layer, epsilon, rows = self._eight[0], self._model.config.epsilon, self.apart_below
        x = self._model.words.new_zeros(rows, self.width)
        batch = collate([np.zeros(rows, np.int64)], np.arange(1), attention, x.device, None)
        qkv, inner = x.new_zeros(rows, 3 * self.width), x.new_zeros(rows, self._model.config.inner).to(KIND)
        attended = x.to(KIND)
        return [
            partial(self._attend, qkv.clone(), batch, attended.clone(), 1.0),
            partial(Stream.enter(x.clone(), epsilon, 1.0).linear, layer.qkv, qkv),
            partial(Stream.enter(x.clone(), epsilon, 1.0).linear_gelu, layer.up, inner, 1.0),
            partial(Stream.enter(x.clone(), epsilon, 1.0).add, attended, layer.out, epsilon, 1.0),
            partial(Stream.enter(x.clone(), epsilon, 1.0).add, inner.clone(), layer.down, epsilon, 1.0),
        ]

    @torch.inference_mode()
    def _look(self, model: Esm2, attention: TritonAttention) -> None:
        """See what goes into each product, where that is LayerNorm's without its weights, and round the weights."""
        ids = _made_up(self.vocabulary)
        batch = collate(ids, np.arange(len(ids)), attention, self._last_shift.device, None)
        seen: list[_Seen] = []

        def note(inputs: torch.Tensor) -> None:
            done = self._in_half + len(self._eight)
            number, place = divmod(4 * done + len(seen), 4)
            values, top = inputs.float(), 0.0
            if place % 2 == 0:
                layer = self._layers[number]
                values = values + (layer.shift_inner if place else layer.shift_attention)
                top = float((values - values.mean(dim=1, keepdim=True)).abs().max())
                values = layer_norm(values, values.shape[-1:], eps=self._model.config.epsilon)
            mean = values.mean(dim=0)
            values = values - mean
            seen.append(_Seen(mean, max(top, 1e-6) * _STREAM_ROOM / LARGEST, values.T @ values / len(values)))
            if place == 3 and (number + 1 - done == _TOGETHER or number + 1 == len(self._layers)):
                self._eight += _rounded(seen, self._layers[done : number + 1], model.layers[done : number + 1])
                seen.clear()

        x = self._embed(batch)
        self._run(self._layers[: self._in_half], x, batch)
        self._run(self._layers[self._in_half :], x, batch, note)

    def _layer_by_layer(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        if int(batch.borders.lengths.min()) < self.apart_below:
            return super()._layer_by_layer(x, batch)
        if self._in_half:
            self._run(self._layers[: self._in_half], x, batch)
            x += self._layers[self._in_half].shift_attention
        epsilon = self._model.config.epsilon
        rows, width = x.shape
        stream = Stream.enter(x, epsilon, self._eight[0].stream_attention)
        qkv = x.new_empty(rows, 3 * width)
        attended = torch.empty_like(stream.eight)
        inner = x.new_empty(rows, self._model.config.inner, dtype=KIND)
        for place, layer in enumerate(self._eight):
            after = self._eight[min(place + 1, len(self._eight) - 1)]
            stream.linear(layer.qkv, qkv)
            self._attend(qkv, batch, attended, 1 / layer.attended)
            stream.add(attended, layer.out, epsilon, layer.stream_inner)
            stream.linear_gelu(layer.up, inner, 1 / layer.inner)
            stream.add(inner, layer.down, epsilon, after.stream_attention)
        return torch.zeros_like(self._last_shift)


def _made_up(vocabulary: int) -> list[NDArray[np.int64]]:
    """Token ids of proteins of several lengths, with the composition of random codons, always the same."""
    rng = np.random.default_rng(0)
    share = np.array(_CODONS) / sum(_CODONS)
    residues = np.minimum(np.arange(_FIRST_RESIDUE, _FIRST_RESIDUE + len(_CODONS)), vocabulary - 1)
    return [
        np.concatenate(([_BOS], rng.choice(residues, length - 2, p=share), [_EOS]))
        for length in np.repeat(_MADE_UP, _OF_EACH).tolist()
    ]
