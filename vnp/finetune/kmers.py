"""Canonical k-mers of coded bases, as hashes, and the amino acids of codons."""

from __future__ import annotations

from itertools import product

import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from vnp.encoders.models.sixframe import AMBIGUOUS
from vnp.sequences.record import CODONS, STANDARD_CODE

AMINO_ACIDS = "".join(STANDARD_CODE[CODONS.index("".join(codon))] for codon in product("ACGT", repeat=3))
"""What each codon is, in the order of ``codon_ids``: one letter, or ``*`` for a stop."""


def kmer_hashes(
    codes: UInt8[np.ndarray, " bases"], k: int
) -> tuple[UInt64[np.ndarray, " places"], Bool[np.ndarray, " places"]]:
    """Hash the k-mer (of 32 bases at most) at each place, and tell which of them have no ambiguous base.

    A k-mer and its reverse complement have one hash; codes are as ``base_codes`` has them.
    """
    places = max(0, len(codes) - k + 1)
    forward, reverse = np.zeros(places, np.uint64), np.zeros(places, np.uint64)
    known = np.ones(places, np.bool_)
    for at in range(k):
        base = codes[at : at + places]
        known &= base != AMBIGUOUS
        two = (base & 3).astype(np.uint64)
        forward = forward << np.uint64(2) | two
        reverse |= (np.uint64(3) - two) << np.uint64(2 * at)
    return mixed(np.minimum(forward, reverse)), known


def mixed(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Spread numbers over 64 bits (multiply and shift, as in splitmix64: Steele et al., OOPSLA 2014)."""
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x = x * np.uint64(0xD6E8FEB86659FD93)
    spread: UInt64[np.ndarray, " n"] = x ^ x >> np.uint64(29)
    return spread
