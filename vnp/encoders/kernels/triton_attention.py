"""Packed attention with ALiBi or rotary positions as one Triton kernel; FlashAttention's own offers neither.

One program handles a tile of queries of one sequence and one head, and walks over that sequence's keys with
the running maximum and sum of FlashAttention (Dao et al., NeurIPS 2022). No program sees another sequence, so
the result does not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import triton
import triton.language as tl

from vnp.encoders.kernels.triton_steps import turn_in_place
from vnp.encoders.packing import AttentionShape, Batch, Borders, Layout, to_device
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from jaxtyping import Int64

Pair = tuple[torch.Tensor, torch.Tensor]

_LOG2_E = 1 / math.log(2)
_TURN_INSIDE = 384  # longest sequence whose keys are turned again for each tile of queries, rather than in memory


@triton.jit  # type: ignore[untyped-decorator]
def turned_rows(  # type: ignore[no-untyped-def]
    source, rows, begin, end, row, cos, sin, HEAD: tl.constexpr,
):  # fmt: skip
    """Load both halves of a head's rows and turn each pair by its position's angle."""
    half: tl.constexpr = HEAD // 2
    columns = tl.arange(0, half)[None, :]
    inside = (rows < end)[:, None]
    places = source + rows.to(tl.int64)[:, None] * row + columns
    low = tl.load(places, mask=inside, other=0.0)
    high = tl.load(places + half, mask=inside, other=0.0)
    angle = (rows - begin)[:, None] * half + columns
    c = tl.load(cos + angle, mask=inside, other=0.0)
    s = tl.load(sin + angle, mask=inside, other=0.0)
    a, b = low.to(tl.float32), high.to(tl.float32)
    return (a * c - b * s).to(low.dtype), (b * c + a * s).to(low.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    q, k, v, out, norms, slopes, cos, sin, tiles, q_row, q_head, k_row, k_head, v_row, v_head, out_row, out_head, scale,
    factor, HEADS: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    ALIBI: tl.constexpr, ROTARY: tl.constexpr, NORMS: tl.constexpr,
):  # fmt: skip
    # Heads of one tile run side by side: their rows lie next to each other in memory.
    tile = tl.program_id(0) // HEADS
    head = (tl.program_id(0) % HEADS).to(tl.int64)
    first = tl.load(tiles + 3 * tile)
    begin = tl.load(tiles + 3 * tile + 1)
    end = tl.load(tiles + 3 * tile + 2)
    rows = first + tl.arange(0, QUERIES)
    columns = tl.arange(0, WIDTH)
    inside = (rows < end)[:, None] & (columns < HEAD)[None, :]
    places = rows.to(tl.int64)[:, None]
    if ROTARY:
        low, high = turned_rows(q + head * q_head, rows, begin, end, q_row, cos, sin, HEAD)
    else:
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
        value = tl.load(v + head * v_head + sources * v_row + columns[None, :], mask=real, other=0.0)
        # Scores are in units of log 2, because the hardware's exponential is that of 2.
        if ROTARY:
            key_low, key_high = turned_rows(k + head * k_head, keys, begin, end, k_row, cos, sin, HEAD)
            scores = tl.dot(low, tl.trans(key_low), input_precision="ieee")
            scores = tl.dot(high, tl.trans(key_high), scores, input_precision="ieee") * scale
        else:
            key = tl.load(k + head * k_head + sources * k_row + columns[None, :], mask=real, other=0.0)
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
    result = sums * (factor / total)[:, None]
    if NORMS:
        # What a backward pass makes the weights from again, once the scores are.
        tl.store(norms + places * HEADS + head, (top + tl.log2(total))[:, None], mask=(rows < end)[:, None])
    tl.store(
        out + head * out_head + places * out_row + columns[None, :],
        result.to(out.dtype.element_ty),
        mask=inside,
    )


@dataclass(frozen=True)
class Tiling:
    """How the work is cut, as measured on an H100."""

    queries: int  # queries of one program
    keys: int  # keys that it takes at a time
    warps: int  # that share the program
    stages: int  # loads in flight


@dataclass(frozen=True, eq=False)
class Tiles:
    """A batch's tiles: what its layers call."""

    kernel: TritonAttention  # whose they are
    table: torch.Tensor  # first query, first row and end of the sequence for each tile of queries, shape (tiles, 3)
    tiling: Tiling  # how they were cut
    longest: int  # tokens of the longest sequence

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend; (rows, heads, head) each."""
        return self.kernel.run(q, k, v, self, None)

    def turned(
        self, qkv: torch.Tensor, positions: torch.Tensor, rotary: Pair, out: torch.Tensor | None = None,
        factor: float = 1.0,
    ) -> torch.Tensor:  # fmt: skip
        """Turn queries and keys by their positions' angles, and attend: (rows, heads, head).

        ``qkv``, (rows, 3, heads, head), may be overwritten; ``rotary`` are cosines and sines, (positions, head / 2).
        The result times ``factor`` is written to ``out``, where one is given.
        """
        q, k, v = qkv.unbind(1)
        if self.longest <= _TURN_INSIDE:
            return self.kernel.run(q, k, v, self, rotary, out, factor)
        turn_in_place(qkv, positions, rotary)
        return self.kernel.run(q, k, v, self, None, out, factor)


def tile_table(borders: Borders, size: int) -> torch.Tensor:
    """First row of each tile of so many rows, and first row and end of its sequence: (tiles, 3), on the device."""
    counts = -(-borders.lengths // size)
    owners = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = borders.starts[owners]
    table = np.stack((begins + place * size, begins, borders.starts[owners + 1]), axis=1)
    return to_device(table.astype(np.int32), borders.device)


class TritonAttention:
    """Packed rows, any head width, with or without ALiBi, all precisions.

    Args:
        shape: the model.
        rotary: its batches will be given to ``Tiles.turned``.
    """

    name = "triton"
    layout: Layout = "packed"

    def __init__(self, shape: AttentionShape, *, rotary: bool = False) -> None:
        self._shape = shape
        self._rotary = rotary
        self._scale = shape.head**-0.5 * _LOG2_E
        slopes = [slope * _LOG2_E for slope in shape.slopes or (0.0,)]
        self._slopes = torch.tensor(slopes, dtype=torch.float32, device=shape.device)

    def prepare(self, borders: Borders) -> Tiles:
        """List the tiles of a batch."""
        tiling = self._tiling(borders.lengths)
        return Tiles(self, tile_table(borders, tiling.queries), tiling, borders.longest)

    def _tiling(self, lengths: Int64[np.ndarray, " n"]) -> Tiling:
        longest = int(lengths.max())
        if self._shape.dtype == torch.float32 or self._shape.head > 128:
            # float32 has no tensor cores here and twice the bytes; smaller tiles keep it in registers.
            return Tiling(32, 32, 4, 2)
        if self._rotary and longest <= _TURN_INSIDE:
            # Large tiles are faster unless much of them is empty, as with 168 tokens.
            small, large = (int((-(-lengths // size) * size).sum()) for size in (64, 128))
            return Tiling(64, 64, 4, 1) if longest <= 64 or small < 0.8 * large else Tiling(128, 64, 8, 1)
        if longest <= 64 or self._shape.head > 64:
            return Tiling(64, 64, 4, 3 if self._shape.head <= 64 else 2)
        return Tiling(128, 64, 8, 3)

    def run(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: Tiles, rotary: Pair | None,
        out: torch.Tensor | None = None, factor: float = 1.0, norms: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Attend within tiles, turning queries and keys on the way where ``rotary`` is given.

        The result times ``factor`` is written to ``out``, where one is given; ``norms``, float32 (rows, heads), is
        filled with log2 of what each query's weights were divided by.
        """
        q, k, v = (each if each.stride(-1) == 1 else each.contiguous() for each in (q, k, v))
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
        strides = [stride for each in (q, k, v, out) for stride in each.stride()[:2]]
        _attend[(self._shape.heads * len(tiles.table),)](
            q,
            k,
            v,
            out,
            self._slopes if norms is None else norms,
            self._slopes,
            *(rotary or (self._slopes, self._slopes)),
            tiles.table,
            *strides,
            self._scale,
            factor,
            HEADS=self._shape.heads,
            HEAD=self._shape.head,
            WIDTH=max(16, 1 << (self._shape.head - 1).bit_length()),
            QUERIES=tiles.tiling.queries,
            KEYS=tiles.tiling.keys,
            ALIBI=self._shape.slopes is not None,
            ROTARY=rotary is not None,
            NORMS=norms is not None,
            num_warps=tiles.tiling.warps,
            num_stages=tiles.tiling.stages,
        )
        return out


def tiles_of(batch: Batch) -> Tiles:
    """Give the tiles of a batch that was prepared for this attention."""
    if not isinstance(batch.attend, Tiles):
        raise EncoderError("fused layers attend with their own kernel, and this batch was prepared for another")
    return batch.attend
