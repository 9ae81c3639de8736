"""Finds pieces of bacteria, archaea and plasmids whose genes resemble those of phages: prophages without near kin.

Proteins keep words of eight residues long after their genes have lost all words of 19 bases. Any gene has some such
words in common with some phage, so a piece must have several times as many as the rest of its unit, over kilobases, and
only words that hardly any host has are counted: what many hosts have is not a virus's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from vnp.encoders.models.sixframe import AMBIGUOUS
from vnp.finetune.genomes import PHAGE, PROKARYOTES, TRAIN, Genomes, runs_of, with_ignored
from vnp.finetune.kmers import AMINO_ACIDS, mixed

_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
_STOP = 20
_K = 8  # residues of a word
_SHORTEST_FRAME = 60  # codons without a stop that a word must lie in
_MOST_REPEATS = 3  # pairs of like residues, at most three apart, in a word
_BITS = 34  # of a hash, of which each word sets two: a set of 20 million fills 0.2 % of the table
_MOST_UNITS = 2  # hosts that have a word
_BIN = 1000
_FEWEST_WORDS = 5  # of a bin
_TIMES = 4  # as many as a bin of the same unit has on average
_CAPPED = 8  # words of a bin that count for the average
_FEWEST_BINS = 50  # of a unit whose average means something; otherwise it is taken to be 1
_STRETCH = 8  # bins
_DENSE = 4  # bins of a stretch that have enough words
_BLOCK = 1 << 18

_FORWARD = np.array([_STOP if letter == "*" else _LETTERS.index(letter) for letter in AMINO_ACIDS] + [_STOP])
_TURNED = [16 * (3 - (codon & 3)) + 4 * (3 - (codon >> 2 & 3)) + 3 - (codon >> 4) for codon in range(64)]
_RESIDUES = (_FORWARD.astype(np.uint8), _FORWARD[[*_TURNED, 64]].astype(np.uint8))


def ignore_resembling(genomes: Genomes) -> Genomes:
    """Mark the pieces of bacteria, archaea and plasmids that resemble phages in at least 4 of 8 kilobases.

    Hosts to train on are compared with the viruses to train on alone; all other hosts with all viruses.
    """
    trained = genomes.part == TRAIN
    prokaryotes = genomes.kinds & ~np.uint8(PROKARYOTES) == 0
    phages = genomes.kinds & PHAGE != 0
    table = np.zeros(1 << (_BITS - 3), np.uint8)
    places, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for part in (trained, ~trained):
        for record in np.flatnonzero(part & phages).tolist():
            for _, found in _words(genomes.record(record)):
                _enter(table, found)
        for record in np.flatnonzero(part & prokaryotes).tolist():
            for at, found in _words(genomes.record(record)):
                known = _known(table, found)
                places.append(at[known] + genomes.starts[record])
                hashes.append(found[known])
    return with_ignored(genomes, _dense(genomes, np.concatenate(places), np.concatenate(hashes), prokaryotes))


def _words(codes: UInt8[np.ndarray, " bases"]) -> Iterator[tuple[Int64[np.ndarray, " n"], UInt64[np.ndarray, " n"]]]:
    """Places, the lowest bases, and hashes of the words in open frames, some of both strands at a time."""
    margin = 3 * _K + 12 * _SHORTEST_FRAME
    for begin in range(0, len(codes), _BLOCK):
        block = codes[begin : begin + _BLOCK + margin].astype(np.int16)
        if len(block) < 3 * _SHORTEST_FRAME:
            continue
        codons = block[:-2] * 16 + block[1:-1] * 4 + block[2:]
        codons[np.maximum(np.maximum(block[:-2], block[1:-1]), block[2:]) == AMBIGUOUS] = 64
        for residues, forward in zip(_RESIDUES, (True, False), strict=True):
            at, found = _words_of_strand(residues[codons], forward=forward)
            inside = at < _BLOCK
            yield at[inside] + begin, found[inside]


def _words_of_strand(
    residues: UInt8[np.ndarray, " n"], *, forward: bool
) -> tuple[Int64[np.ndarray, " words"], UInt64[np.ndarray, " words"]]:
    count = len(residues) - 3 * (_K - 1)
    usable = np.zeros(len(residues), np.bool_)
    for frame in range(3):
        stops = np.flatnonzero(np.concatenate(([True], residues[frame::3] == _STOP, [True])))
        lengths = np.diff(stops)
        usable[frame::3] = np.repeat(lengths > _SHORTEST_FRAME, lengths)[: len(usable[frame::3])]
    usable &= residues != _STOP
    good = np.ones(count, np.bool_)
    hashes = np.zeros(count, np.uint64)
    repeats = np.zeros(count, np.uint8)
    for place in range(_K):
        at = 3 * place if forward else 3 * (_K - 1 - place)
        hashes = hashes * np.uint64(len(_LETTERS)) + residues[at : at + count]
        good &= usable[at : at + count]
    for apart in (1, 2, 3):
        same = residues[: -3 * apart] == residues[3 * apart :]
        for place in range(_K - apart):
            repeats += same[3 * place : 3 * place + count]
    kept = np.flatnonzero(good & (repeats <= _MOST_REPEATS))
    return kept, mixed(hashes[kept])


def _bits(hashes: UInt64[np.ndarray, " n"]) -> Iterator[tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, " n"]]]:
    for one in (hashes, hashes * np.uint64(0x9E3779B97F4A7C15)):
        top = one >> np.uint64(64 - _BITS)
        yield (top >> np.uint64(3)).astype(np.int64), np.uint8(1) << (top & np.uint64(7)).astype(np.uint8)


def _enter(table: UInt8[np.ndarray, " bytes"], hashes: UInt64[np.ndarray, " n"]) -> None:
    for byte, bit in _bits(hashes):
        np.bitwise_or.at(table, byte, bit)


def _known(table: UInt8[np.ndarray, " bytes"], hashes: UInt64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    known = np.ones(len(hashes), np.bool_)
    for byte, bit in _bits(hashes):
        known &= table[byte] & bit != 0
    return known


def _dense(
    genomes: Genomes,
    places: Int64[np.ndarray, " n"],
    hashes: UInt64[np.ndarray, " n"],
    searched: Bool[np.ndarray, " records"],
) -> Int64[np.ndarray, "runs 2"]:
    """The runs of bases, from the first bin with enough words of a dense stretch to the last."""
    record = np.searchsorted(genomes.starts, places, side="right") - 1
    unit = genomes.unit[record].astype(np.int64)
    order = np.lexsort((unit, hashes))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(hashes[order]) != 0) | (np.diff(unit[order]) != 0)
    words, units = np.unique(hashes[order][first], return_counts=True)
    rare = units[np.searchsorted(words, hashes)] <= _MOST_UNITS
    bins = np.where(searched, -(-genomes.lengths // _BIN), 0)
    edges = np.concatenate(([0], np.cumsum(bins)))
    where = edges[record] + (places - genomes.starts[record]) // _BIN
    counts = np.bincount(where[rare], minlength=edges[-1])
    owner = np.repeat(genomes.unit, bins)
    of_unit = np.bincount(owner, minlength=len(genomes.units))
    average = np.bincount(owner, weights=np.minimum(counts, _CAPPED), minlength=len(of_unit)) / np.maximum(of_unit, 1)
    average = np.where(of_unit < _FEWEST_BINS, 1.0, average)
    enough = counts >= np.maximum(_FEWEST_WORDS, _TIMES * average[owner])
    runs = [np.zeros((0, 2), np.int64)]
    for index in np.flatnonzero(bins).tolist():
        some = enough[edges[index] : edges[index + 1]]
        if some.sum() < 2:
            continue
        width = min(_STRETCH, len(some))
        before = np.concatenate(([0], np.cumsum(some)))
        dense = before[width:] - before[:-width] >= max(2, -(-_DENSE * width // _STRETCH))
        covered = np.convolve(dense, np.ones(width)) > 0
        for begin, size in runs_of(covered).tolist():
            inside = begin + np.flatnonzero(some[begin : begin + size])
            low, high = inside[0] * _BIN, min((inside[-1] + 1) * _BIN, int(genomes.lengths[index]))
            runs.append(np.array([[genomes.starts[index] + low, high - low]], np.int64))
    return np.concatenate(runs)
