"""Finds stop codons on both strands of a block of chunks at once.

One byte a position says, in bits, whether a stop starts there: bit ``p % 3`` for the forward strand and
bit ``3 + p % 3`` for the reverse strand, where ``p`` is the position of the codon's leftmost base. Or-ing these bytes
over a chunk tells at once which of its six frames hold a stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vnp.sequences.chunks import Chunks

# Small enough for the arrays of a block to stay in a core's cache, large enough to spread numpy's fixed costs.
BLOCK_BASES = 1 << 16

Bytes = UInt8[np.ndarray, "n"]

# A base's code is bits 1 and 2 of its ASCII letter: A 0, C 1, T 2, G 3; its complement's is that xor 2. A codon's code
# is 16 x first + 4 x second + third, read on the forward strand.
AMBIGUOUS = 64
CODED = "ACTG"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each chunk of a table lies when the chunks' bases are laid out in blocks.

    Attributes:
        first: the first chunk of each block, and the number of chunks at the end.
        start: each chunk's first base in its block.
        end: one past its last base in its block.
        shift: what to add to such a position to get the position in the sequence.
        pieces: sequence, first and last base of the stretches that make up each block.
    """

    first: list[int]
    start: Int64[np.ndarray, "chunks"]
    end: Int64[np.ndarray, "chunks"]
    shift: Int64[np.ndarray, "chunks"]
    pieces: list[list[tuple[int, int, int]]]

    def blocks(self, sequences: Sequence[bytes]) -> Iterator[bytes]:
        """Copy the bases of one block after the other."""
        for pieces in self.pieces:
            yield b"".join([sequences[index][low:high] for index, low, high in pieces])


def lay_out(chunks: Chunks) -> Layout:
    """Lay the chunks of a table out in blocks of about ``BLOCK_BASES`` bases."""
    count = len(chunks)
    if not count:
        return Layout([0], chunks.start, chunks.end, chunks.start, [])
    block = (np.cumsum(chunks.end - chunks.start) - 1) // BLOCK_BASES
    new_block = np.flatnonzero(np.diff(block, prepend=-1))
    # A piece is a run of chunks of one sequence in one block.
    head = np.flatnonzero((np.diff(chunks.sequence, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0))
    tail = np.append(head[1:], count)
    low, high = chunks.start[head], chunks.end[tail - 1]
    before = np.cumsum(high - low) - (high - low)
    first_piece = np.searchsorted(head, new_block)
    pieces_a_block = np.diff(np.append(first_piece, len(head)))
    in_block = before - np.repeat(before[first_piece], pieces_a_block)
    shift = np.repeat(low - in_block, tail - head)
    pieces = list(zip(chunks.sequence[head].tolist(), low.tolist(), high.tolist(), strict=True))
    edges = [*first_piece.tolist(), len(head)]
    return Layout(
        [*new_block.tolist(), count],
        chunks.start - shift,
        chunks.end - shift,
        shift,
        [pieces[a:b] for a, b in pairwise(edges)],
    )


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
    return _PATTERN[:length] if length <= len(_PATTERN) else np.tile(_PATTERN[:3], length // 3 + 1)[:length]


@dataclass(frozen=True, slots=True)
class Open:
    """Which frames of each chunk are open; bits 0 to 5 are F1 F2 F3 R1 R2 R3.

    Attributes:
        rows: frames without a stop and with at least one known residue.
        unknown: frames without a stop whose every codon holds an ambiguous base.
        blocks: the bases of each block, where they were to be kept.
        ambiguous: where in each block the ambiguous bases are.
    """

    rows: UInt8[np.ndarray, "chunks"]
    unknown: UInt8[np.ndarray, "chunks"]
    blocks: list[bytes]
    ambiguous: list[Int64[np.ndarray, "bases"]]


def find_open(sequences: Sequence[bytes], layout: Layout, *, keep: bool) -> Open:
    """Find the open frames of every chunk.

    Args:
        sequences: upper-case IUPAC nucleotides, ASCII.
        layout: where their chunks lie.
        keep: whether to keep the blocks.
    """
    count = len(layout.start)
    stops = np.zeros(count, dtype=np.uint8)
    readable = np.full(count, 0b111111, dtype=np.uint8)
    kept = Open(stops, readable, [], [])
    # From a chunk's first base to past its last codon; one without a codon reads a stray byte, but has no frame.
    edges = np.empty(2 * count, dtype=np.int64)
    edges[0::2] = layout.start
    np.maximum(layout.end - 2, layout.start, out=edges[1::2])
    for bases, (first, last) in zip(layout.blocks(sequences), pairwise(layout.first), strict=True):
        bits, ambiguous = _stop_bits(bases)
        here = edges[2 * first : 2 * last]
        stops[first:last] = np.bitwise_or.reduceat(bits, here)[0::2]
        if len(ambiguous):
            bits = _readable_bits(len(bases), ambiguous)
            readable[first:last] = np.bitwise_or.reduceat(bits, here)[0::2]
        if keep:
            kept.blocks.append(bases)
            kept.ambiguous.append(ambiguous)
    place = 3 * (layout.start % 3) + layout.end % 3
    opened = ~_BY_FRAME[stops, place] & _WITH_CODONS[np.minimum(layout.end - layout.start, 5)]
    readable = _BY_FRAME[readable, place]
    return Open(opened & readable, opened & ~readable, kept.blocks, kept.ambiguous)


def _stop_bits(bases: bytes) -> tuple[Bytes, Int64[np.ndarray, "ambiguous"]]:
    """Mark the stops that start at each base; also say where the ambiguous bases are."""
    letters = np.frombuffer(bases, dtype=np.uint8)
    bits = np.zeros(len(bases), dtype=np.uint8)
    code = base_codes(letters)
    ambiguous = ambiguous_bases(letters, code)
    if len(bases) >= 3:
        codons = codon_codes(code)
        for back in range(3) if len(ambiguous) else ():
            codons[np.clip(ambiguous - back, 0, len(codons) - 1)] = AMBIGUOUS
        stops = np.frombuffer(codons.tobytes().translate(_STOPS), dtype=np.uint8)
        np.multiply(stops, _pattern(len(stops)), out=bits[:-2])
    return bits, ambiguous


def _readable_bits(length: int, ambiguous: Int64[np.ndarray, "ambiguous"]) -> Bytes:
    """Mark the codons, on both strands, that hold no ambiguous base."""
    bits = _pattern(length) * np.uint8(0b001001)
    bits[-2:] = 0
    for back in range(3):
        bits[np.maximum(ambiguous - back, 0)] = 0
    return bits


def base_codes(letters: Bytes) -> Bytes:
    """Code each base by two bits; a letter other than A, C, G and T gets some code too."""
    code: Bytes = letters >> 1
    code &= 3
    return code


def codon_codes(code: Bytes) -> Bytes:
    """Code the codon that starts at each base but the last two."""
    codons: Bytes = code[:-2] * np.uint8(4)
    codons += code[1:-1]
    codons *= 4
    codons += code[2:]
    return codons


def ambiguous_bases(letters: Bytes, code: Bytes) -> Int64[np.ndarray, "ambiguous"]:
    """Find the letters other than A, C, G and T."""
    # A, C and G are 0x41 plus twice their code, T is 0x54; no other nucleotide letter is either.
    known: Bool[np.ndarray, "n"] = code * np.uint8(2) + np.uint8(0x41) == letters
    known |= letters == ord("T")
    return np.flatnonzero(~known) if not known.all() else _NONE


_NONE = np.zeros(0, dtype=np.int64)
