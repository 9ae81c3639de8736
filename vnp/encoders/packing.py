"""How sequences of different lengths are laid out as the rows of one matrix.

A *packed* batch puts the tokens of its sequences one after the other, with nothing between; where each
sequence begins is known from cumulative lengths. A *padded* batch gives every sequence as many rows as the
longest one has. Everything in a transformer but attention works row by row, so both layouts run through the
same layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64
    from numpy.typing import NDArray

Layout = Literal["packed", "padded"]


@dataclass(frozen=True, eq=False)
class Borders:
    """Where sequences begin and end among the rows of a batch."""

    lengths: NDArray[np.int64]  # tokens of each sequence
    layout: Layout  # ``packed``, or ``padded`` to the longest
    device: torch.device  # where the batch is computed

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max())

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of every sequence, and the number of rows at the end: shape (n + 1,)."""
        steps = self.lengths if self.layout == "packed" else np.full_like(self.lengths, self.longest)
        return np.concatenate(([0], np.cumsum(steps)))

    @property
    def rows(self) -> int:
        """Rows of the whole batch."""
        return int(self.lengths.sum()) if self.layout == "packed" else len(self.lengths) * self.longest


Attend = Callable[
    [
        "Float[torch.Tensor, 'rows heads head']",
        "Float[torch.Tensor, 'rows heads head']",
        "Float[torch.Tensor, 'rows heads head']",
    ],
    "Float[torch.Tensor, 'rows heads head']",
]


@dataclass(frozen=True)
class AttentionShape:
    """What a kernel needs to know about the model."""

    heads: int  # attention heads
    head: int  # numbers in one head
    slopes: tuple[float, ...] | None  # ALiBi's slope of each head, or None
    dtype: torch.dtype  # of queries, keys and values
    device: torch.device  # where they are


class Attention(Protocol):
    """One attention kernel for one model."""

    name: str
    layout: Layout

    def prepare(self, borders: Borders) -> Attend:
        """Compute what a batch needs once, and return the function that its layers call."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch on its device, ready to be run."""

    members: NDArray[np.int64]  # the place of each sequence in the call that the batch is part of
    borders: Borders  # where sequences begin and end
    ids: Int64[torch.Tensor, " rows"]  # token of each row, shape (rows,); 0 where a padded batch has no token
    positions: Int64[torch.Tensor, " rows"]  # place of the row in its sequence, from 0
    owners: Int64[torch.Tensor, " rows"]  # the sequence that the row belongs to, counted within the batch
    lengths: Int64[torch.Tensor, " n"]  # tokens of each sequence, on the device
    kept: Int64[torch.Tensor, " tokens"] | None  # rows that hold a token, or None if all do
    attend: Attend  # attention within these borders
    slab: int | None  # rows that one matrix product takes; None for all at once

    def by_rows(
        self, function: Callable[..., tuple[torch.Tensor, ...]], *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Apply a function that treats every row alone.

        With ``slab`` set, the function always sees exactly that many rows (the last slab is filled up with
        zeros). A matrix product may round differently for another number of rows; with a fixed number, a
        row's result depends on that row alone.
        """
        if self.slab is None:
            return function(*inputs)
        rows = inputs[0].shape[0]
        parts = []
        for start in range(0, rows, self.slab):
            pieces = [each[start : start + self.slab] for each in inputs]
            missing = self.slab - pieces[0].shape[0]
            if missing:
                pieces = [torch.cat([each, each.new_zeros(missing, *each.shape[1:])]) for each in pieces]
            parts.append(function(*pieces))
        if len(parts) == 1:
            return tuple(each[:rows] for each in parts[0])
        return tuple(torch.cat(each)[:rows] for each in zip(*parts, strict=True))

    def tokens_of(self, x: torch.Tensor) -> torch.Tensor:
        """Drop the rows that hold no token: (rows, width) to (tokens, width)."""
        return x if self.kept is None else x[self.kept]


def plan(lengths: NDArray[np.int64], budget: int, layout: Layout) -> NDArray[np.int64]:
    """Rows of a batch of the next 1, 2, ... sequences, longest first, up to the last that fits.

    A first sequence that is longer than the budget goes alone.
    """
    reach = lengths[: max(1, budget)]
    rows = np.cumsum(reach) if layout == "packed" else np.arange(1, len(reach) + 1) * int(lengths[0])
    return rows[: max(1, int(np.searchsorted(rows, budget, side="right")))]


def collate(
    ids: Sequence[NDArray[np.integer]],
    members: NDArray[np.int64],
    attention: Attention,
    device: torch.device,
    slab: int | None,
) -> Batch:
    """Lay out some sequences as one batch and bring it to its device.

    On CUDA the copies are still on their way; later work on the same stream waits for them.
    """
    lengths = np.array([len(ids[i]) for i in members], np.int64)
    borders = Borders(lengths, attention.layout, device)
    starts = borders.starts
    tokens = np.concatenate([ids[i] for i in members]).astype(np.int64, copy=False)
    owners = np.repeat(np.arange(len(members)), lengths)
    positions = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = None
    if attention.layout == "padded" and borders.rows != len(tokens):
        kept = starts[owners] + positions
        tokens, positions = (_spread(each, kept, borders.rows) for each in (tokens, positions))
        owners = np.repeat(np.arange(len(members)), borders.longest)
    return Batch(
        members=members,
        borders=borders,
        ids=to_device(tokens, device),
        positions=to_device(positions, device),
        owners=to_device(owners, device),
        lengths=to_device(lengths, device),
        kept=None if kept is None else to_device(kept, device),
        attend=attention.prepare(borders),
        slab=slab,
    )


def _spread(values: NDArray[np.int64], places: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    out = np.zeros(rows, np.int64)
    out[places] = values
    return out


def to_device(values: NDArray[np.integer], device: torch.device) -> torch.Tensor:
    """Copy an array to a device without waiting for the copy (from pinned memory on CUDA)."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, where Triton launches; nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def segment_means(
    x: Float32[torch.Tensor, "tokens width"], batch: Batch, *, trim: bool
) -> Float32[torch.Tensor, "n width"]:
    """Average each sequence's rows in float32, with ``trim`` without its first and last.

    Every sum runs over one sequence in order, so it does not depend on the others.
    """
    lengths = batch.lengths
    if trim:
        one = torch.ones_like(lengths)
        lengths = torch.stack((one, lengths - 2, one), dim=1).flatten()
    means = torch.segment_reduce(x, "mean", lengths=lengths, axis=0, unsafe=True)
    return means[1::3] if trim else means


def distinct(ids: Sequence[NDArray[np.integer]]) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " n"]]:
    """Where each distinct sequence comes first, in that order, and which of those each sequence is."""
    seen: dict[bytes, int] = {}
    whole = (each if each.dtype == np.int64 else each.astype(np.int64) for each in ids)
    places = np.array([seen.setdefault(each.tobytes(), len(seen)) for each in whole], np.int64)
    return np.unique(places, return_index=True)[1], places
