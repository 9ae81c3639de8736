"""Packed attention with rotary positions that gradients go through, as Triton kernels; nothing is turned in memory.

Forward is the engine's kernel. Backward (as in FlashAttention: Dao, ICLR 2024) makes the weights from the scores again,
and turns what comes in to queries and keys back before it is stored. A sequence of one tile is done by one program;
of a longer one, queries come first, then keys. Every sum is made by one program in one order, so the bytes are the same
every time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vnp.encoders.kernels.triton_attention import Tiles, TritonAttention, tile_table, turned_rows
from vnp.encoders.packing import AttentionShape, Borders

Pair = tuple[Tensor, Tensor]

_WHOLE = 128  # longest sequence that is one tile
_TILE = 64


@triton.jit  # type: ignore[untyped-decorator]
def _store_back(  # type: ignore[no-untyped-def]
    target, low, high, rows, begin, end, row, cos, sin, factor, HEAD: tl.constexpr,
):  # fmt: skip
    """Turn gradients of turned rows back, and store both halves times a factor."""
    half: tl.constexpr = HEAD // 2
    columns = tl.arange(0, half)[None, :]
    inside = (rows < end)[:, None]
    angle = (rows - begin)[:, None] * half + columns
    c = tl.load(cos + angle, mask=inside, other=0.0) * factor
    s = tl.load(sin + angle, mask=inside, other=0.0) * factor
    places = target + rows.to(tl.int64)[:, None] * row + columns
    tl.store(places, (low * c + high * s).to(target.dtype.element_ty), mask=inside)
    tl.store(places + half, (high * c - low * s).to(target.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _weights(  # type: ignore[no-untyped-def]
    q_low, q_high, k_low, k_high, norms, queries, keys, end, head, scale, HEADS: tl.constexpr,
):  # fmt: skip
    """Attention's weights of some queries (down) and keys (across) again; nothing beyond the sequence."""
    norm = tl.load(norms + queries * HEADS + head, mask=queries < end, other=0.0)
    scores = tl.dot(q_low, tl.trans(k_low), input_precision="ieee")
    scores = tl.dot(q_high, tl.trans(k_high), scores, input_precision="ieee") * scale
    real = (queries < end)[:, None] & (keys < end)[None, :]
    return tl.where(real, tl.exp2(scores - norm[:, None]), 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _into_queries(  # type: ignore[no-untyped-def]
    qkv, out, found, norms, shares, into, cos, sin, tiles, scale, factor,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    width: tl.constexpr = HEADS * HEAD
    tile = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    begin = tl.load(tiles + 3 * tile + 1)
    end = tl.load(tiles + 3 * tile + 2)
    queries = tl.load(tiles + 3 * tile) + tl.arange(0, TILE)
    columns = tl.arange(0, HEAD)[None, :]
    q, k, v = qkv + head * HEAD, qkv + width + head * HEAD, qkv + 2 * width + head * HEAD
    inside = (queries < end)[:, None]
    places = queries.to(tl.int64)[:, None] * width + head * HEAD + columns
    gradient = tl.load(found + places, mask=inside, other=0.0)
    share = tl.sum(gradient.to(tl.float32) * tl.load(out + places, mask=inside, other=0.0).to(tl.float32), 1)
    tl.store(shares + queries * HEADS + head, share, mask=queries < end)
    q_low, q_high = turned_rows(q, queries, begin, end, 3 * width, cos, sin, HEAD)
    low = tl.zeros([TILE, HEAD // 2], tl.float32)
    high = tl.zeros([TILE, HEAD // 2], tl.float32)
    for start in range(begin, end, TILE):
        keys = start + tl.arange(0, TILE)
        k_low, k_high = turned_rows(k, keys, begin, end, 3 * width, cos, sin, HEAD)
        sources = v + keys.to(tl.int64)[:, None] * (3 * width) + columns
        value = tl.load(sources, mask=(keys < end)[:, None], other=0.0)
        weights = _weights(q_low, q_high, k_low, k_high, norms, queries, keys, end, head, scale, HEADS)
        change = weights * (tl.dot(gradient, tl.trans(value), input_precision="ieee") - share[:, None])
        change = change.to(gradient.dtype)
        low = tl.dot(change, k_low, low, input_precision="ieee")
        high = tl.dot(change, k_high, high, input_precision="ieee")
    _store_back(into + head * HEAD, low, high, queries, begin, end, 3 * width, cos, sin, factor, HEAD)


@triton.jit  # type: ignore[untyped-decorator]
def _into_keys(  # type: ignore[no-untyped-def]
    qkv, found, norms, shares, into, cos, sin, tiles, scale, factor,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    width: tl.constexpr = HEADS * HEAD
    tile = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    begin = tl.load(tiles + 3 * tile + 1)
    end = tl.load(tiles + 3 * tile + 2)
    keys = tl.load(tiles + 3 * tile) + tl.arange(0, TILE)
    columns = tl.arange(0, HEAD)[None, :]
    q, k, v = qkv + head * HEAD, qkv + width + head * HEAD, qkv + 2 * width + head * HEAD
    inside = (keys < end)[:, None]
    rows = keys.to(tl.int64)[:, None] * (3 * width) + columns
    value = tl.load(v + rows, mask=inside, other=0.0)
    k_low, k_high = turned_rows(k, keys, begin, end, 3 * width, cos, sin, HEAD)
    into_values = tl.zeros([TILE, HEAD], tl.float32)
    low = tl.zeros([TILE, HEAD // 2], tl.float32)
    high = tl.zeros([TILE, HEAD // 2], tl.float32)
    for start in range(begin, end, TILE):
        queries = start + tl.arange(0, TILE)
        q_low, q_high = turned_rows(q, queries, begin, end, 3 * width, cos, sin, HEAD)
        places = found + queries.to(tl.int64)[:, None] * width + head * HEAD + columns
        gradient = tl.load(places, mask=(queries < end)[:, None], other=0.0)
        weights = _weights(q_low, q_high, k_low, k_high, norms, queries, keys, end, head, scale, HEADS)
        into_values = tl.dot(tl.trans(weights.to(gradient.dtype)), gradient, into_values, input_precision="ieee")
        change = tl.dot(gradient, tl.trans(value), input_precision="ieee")
        if WHOLE:
            share = tl.sum(weights * change, 1)
        else:
            share = tl.load(shares + queries * HEADS + head, mask=queries < end, other=0.0)
        change = (weights * (change - share[:, None])).to(gradient.dtype)
        low = tl.dot(tl.trans(change), q_low, low, input_precision="ieee")
        high = tl.dot(tl.trans(change), q_high, high, input_precision="ieee")
        if WHOLE:
            other_low = tl.dot(change, k_low, input_precision="ieee")
            other_high = tl.dot(change, k_high, input_precision="ieee")
            target = into + head * HEAD
            _store_back(target, other_low, other_high, queries, begin, end, 3 * width, cos, sin, factor, HEAD)
    _store_back(into + width + head * HEAD, low, high, keys, begin, end, 3 * width, cos, sin, factor, HEAD)
    tl.store(into + 2 * width + head * HEAD + rows, into_values.to(value.dtype), mask=inside)


@dataclass(frozen=True, eq=False)
class TurnedTiles(Tiles):
    """A batch's tiles forward, and those of the backward pass."""

    back: Tensor  # first row, and first row and end of the sequence, for each tile of the backward pass: (tiles, 3)
    size: int  # its rows

    def turned(self, qkv: Tensor, positions: Tensor, rotary: Pair, *_: Any) -> Tensor:  # noqa: ARG002 - tiles know
        """Attend, so that gradients go through; see ``Tiles.turned``. ``qkv`` stays as it is."""
        attended: Tensor = _Turned.apply(qkv, *rotary, self)  # type: ignore[no-untyped-call]
        return attended


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, tiles: TurnedTiles) -> Tensor:
        norms = torch.empty(len(qkv), qkv.shape[2], dtype=torch.float32, device=qkv.device)
        q, k, v = qkv.unbind(1)
        out = tiles.kernel.run(q, k, v, tiles, (cos, sin), norms=norms)
        ctx.save_for_backward(qkv, cos, sin, out, norms)
        ctx.tiles = tiles
        return out

    @staticmethod
    def backward(ctx: Any, *found: Tensor) -> tuple[Tensor | None, ...]:
        qkv, cos, sin, out, norms = ctx.saved_tensors
        tiles: TurnedTiles = ctx.tiles
        gradient, into, shares = found[0].contiguous(), torch.empty_like(qkv), norms
        _, _, heads, head = qkv.shape
        whole = tiles.longest <= _WHOLE
        sizes = {"HEADS": heads, "HEAD": head, "TILE": tiles.size}
        grid = (heads * len(tiles.back),)
        rest = (into, cos, sin, tiles.back, head**-0.5 / math.log(2), head**-0.5)
        if not whole:
            shares = torch.empty_like(norms)
            _into_queries[grid](qkv, out, gradient, norms, shares, *rest, **sizes, num_warps=4, num_stages=2)
        warps = 8 if tiles.size > _TILE else 4
        _into_keys[grid](
            qkv, gradient, norms, shares, *rest, **sizes, WHOLE=whole, num_warps=warps,
            num_stages=1 if whole else 2,
        )  # fmt: skip
        return into, None, None, None


class TurnedAttention(TritonAttention):
    """Packed rows and rotary positions; heads whose width is a power of two from 32 to 128.

    Args:
        shape: the model.
    """

    name = "turned"

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape, rotary=True)

    def prepare(self, borders: Borders) -> TurnedTiles:
        """List the tiles of a batch, forward and backward."""
        ahead = super().prepare(borders)
        size = _WHOLE if _TILE < ahead.longest <= _WHOLE else _TILE
        return TurnedTiles(self, ahead.table, ahead.tiling, ahead.longest, tile_table(borders, size), size)
