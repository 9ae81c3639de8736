"""Cuts sequences into chunks by the rule of VirNucPro's ``split_fasta_chunk``.

A sequence of ``length`` bases needs ``n = ceil(length / size)`` chunks. They would cover ``n * size`` bases, that is
``extra = n * size - length`` too many, so neighbours overlap. With ``low, rest = divmod(extra, n)``, the first
``low + rest`` pairs of neighbours share ``low + 1`` bases and the remaining pairs share ``low``, so chunk ``i``
(0-based) starts at ``i * (size - low) - min(i, low + rest)``. Every chunk holds ``size`` bases; the last does too where
``low + rest < n``, as in every long sequence, and otherwise ends, a little shorter, with the sequence. A sequence
shorter than a chunk is one chunk of its own length, and an empty sequence has none. Where neighbours must share at
least ``overlap`` bases, the rule is the same with steps of ``size - overlap``, and ``extra`` counted beyond that.

Source: the public repository Li-Jing-1997/VirNucPro (Li et al., Briefings in Bioinformatics 2025, bbaf224); the
rule above is fitted to that program's output and reproduces it base for base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64

# Small enough for the arrays of a block to stay in a core's cache, large enough to spread numpy's fixed costs.
BLOCK_BASES = 1 << 16


@dataclass(frozen=True, slots=True)
class Chunks:
    """A table of chunks over a list of sequences, in order of sequence, then position."""

    sequence: Int64[np.ndarray, "n"]  # index into the list of sequences, from 0
    number: Int32[np.ndarray, "n"]  # the chunk's number within its sequence, from 1
    start: Int64[np.ndarray, "n"]  # first base, 0-based
    end: Int64[np.ndarray, "n"]  # one past the last base

    def __len__(self) -> int:
        """Count the chunks."""
        return len(self.sequence)

    def slice(self, first: int, last: int) -> Chunks:
        """Take the chunks from row ``first`` up to, not including, row ``last``; the arrays are views."""
        return Chunks(self.sequence[first:last], self.number[first:last], self.start[first:last], self.end[first:last])

    def some(self, kept: Bool[np.ndarray, "n"]) -> Chunks:
        """Take those of a mask."""
        return Chunks(self.sequence[kept], self.number[kept], self.start[kept], self.end[kept])


@dataclass(frozen=True, slots=True)
class Chunking:
    """How sequences are cut; all that cut or count chunks ask this."""

    size: int  # bases a chunk, at least 1
    overlap: int = 0  # bases that neighbours share at least; VirNucPro's is 0. The number to change for another overlap

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"a chunk has at least 1 base and shares fewer, not {self.size} and {self.overlap}")

    def number(self, length: int) -> int:
        """Count the chunks of one sequence of ``length`` bases; 0 for an empty one."""
        return max(1, -((self.overlap - length) // (self.size - self.overlap))) if length else 0

    def count(self, lengths: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """Count the chunks of each sequence; 0 for an empty one."""
        lengths = np.asarray(lengths, dtype=np.int64)
        counts = -((self.overlap - lengths) // (self.size - self.overlap))
        at_least: Int64[np.ndarray, "n"] = np.maximum(counts, lengths > 0)
        return at_least

    def cut(self, lengths: Int64[np.ndarray, "n"], *, first: int = 0, last: int | None = None) -> Chunks:
        """Cut sequences into chunks.

        A long sequence can be worked through in pieces: only the asked rows are computed, so that
        ``Chunking(300).cut([250_000_000], first=1000, last=2000)`` costs as much as 1000 chunks.

        ``lengths`` are in bases. ``first`` and ``last`` are the first row wanted of the table, and one past the last.

        Returns:
            Rows ``first`` to ``last`` of the table of all chunks.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        counts = self.count(lengths)
        before = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=before[1:])
        total = int(before[-1])
        first, last, _ = slice(first, last).indices(total)
        if first == 0 and last == total:
            sequence = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
            rows = np.arange(total, dtype=np.int64)
        else:
            rows = np.arange(first, max(first, last), dtype=np.int64)
            sequence = np.searchsorted(before, rows, side="right") - 1
        index = rows - before[sequence]
        step = self.size - self.overlap
        low, rest = np.divmod(counts * step + self.overlap - lengths, np.maximum(counts, 1))
        start = index * (step - low[sequence]) - np.minimum(index, (low + rest)[sequence])
        end = np.minimum(start + self.size, lengths[sequence])
        return Chunks(sequence, (index + 1).astype(np.int32), start, end)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each chunk of a table lies when the chunks' bases are laid out in blocks."""

    first: list[int]  # the first chunk of each block, and the number of chunks at the end
    start: Int64[np.ndarray, "chunks"]  # each chunk's first base in its block
    end: Int64[np.ndarray, "chunks"]  # one past its last base in its block
    shift: Int64[np.ndarray, "chunks"]  # what to add to such a position to get the position in the sequence
    pieces: list[list[tuple[int, int, int]]]  # sequence, first and last base of the stretches that make up each block

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
