"""A matrix product with bias and exact GELU in its epilogue, which the vendor's library offers only with tanh.

A persistent kernel: each program takes one tile of the output after another, its operands brought by the bulk copy
engine (TMA) through tensor descriptors. Rows beyond the last read as zero and are not written.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from vnp.encoders.triton_rows import gelu

# Measured on an H100 against 19 other tilings: as fast as the vendor's library without GELU.
_ROWS, _COLUMNS, _DEPTH, _GROUP = 128, 256, 64, 16


@triton.jit  # type: ignore[untyped-decorator]
def _linear_gelu(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    bias,
    rows,
    WIDTH: tl.constexpr,  # noqa: N803
    INNER: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    PROGRAMS: tl.constexpr,  # noqa: N803
    GATED: tl.constexpr,  # noqa: N803
):
    across: tl.constexpr = INNER // COLUMNS
    down = tl.cdiv(rows, ROWS)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        # Tiles of GROUP rows of tiles run side by side, so that both operands are read from the cache.
        group = tile // (GROUP * across)
        high = tl.minimum(down - group * GROUP, GROUP)
        row = (group * GROUP + (tile % (GROUP * across)) % high) * ROWS
        column = (tile % (GROUP * across)) // high * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        if GATED:
            values = tl.zeros((ROWS, COLUMNS), tl.float32)
            for step in range(WIDTH // DEPTH):
                piece = x.load([row, step * DEPTH])
                sums = tl.dot(piece, weight.load([column, step * DEPTH]).T, sums)
                values = tl.dot(piece, weight.load([INNER + column, step * DEPTH]).T, values)
            out.store([row, column], (gelu(sums) * values).to(out.dtype))
        else:
            for step in range(WIDTH // DEPTH):
                sums = tl.dot(x.load([row, step * DEPTH]), weight.load([column, step * DEPTH]).T, sums)
            sums += tl.load(bias + column + tl.arange(0, COLUMNS))[None, :]
            out.store([row, column], gelu(sums).to(out.dtype))


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    """Write GELU(x weight^T + bias), or, without a bias, GELU(x gate^T) * (x value^T).

    Args:
        x: shape (rows, width), half precision, contiguous; width a multiple of 64.
        weight: shape (inner, width), or gate above value in one (2 * inner, width).
        bias: float32 of shape (inner,), or None for the gated form.
        out: shape (rows, inner), inner a multiple of 256.

    Returns:
        ``out``.
    """
    rows, width = x.shape
    inner = out.shape[1]
    columns = _COLUMNS if bias is not None else _COLUMNS // 2
    programs = min(_processors(x.device), -(-rows // _ROWS) * (inner // columns))
    _linear_gelu[(programs,)](
        TensorDescriptor.from_tensor(x, [_ROWS, _DEPTH]),
        TensorDescriptor.from_tensor(weight, [columns, _DEPTH]),
        TensorDescriptor.from_tensor(out, [_ROWS, columns]),
        out if bias is None else bias,
        rows,
        WIDTH=width,
        INNER=inner,
        ROWS=_ROWS,
        COLUMNS=columns,
        DEPTH=_DEPTH,
        GROUP=_GROUP,
        PROGRAMS=_processors(x.device),
        GATED=bias is None,
        num_warps=8,
        num_stages=3,
    )
    return out
