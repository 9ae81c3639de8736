"""Finds stop codons on both strands of a block of chunks at once.

One byte a base position says, in bits, whether a stop starts there: bit ``p % 3`` for the forward strand and
bit ``3 + p % 3`` for the reverse strand, where ``p`` is the position of the codon's leftmost base. Or-ing these bytes
over a chunk tells at once which of its six frames hold a stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vnp.sequences.chunks import Chunks

# Large enough to spread numpy's fixed costs, small enough for a dozen such arrays to stay in a core's cache.
BLOCK_BASES = 1 << 17

Bytes = UInt8[np.ndarray, "n"]


@dataclass(frozen=True, slots=True)
class Block:
    """A run of chunks and the bases they lie on.

    Attributes:
        first: index of the first chunk in the whole table.
        bases: the bases that the chunks cover, ASCII.
        start: first base of each chunk within ``bases``.
        end: one past the last base of each chunk.
        shift: what to add to such a position to get the position in the sequence.
    """

    first: int
    bases: bytes
    start: Int64[np.ndarray, "chunks"]
    end: Int64[np.ndarray, "chunks"]
    shift: Int64[np.ndarray, "chunks"]


def blocks(sequences: Sequence[bytes], chunks: Chunks) -> Iterator[Block]:
    """Go through a table of chunks in runs of about ``BLOCK_BASES`` bases."""
    covered = np.cumsum(chunks.end - chunks.start)
    first = 0
    while first < len(chunks):
        done = int(covered[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(covered, done + BLOCK_BASES, side="right")))
        yield _block(sequences, chunks.slice(first, last), first)
        first = last


def _block(sequences: Sequence[bytes], part: Chunks, first: int) -> Block:
    changes = np.flatnonzero(part.sequence[1:] != part.sequence[:-1]) + 1
    heads = np.concatenate(([0], changes))
    tails = np.concatenate((changes, [len(part)])) - 1
    lows, highs = part.start[heads], part.end[tails]
    pieces = [
        sequences[index][low:high]
        for index, low, high in zip(part.sequence[heads].tolist(), lows.tolist(), highs.tolist(), strict=True)
    ]
    sizes = highs - lows
    shift = np.repeat(lows - (np.cumsum(sizes) - sizes), tails - heads + 1)
    return Block(first, b"".join(pieces), part.start - shift, part.end - shift, shift)


def _frame_table() -> UInt8[np.ndarray, "64 9"]:
    """Turn bits by position into bits by frame, for each start % 3 and end % 3 of a chunk."""
    table = np.zeros((64, 9), dtype=np.uint8)
    for bits, start, end in product(range(64), range(3), range(3)):
        for k in range(3):
            forward = bits >> (start + k) % 3 & 1
            reverse = bits >> (3 + (end - k) % 3) & 1
            table[bits, 3 * start + end] |= forward << k | reverse << (3 + k)
    return table


_BY_FRAME = _frame_table()
# Frames with at least one codon in a chunk of 0, 1, 2, 3, 4, 5 or more bases.
_WITH_CODONS = np.array([0, 0, 0, 0b001001, 0b011011, 0b111111], dtype=np.uint8)
_PATTERN = np.tile(np.array([1, 2, 4], dtype=np.uint8), (3 * BLOCK_BASES) // 3)


def _pattern(length: int) -> Bytes:
    return _PATTERN[:length] if length <= len(_PATTERN) else np.resize(_PATTERN[:3], length)


@dataclass(frozen=True, slots=True)
class Open:
    """Which frames of each chunk are open; bits 0 to 5 are F1 F2 F3 R1 R2 R3.

    Attributes:
        rows: frames without a stop and with at least one known residue.
        unknown: frames without a stop whose every codon holds an ambiguous base.
        ambiguous: positions whose codon holds an ambiguous base, or None where no base is ambiguous.
    """

    rows: UInt8[np.ndarray, "chunks"]
    unknown: UInt8[np.ndarray, "chunks"]
    ambiguous: Bool[np.ndarray, "positions"] | None


def open_in(block: Block) -> Open:
    """Find the open frames of every chunk of a block."""
    bases = np.frombuffer(block.bases, dtype=np.uint8)
    lengths = block.end - block.start
    possible = _WITH_CODONS[np.minimum(lengths, 5)]
    if len(bases) < 3:
        return Open(possible, np.zeros_like(possible), None)
    a, c, g, t = bases == 65, bases == 67, bases == 71, bases == 84
    positions = len(bases) - 2
    pattern = _pattern(positions)
    bits = np.zeros(positions + 1, dtype=np.uint8)
    # TAA, TAG, TGA; and TTA, CTA, TCA, which read TAA, TAG, TGA on the other strand.
    a1, a2 = a[1:-1], a[2:]
    forward = a1 & (a2 | g[2:])
    forward |= g[1:-1] & a2
    forward &= t[:-2]
    reverse = t[1:-1] & (t[:-2] | c[:-2])
    reverse |= c[1:-1] & t[:-2]
    reverse &= a2
    _spread(forward, reverse, pattern, bits)
    place = 3 * (block.start % 3) + block.end % 3
    stops = _any_by_frame(bits, block, place)
    opened = ~stops & possible
    known = a | t
    known |= c
    known |= g
    if known.all():
        return Open(opened, np.zeros_like(opened), None)
    clean = known[:-2] & known[1:-1]
    clean &= known[2:]
    _spread(clean, clean, pattern, bits)
    readable = _any_by_frame(bits, block, place)
    return Open(opened & readable, opened & ~readable, ~clean)


def _spread(
    forward: Bool[np.ndarray, "positions"], reverse: Bool[np.ndarray, "positions"], pattern: Bytes, bits: Bytes
) -> None:
    """Write each position's two truths into the bits that stand for its phase."""
    # 0 or 255, so that an and with the pattern keeps all of it or nothing.
    ahead, back = forward.view(np.uint8), reverse.view(np.uint8)
    inside = bits[:-1]
    np.left_shift(back, 3, out=inside)
    inside |= ahead
    inside *= pattern


def _any_by_frame(bits: Bytes, block: Block, place: Int64[np.ndarray, "chunks"]) -> UInt8[np.ndarray, "chunks"]:
    edges = np.empty(2 * len(block.start), dtype=np.int64)
    np.minimum(block.start, len(bits) - 1, out=edges[0::2])
    np.maximum(block.end - 2, edges[0::2], out=edges[1::2])
    found = np.bitwise_or.reduceat(bits, edges)[0::2]
    # Where a chunk is shorter than a codon the reduction has read one stray byte; no frame is possible there anyway.
    by_frame: Bytes = _BY_FRAME[found, place]
    return by_frame
