"""Cuts sequences into chunks by the rule of VirNucPro's ``split_fasta_chunk``.

A sequence of ``length`` bases needs ``n = ceil(length / size)`` chunks. They would cover ``n * size`` bases, that is
``extra = n * size - length`` too many, so neighbours overlap. With ``low, rest = divmod(extra, n)``, the first
``low + rest`` pairs of neighbours share ``low + 1`` bases and the remaining pairs share ``low``, so chunk ``i``
(0-based) starts at ``i * (size - low) - min(i, low + rest)``. Every chunk holds ``size`` bases; the last does too where
``low + rest < n``, as in every long sequence, and otherwise ends, a little shorter, with the sequence. A sequence
shorter than a chunk is one chunk of its own length, and an empty sequence has none.

Source: the public repository Li-Jing-1997/VirNucPro (Li et al., Briefings in Bioinformatics 2025, bbaf224); the
rule above is fitted to that program's output and reproduces it base for base.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64


@dataclass(frozen=True, slots=True)
class Chunks:
    """A table of chunks over a list of sequences, in order of sequence, then position.

    Attributes:
        sequence: index into the list of sequences, from 0.
        number: the chunk's number within its sequence, from 1.
        start: first base, 0-based.
        end: one past the last base.
    """

    sequence: Int64[np.ndarray, "n"]
    number: Int32[np.ndarray, "n"]
    start: Int64[np.ndarray, "n"]
    end: Int64[np.ndarray, "n"]

    def __len__(self) -> int:
        """Count the chunks."""
        return len(self.sequence)

    def slice(self, first: int, last: int) -> Chunks:
        """Take the chunks from row ``first`` up to, not including, row ``last``; the arrays are views."""
        return Chunks(self.sequence[first:last], self.number[first:last], self.start[first:last], self.end[first:last])


def count_chunks(lengths: Int64[np.ndarray, "n"], size: int) -> Int64[np.ndarray, "n"]:
    """Count the chunks of each sequence.

    Args:
        lengths: bases a sequence.
        size: bases a chunk, at least 1.

    Returns:
        Chunks a sequence; 0 for an empty one.
    """
    if size < 1:
        raise ValueError(f"a chunk has at least 1 base, not {size}")
    return -(-np.asarray(lengths, dtype=np.int64) // size)


def cut(lengths: Int64[np.ndarray, "n"], size: int, *, first: int = 0, last: int | None = None) -> Chunks:
    """Cut sequences into chunks.

    A long sequence can be worked through in pieces: only the asked rows are computed, so that
    ``cut([250_000_000], 300, first=1000, last=2000)`` costs as much as 1000 chunks.

    Args:
        lengths: bases a sequence.
        size: bases a chunk, at least 1.
        first: first row wanted of the whole table.
        last: one past the last row wanted; by default all.

    Returns:
        Rows ``first`` to ``last`` of the table of all chunks.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = count_chunks(lengths, size)
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
    low, rest = np.divmod(counts * size - lengths, np.maximum(counts, 1))
    start = index * (size - low[sequence]) - np.minimum(index, (low + rest)[sequence])
    end = np.minimum(start + size, lengths[sequence])
    return Chunks(sequence, (index + 1).astype(np.int32), start, end)
