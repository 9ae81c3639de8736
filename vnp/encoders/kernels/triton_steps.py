"""Steps of a layer besides attention as Triton kernels: each reads its input once and writes its output once.

Sums and functions are computed in float32; what is stored has the precision of the tensor it is stored in. The matrix
product has bias and exact GELU in its epilogue, which the vendor's library offers only with tanh. It is a persistent
kernel: each program takes one tile of the output after another, its operands brought by the bulk copy engine (TMA)
through tensor descriptors. Rows beyond the last read as zero and are not written.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from vnp.encoders.models.trunk import Pair

_BLOCK = 2048
# Measured on an H100 against 19 other tilings: as fast as the vendor's library without GELU.
_TILE_ROWS, _TILE_COLUMNS, _TILE_DEPTH, _TILE_GROUP = 128, 256, 64, 16
# Bytes of shared memory for a program of this kernel or of the 8-bit ones; Hopper has 227 KiB, smaller cards 99.
SHARED_MEMORY = 226 * 1024


@triton.jit
def gelu(x):  # type: ignore[no-untyped-def]
    """Compute x * Phi(x) of float32 numbers, to within float32's rounding (3e-7).

    log2 of Phi(-a) is close to a parabola, so a polynomial of degree 7 and one exponential do. The polynomial is
    the minimax fit to the exact function on 0..7, each error weighted by what it does to the product; beyond 7
    the tail is below 1e-11.
    """
    size = tl.abs(x)
    a = tl.minimum(size, 7.0)
    power = 5.8016350521938875e-05 - 1.6394666317864903e-06 * a
    power = power * a - 9.067386854439974e-04
    power = power * a + 8.439836092293262e-03
    power = power * a - 5.388779938220978e-02
    power = power * a - 4.5845815539360046e-01
    power = power * a - 1.1512924432754517
    power = power * a - 9.999847412109375e-01
    return tl.maximum(x, 0.0) - size * tl.exp2(power)


@triton.jit  # type: ignore[untyped-decorator]
def layer_norm_of_row(  # type: ignore[no-untyped-def]
    x, shift, weight, bias, epsilon, row, columns, WIDTH: tl.constexpr,
):  # fmt: skip
    """Compute LayerNorm of one row of ``x + shift`` in float32; what is beyond the width reads as zero."""
    real = columns < WIDTH
    values = tl.load(x + row * WIDTH + columns, mask=real, other=0.0).to(tl.float32)
    values += tl.load(shift + columns, mask=real, other=0.0)
    mean = tl.sum(values, 0) / WIDTH
    centred = tl.where(real, values - mean, 0.0)
    spread = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + epsilon)
    scale = tl.load(weight + columns, mask=real, other=0.0)
    offset = tl.load(bias + columns, mask=real, other=0.0)
    return centred * spread * scale + offset


@triton.jit  # type: ignore[untyped-decorator]
def _normalise(  # type: ignore[no-untyped-def]
    x, shift, weight, bias, out, epsilon, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    result = layer_norm_of_row(x, shift, weight, bias, epsilon, row, columns, WIDTH)
    tl.store(out + row * WIDTH + columns, result.to(out.dtype.element_ty), mask=columns < WIDTH)


@triton.jit  # type: ignore[untyped-decorator]
def _gelu_in_place(x, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = places < count
    values = tl.load(x + places, mask=real, other=0.0)
    tl.store(x + places, gelu(values.to(tl.float32)).to(values.dtype), mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _gate(both, out, INNER: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    blocks: tl.constexpr = (INNER + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    real = columns < INNER
    gate = tl.load(both + row * 2 * INNER + columns, mask=real, other=0.0).to(tl.float32)
    value = tl.load(both + row * 2 * INNER + INNER + columns, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * INNER + columns, (gelu(gate) * value).to(out.dtype.element_ty), mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _turn_in_place(  # type: ignore[no-untyped-def]
    qkv, positions, cos, sin, HEADS: tl.constexpr, PADDED: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = HEAD // 2
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row)
    columns = tl.arange(0, half)
    c = tl.load(cos + position * half + columns)[None, :]
    s = tl.load(sin + position * half + columns)[None, :]
    heads = tl.arange(0, PADDED)[:, None]
    real = (heads < 2 * HEADS) & (columns < half)[None, :]
    places = qkv + row * (3 * HEADS * HEAD) + heads * HEAD + columns[None, :]
    low = tl.load(places, mask=real, other=0.0)
    high = tl.load(places + half, mask=real, other=0.0)
    a, b = low.to(tl.float32), high.to(tl.float32)
    tl.store(places, (a * c - b * s).to(low.dtype), mask=real)
    tl.store(places + half, (b * c + a * s).to(low.dtype), mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _embed_scaled(  # type: ignore[no-untyped-def]
    words, ids, scale, out, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, PADDED)
    real = columns < WIDTH
    values = tl.load(words + tl.load(ids + row) * WIDTH + columns, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + columns, (values * tl.load(scale + row)).to(out.dtype.element_ty), mask=real)


def embed_scaled(ids: torch.Tensor, words: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Each row's word vector times the row's number: (rows, width), from ids and scales (rows,)."""
    width = words.shape[1]
    out = words.new_empty(len(ids), width)
    _embed_scaled[(len(ids),)](ids=ids, words=words, scale=scale, out=out, WIDTH=width, PADDED=padded(width))
    return out


def padded(width: int) -> int:
    """Give the power of two that a row of this width is worked on as."""
    return 1 << (width - 1).bit_length()


