"""Finds stop codons on both strands of a block of chunks at once.

One byte a position says, in bits, whether a stop starts there: bit ``p % 3`` for the forward strand and
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
BLOCK_BASES = 1 << 18

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


# A base's code is bits 1 and 2 of its ASCII letter: A 0, C 1, T 2, G 3; its complement's is that xor 2. A codon's code
# is 16 x first + 4 x second + third, read on the forward strand.
AMBIGUOUS = 64
CODED = "ACTG"


def base_codes(bases: Bytes) -> Bytes:
    """Code each base by two bits; a letter other than A, C, G and T gets some code too."""
    code: Bytes = bases >> 1
    code &= 3
    return code


def known_bases(bases: Bytes, code: Bytes) -> Bool[np.ndarray, "n"]:
    """Tell A, C, G and T from ambiguous letters."""
    # A, C and G are 0x41 plus twice their code, T is 0x54; no other nucleotide letter is either.
    known: Bool[np.ndarray, "n"] = code * np.uint8(2) + np.uint8(0x41) == bases
    known |= bases == ord("T")
    return known


def other_strand(codon: str) -> str:
    """Read a codon of known bases on the other strand."""
    return "".join("TGAC"["ACTG".index(base)] for base in reversed(codon))


def _stop_table() -> bytes:
    """Bit 0 where a codon's code is a stop on the forward strand, bit 3 where it is one on the reverse strand."""
    stops = ("TAA", "TAG", "TGA")
    codons = ["".join(codon) for codon in product(CODED, repeat=3)]
    return bytes((codon in stops) | (other_strand(codon) in stops) << 3 for codon in codons) + bytes(192)


def _frame_table() -> UInt8[np.ndarray, "64 9"]:
    """Turn bits by position into bits by frame, for each start % 3 and end % 3 of a chunk."""
    table = np.zeros((64, 9), dtype=np.uint8)
    for bits, start, end in product(range(64), range(3), range(3)):
        for k in range(3):
            forward = bits >> (start + k) % 3 & 1
            reverse = bits >> (3 + (end - k) % 3) & 1
            table[bits, 3 * start + end] |= forward << k | reverse << (3 + k)
    return table


_STOPS = _stop_table()
_BY_FRAME = _frame_table()
# Frames with at least one codon in a chunk of 0, 1, 2, 3, 4, 5 or more bases.
_WITH_CODONS = np.array([0, 0, 0, 0b001001, 0b011011, 0b111111], dtype=np.uint8)
_PATTERN = np.tile(np.array([1, 2, 4], dtype=np.uint8), BLOCK_BASES)


def _pattern(length: int) -> Bytes:
    return _PATTERN[:length] if length <= len(_PATTERN) else np.resize(_PATTERN[:3], length)


@dataclass(frozen=True, slots=True)
class Open:
    """Which frames of each chunk are open; bits 0 to 5 are F1 F2 F3 R1 R2 R3.

    Attributes:
        rows: frames without a stop and with at least one known residue.
        unknown: frames without a stop whose every codon holds an ambiguous base.
        known: whether every base is A, C, G or T.
    """

    rows: UInt8[np.ndarray, "chunks"]
    unknown: UInt8[np.ndarray, "chunks"]
    known: bool


def open_in(block: Block) -> Open:
    """Find the open frames of every chunk of a block."""
    possible = _WITH_CODONS[np.minimum(block.end - block.start, 5)]
    if len(block.bases) < 3:
        return Open(possible, np.zeros_like(possible), known=True)
    place = 3 * (block.start % 3) + block.end % 3
    bases = np.frombuffer(block.bases, dtype=np.uint8)
    code = base_codes(bases)
    codons = code[:-2] * np.uint8(4)
    codons += code[1:-1]
    codons *= 4
    codons += code[2:]
    known = known_bases(bases, code)
    all_known = bool(known.all())
    if not all_known:
        clean = known[:-2] & known[1:-1]
        clean &= known[2:]
        codons |= ~clean * np.uint8(AMBIGUOUS)
    pattern = _pattern(len(codons))
    stops = np.frombuffer(codons.tobytes().translate(_STOPS), dtype=np.uint8)
    opened = ~_any_by_frame(stops * pattern, block, place) & possible
    if all_known:
        return Open(opened, np.zeros_like(opened), known=True)
    readable = _any_by_frame(clean * np.uint8(0b001001) * pattern, block, place)
    return Open(opened & readable, opened & ~readable, known=False)


def _any_by_frame(bits: Bytes, block: Block, place: Int64[np.ndarray, "chunks"]) -> UInt8[np.ndarray, "chunks"]:
    """Or the bits of each chunk's codons together and sort them by frame."""
    edges = np.empty(2 * len(block.start), dtype=np.int64)
    # A chunk without a codon may lie at the very end; whatever byte it reads, no frame of it is possible.
    last = len(bits) - 1
    np.minimum(block.start, last, out=edges[0::2])
    np.minimum(np.maximum(block.end - 2, edges[0::2]), last, out=edges[1::2])
    found = np.bitwise_or.reduceat(bits, edges)[0::2]
    # The reduction leaves out its right edge, which at the end of the block is the last codon.
    found |= np.where(block.end - 2 > last, bits[last], np.uint8(0))
    by_frame: Bytes = _BY_FRAME[found, place]
    return by_frame
