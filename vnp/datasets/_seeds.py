"""Picks seeds of DNA: the same k-mers in every sequence and on both strands, a fixed share of all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32, UInt64

LENGTH = 17
"""Bases of a seed; odd, so that none is its own reverse complement."""
SHARE = 4
"""One k-mer of so many is a seed."""
OTHER = 4
_CODE = np.full(256, OTHER, dtype=np.uint8)
_CODE[np.frombuffer(b"ACGT", dtype=np.uint8)] = (0, 1, 2, 3)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_KEY = np.uint64(30)
# What a pass works on stays in the processor's cache.
_BLOCK = 1 << 16


class Seeds(NamedTuple):
    """Seeds in order of their place.

    Attributes:
        place: first base in the text.
        key: 32 bits of the k-mer's hash, the same on both strands.
        reverse: whether the k-mer that was hashed is the reverse complement of the text's.
    """

    place: Int64[np.ndarray, "seeds"]
    key: UInt32[np.ndarray, "seeds"]
    reverse: Bool[np.ndarray, "seeds"]


def base_codes(text: UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "n"]:
    """Number the bases A, C, G, T from 0 to 3; whatever else stands there is ``OTHER``."""
    codes: UInt8[np.ndarray, "n"] = _CODE[text]
    return codes


def find_seeds(codes: UInt8[np.ndarray, "n"]) -> Seeds:
    """Pick the seeds of a text; a k-mer with a base that is not A, C, G or T is none.

    Args:
        codes: as ``base_codes`` gives them.
    """
    found = [
        _of_block(codes[start : start + _BLOCK + LENGTH - 1], start)
        for start in range(0, max(len(codes) - LENGTH + 1, 1), _BLOCK)
    ]
    return Seeds(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _of_block(codes: UInt8[np.ndarray, "n"], start: int) -> Seeds:
    count = len(codes) - LENGTH + 1
    if count < 1:
        return Seeds(np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.bool_))
    wide = codes.astype(np.uint64)
    forward, backward = (
        _kmers(wide, count),
        _kmers_of_other_strand(np.uint64(3) - np.minimum(wide, np.uint64(3)), count),
    )
    hashes = np.minimum(forward, backward) * _SPREAD
    known = np.cumsum(np.concatenate(([0], codes == OTHER)))
    picked = np.flatnonzero((hashes < np.uint64((1 << 64) // SHARE)) & (known[LENGTH:] == known[:-LENGTH]))
    key = (hashes[picked] >> _KEY).astype(np.uint32)
    return Seeds(picked + start, key, backward[picked] < forward[picked])


def _kmers(codes: UInt64[np.ndarray, "n"], count: int) -> UInt64[np.ndarray, "count"]:
    """Write the bases of each k-mer into one number, the first highest."""
    kmers, size = codes, 1
    while size < LENGTH:
        step = min(size, LENGTH - size)
        # The last step may overlap, which shifting by less takes care of: the shared bases are the same.
        kmers = (kmers[:-step] << np.uint64(2 * step)) | kmers[step:]
        size += step
    return kmers[:count]


def _kmers_of_other_strand(complements: UInt64[np.ndarray, "n"], count: int) -> UInt64[np.ndarray, "count"]:
    """The same, of the reverse complements: the last base is highest."""
    kmers, size = complements, 1
    while size < LENGTH:
        step = min(size, LENGTH - size)
        kmers = kmers[:-step] | (kmers[step:] << np.uint64(2 * step))
        size += step
    return kmers[:count]
