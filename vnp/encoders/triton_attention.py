"""Packed attention with ALiBi as one Triton kernel, which FlashAttention's own does not offer.

One program handles a tile of queries of one sequence and one head, and walks over that sequence's keys with
the running maximum and sum of FlashAttention (Dao et al., NeurIPS 2022). No program sees another sequence, so
the result does not depend on what else is in the batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import triton
import triton.language as tl

from vnp.encoders.attention import Attend, AttentionShape
from vnp.encoders.packing import Borders, Layout, to_device

_LOG2_E = 1 / math.log(2)


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    out,
    slopes,
    tiles,
    q_row,
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    out_row,
    out_head,
    scale,
    HEAD: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    QUERIES: tl.constexpr,  # noqa: N803
    KEYS: tl.constexpr,  # noqa: N803
    ALIBI: tl.constexpr,  # noqa: N803
):
    tile = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    first = tl.load(tiles + 3 * tile)
    begin = tl.load(tiles + 3 * tile + 1)
    end = tl.load(tiles + 3 * tile + 2)
    rows = first + tl.arange(0, QUERIES)
    columns = tl.arange(0, WIDTH)
    inside = (rows < end)[:, None] & (columns < HEAD)[None, :]
    places = rows.to(tl.int64)[:, None]
    query = tl.load(q + head * q_head + places * q_row + columns[None, :], mask=inside, other=0.0)
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + head)
    top = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    sums = tl.zeros([QUERIES, WIDTH], tl.float32)
    for start in range(begin, end, KEYS):
        keys = start + tl.arange(0, KEYS)
        real = (keys < end)[:, None] & (columns < HEAD)[None, :]
        sources = keys.to(tl.int64)[:, None]
        key = tl.load(k + head * k_head + sources * k_row + columns[None, :], mask=real, other=0.0)
        value = tl.load(v + head * v_head + sources * v_row + columns[None, :], mask=real, other=0.0)
        # Scores are in units of log 2, because the hardware's exponential is that of 2.
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if ALIBI:
            scores -= slope * tl.abs(rows[:, None] - keys[None, :]).to(tl.float32)
        scores = tl.where((keys < end)[None, :], scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        sums = sums * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        top = higher
    result = sums / total[:, None]
    tl.store(
        out + head * out_head + places * out_row + columns[None, :],
        result.to(out.dtype.element_ty),
        mask=inside,
    )


class TritonAttention:
    """Packed rows, any head width, with or without ALiBi, all precisions."""

    name = "triton"
    layout: Layout = "packed"

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape
        self._scale = shape.head**-0.5 * _LOG2_E
        slopes = [slope * _LOG2_E for slope in shape.slopes or (0.0,)]
        self._slopes = torch.tensor(slopes, dtype=torch.float32, device=shape.device)
        # float32 has no tensor cores here and twice the bytes; smaller tiles keep it in registers.
        self._tile = 32 if shape.dtype == torch.float32 or shape.head > 128 else 64

    def prepare(self, borders: Borders) -> Attend:
        """List the tiles: first query, first row and end of the sequence, for each tile of queries."""
        lengths, starts = borders.lengths, borders.starts
        counts = -(-lengths // self._tile)
        owners = np.repeat(np.arange(len(lengths)), counts)
        place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        begins = starts[owners]
        table = np.stack((begins + place * self._tile, begins, starts[owners + 1]), axis=1)
        tiles = to_device(table.astype(np.int32), borders.device)
        return lambda q, k, v: self._run(q, k, v, tiles)

    def _run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        q, k, v = (each if each.stride(-1) == 1 else each.contiguous() for each in (q, k, v))
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        strides = [stride for each in (q, k, v, out) for stride in each.stride()[:2]]
        _attend[(len(tiles), self._shape.heads)](
            q,
            k,
            v,
            out,
            self._slopes,
            tiles,
            *strides,
            self._scale,
            HEAD=self._shape.head,
            WIDTH=max(16, 1 << (self._shape.head - 1).bit_length()),
            QUERIES=self._tile,
            KEYS=self._tile,
            ALIBI=self._shape.slopes is not None,
        )
        return out
