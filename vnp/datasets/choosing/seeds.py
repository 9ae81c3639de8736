"""Picks seeds of DNA: the same k-mers in every sequence and on both strands, a fixed share of all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32, UInt64

LENGTH = 15
"""Bases of a seed; odd, so that none is its own reverse complement."""
SHARE = 4
"""One k-mer of so many is a seed."""
OTHER = 4
_CODE = bytes.maketrans(bytes(range(256)), bytes(b"ACGT".find(bytes([letter])) % 5 for letter in range(256)))
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_KEY = np.uint64(30)
# So small that what a pass works on stays in the processor's cache.
_BLOCK = 1 << 14


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


def base_codes(text: bytes) -> UInt8[np.ndarray, "n"]:
    """Number the bases A, C, G, T from 0 to 3; whatever else stands there is ``OTHER``."""
    return np.frombuffer(text.translate(_CODE), dtype=np.uint8)


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
    if len(codes) < LENGTH:
        return Seeds(np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.bool_))
    forward, backward = _kmers(codes & np.uint8(3)), _kmers_of_other_strand(~codes & np.uint8(3))
    hashes = np.minimum(forward, backward) * _SPREAD
    picked = np.flatnonzero(hashes < np.uint64((1 << 64) // SHARE))
    others = np.flatnonzero(codes == OTHER)
    if len(others):
        # How many strange letters stand before each base; between a k-mer's ends there must be none.
        before = np.searchsorted(others, picked)
        picked = picked[before == np.searchsorted(others, picked + LENGTH)]
    key = (hashes[picked] >> _KEY).astype(np.uint32)
    return Seeds(picked + start, key, backward[picked] < forward[picked])


def _kmers(codes: UInt8[np.ndarray, "n"]) -> UInt64[np.ndarray, "n-LENGTH+1"]:
    """Write the bases of each k-mer into one number, the first highest."""
    kmers, size = codes, 1
    while size < LENGTH:
        step = min(size, LENGTH - size)
        # Where the two halves share bases, shifting by less lays these over each other.
        kmers = kmers.astype(_holding(size + step))
        kmers = (kmers[:-step] << kmers.dtype.type(2 * step)) | kmers[step:]
        size += step
    return kmers


def _kmers_of_other_strand(complements: UInt8[np.ndarray, "n"]) -> UInt64[np.ndarray, "n-LENGTH+1"]:
    """The same, of the reverse complements: the last base is highest."""
    kmers, size = complements, 1
    while size < LENGTH:
        step = min(size, LENGTH - size)
        kmers = kmers.astype(_holding(size + step))
        kmers = kmers[:-step] | (kmers[step:] << kmers.dtype.type(2 * step))
        size += step
    return kmers


def _holding(bases: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest numbers that hold so many bases: less memory is touched, and a pass is three times as fast."""
    return np.dtype(f"u{next(size for size in (1, 2, 4, 8) if 4 * size >= bases)}")