def warps(size: int) -> int:
    """Give the warps that normalise a row of this padded size fastest, as measured on an H100."""
    return max(1, size // 1024)


def normalise(x: torch.Tensor, shift: torch.Tensor, norm: Pair, epsilon: float, out: torch.Tensor) -> torch.Tensor:
    """Write LayerNorm of ``x + shift``.

    Args:
        x: shape (rows, width), contiguous.
        shift: float32 of shape (width,), added to every row.
        norm: weight and bias, float32 of shape (width,).
        epsilon: added to the variance.
        out: shape (rows, width); may be ``x``.

    Returns:
        ``out``.
    """
    rows, width = x.shape
    size = padded(width)
    _normalise[(rows,)](x, shift, *norm, out, epsilon, WIDTH=width, PADDED=size, num_warps=warps(size))
    return out


def gelu_in_place(x: torch.Tensor) -> torch.Tensor:
    """Replace each number of a contiguous tensor by its exact GELU."""
    _gelu_in_place[(-(-x.numel() // _BLOCK),)](x, x.numel(), BLOCK=_BLOCK)
    return x


def gate(both: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write GELU of the first half of each row times the second half: (rows, 2 * inner) to (rows, inner)."""
    rows, inner = out.shape
    block = min(_BLOCK, padded(inner))
    _gate[(rows * -(-inner // block),)](both, out, INNER=inner, BLOCK=block)
    return out


def turn_in_place(qkv: torch.Tensor, positions: torch.Tensor, rotary: Pair) -> None:
    """Turn each pair (i, i + d/2) of queries and keys by its angle (Su et al., RoFormer, 2021).

    ``qkv`` has shape (rows, 3, heads, head), the head's width a power of two; ``rotary`` are cosines and sines of all
    positions, float32 of shape (positions, head / 2).
    """
    rows, _, heads, head = qkv.shape
    size = padded(2 * heads)
    _turn_in_place[(rows,)](qkv, positions, *rotary, HEADS=heads, PADDED=size, HEAD=head, num_warps=2)


@triton.jit  # type: ignore[untyped-decorator]
def place_of_tile(  # type: ignore[no-untyped-def]
    tile, down, ACROSS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Give a tile's first row and first column.

    Tiles of GROUP rows of tiles run side by side, so that both operands are read from the cache.
    """
    group = tile // (GROUP * ACROSS)
    high = tl.minimum(down - group * GROUP, GROUP)
    row = (group * GROUP + (tile % (GROUP * ACROSS)) % high) * ROWS
    return row, (tile % (GROUP * ACROSS)) // high * COLUMNS


@triton.jit  # type: ignore[untyped-decorator]
def product_of_tile(  # type: ignore[no-untyped-def]
    x, weight, row, column, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Sum up one tile of ``x weight^T`` in float32, shape (ROWS, COLUMNS)."""
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(WIDTH // DEPTH):
        sums = tl.dot(x.load([row, step * DEPTH]), weight.load([column, step * DEPTH]).T, sums)
    return sums


# The number of rows is one of any batch: a kernel made for multiples of 16 would be the same instructions once more.
@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _linear_gelu(  # type: ignore[no-untyped-def]
    x, weight, out, bias, rows, WIDTH: tl.constexpr, INNER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = INNER // COLUMNS
    down = tl.cdiv(rows, ROWS)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        row, column = place_of_tile(tile, down, across, ROWS, COLUMNS, GROUP)
        sums = product_of_tile(x, weight, row, column, WIDTH, ROWS, COLUMNS, DEPTH)
        if GATED:
            # A gate and its value are neighbours, which one thread holds: splitting moves nothing.
            gates, values = tl.split(tl.reshape(sums, (ROWS, COLUMNS // 2, 2)))
            out.store([row, column // 2], (gelu(gates) * values).to(out.dtype))
        else:
            sums += tl.load(bias + column + tl.arange(0, COLUMNS))[None, :]
            out.store([row, column], gelu(sums).to(out.dtype))


@cache
def processors(device: torch.device) -> int:
    """Count the multiprocessors of a GPU: programs of a persistent kernel."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def interleave(gated: torch.Tensor) -> torch.Tensor:
    """Bring each gate's row next to its value's: (2 * inner, width), gates above values, to the same shape."""
    return torch.stack(gated.chunk(2), dim=1).flatten(0, 1).contiguous()


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    """Write GELU(x weight^T + bias), or, without a bias, GELU(x gate^T) * (x value^T).

    Args:
        x: shape (rows, width), half precision, contiguous; width a multiple of 64.
        weight: shape (inner, width), inner a multiple of 256; or gates and values from ``interleave``, shape
            (2 * inner, width), inner a multiple of 128.
        bias: float32 of shape (inner,), or None for the gated form.
        out: shape (rows, inner).

    Returns:
        ``out``.
    """
    rows, width = x.shape
    inner = len(weight)
    tiles = -(-rows // _TILE_ROWS) * (inner // _TILE_COLUMNS)
    _linear_gelu[(min(processors(x.device), tiles),)](
        TensorDescriptor.from_tensor(x, [_TILE_ROWS, _TILE_DEPTH]),
        TensorDescriptor.from_tensor(weight, [_TILE_COLUMNS, _TILE_DEPTH]),
        TensorDescriptor.from_tensor(out, [_TILE_ROWS, _TILE_COLUMNS if bias is not None else _TILE_COLUMNS // 2]),
        out if bias is None else bias, rows, WIDTH=width, INNER=inner, ROWS=_TILE_ROWS, COLUMNS=_TILE_COLUMNS,
        DEPTH=_TILE_DEPTH, GROUP=_TILE_GROUP, PROGRAMS=processors(x.device), GATED=bias is None, num_warps=8,
        num_stages=3,
    )  # fmt: skip
    return out
