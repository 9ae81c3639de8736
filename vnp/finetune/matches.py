"""Finds pieces of hosts that match viruses, such as prophages: they are neither trained on nor tested."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vnp.finetune.genomes import TRAIN, Genomes, runs_of, with_ignored
from vnp.finetune.kmers import kmer_hashes

_K = 19
_BITS = 33  # of a hash; a set of 50 million k-mers fills 0.6 % of the table
_WINDOW = 600
_DENSE = 36  # k-mers of a window that match; two strands of 85 % identity have about as many
# A k-mer of few different bases is found everywhere.
_MOST_OF_ONE = 11
_MOST_OF_A_PAIR = 17


def ignore_matches(genomes: Genomes) -> Genomes:
    """Mark the pieces of hosts in which 36 of 600 k-mers are those of a virus.

    Hosts to train on are compared with the viruses to train on, so that nothing of the others shows in what is
    learned; all other hosts with all viruses.
    """
    trained = genomes.part == TRAIN
    table = np.zeros(1 << (_BITS - 3), np.uint8)
    runs = [np.zeros((0, 2), np.int64)]
    for part in (trained, ~trained):
        for record in np.flatnonzero(part & genomes.viral).tolist():
            _enter(table, genomes.record(record))
        for record in np.flatnonzero(part & ~genomes.viral).tolist():
            found = _matching(table, genomes.record(record))
            runs.append(found + np.array([genomes.starts[record], 0]))
    return with_ignored(genomes, np.concatenate(runs))


def _places(codes: UInt8[np.ndarray, " bases"]) -> tuple[Int64[np.ndarray, " k"], UInt8[np.ndarray, " k"], np.ndarray]:
    hashes, known = kmer_hashes(codes, _K)
    hashes >>= np.uint64(64 - _BITS)
    return (hashes >> np.uint64(3)).astype(np.int64), np.uint8(1) << (hashes & np.uint64(7)).astype(np.uint8), known


def _enter(table: UInt8[np.ndarray, " bytes"], codes: UInt8[np.ndarray, " bases"]) -> None:
    byte, bit, known = _places(codes)
    np.bitwise_or.at(table, byte[known], bit[known])


def _matching(table: UInt8[np.ndarray, " bytes"], codes: UInt8[np.ndarray, " bases"]) -> Int64[np.ndarray, "runs 2"]:
    if len(codes) < _WINDOW // 4:
        return np.zeros((0, 2), np.int64)
    byte, bit, known = _places(codes)
    hit = (table[byte] & bit != 0) & known & _varied(codes)
    before = np.concatenate(([0], np.cumsum(hit)))
    width = min(_WINDOW, len(hit))
    dense = np.flatnonzero(before[width:] - before[:-width] >= _DENSE)
    steps = np.zeros(len(codes) + 1, np.int32)
    np.add.at(steps, dense, 1)
    np.add.at(steps, np.minimum(dense + width + _K - 1, len(codes)), -1)
    return runs_of(np.cumsum(steps[:-1]) > 0)


def _varied(codes: UInt8[np.ndarray, " bases"]) -> Bool[np.ndarray, " k"]:
    """Which k-mers are not made of one base, or of A and T, or of C and G, almost alone."""
    counts = []
    for base in range(4):
        before = np.concatenate(([0], np.cumsum(codes == base)))
        counts.append(before[_K:] - before[:-_K])
    a, c, g, t = counts
    varied: Bool[np.ndarray, " k"] = np.max(counts, axis=0) <= _MOST_OF_ONE
    varied &= (a + t <= _MOST_OF_A_PAIR) & (c + g <= _MOST_OF_A_PAIR)
    return varied
