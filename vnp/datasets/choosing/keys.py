"""Numbers that look random and depend on a seed and a name alone, so that no order of work changes a choice."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def name_key(seed: int, *names: str) -> int:
    """A 64-bit number for a name, or for several that belong together."""
    text = "\0".join((str(seed), *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def chunk_keys(record_key: int, start: Int64[np.ndarray, "n"], end: Int64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """A 64-bit number for each chunk of a record."""
    first = _mix(np.uint64(record_key) + start.astype(np.uint64) * _STEP)
    return _mix(first ^ (end.astype(np.uint64) * _STEP))


def _mix(value: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """Scramble bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed
