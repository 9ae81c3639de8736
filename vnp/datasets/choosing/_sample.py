"""Chooses chunks: every organism group its number, every genome of a group its equal share, every length too.

Within a genome and a length, the chunks with the lowest keys are taken. Keys look random and depend on the seed and the
chunk alone, so the choice does not depend on the order of files or on how the work was shared out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The chunks to choose from: index of group and genome, number of the length, and a key, lowest first.

    The groups have names and labels (1 viral, 0 host), the genomes names.
    """

    group: Int64[np.ndarray, "chunks"]
    genome: Int64[np.ndarray, "chunks"]
    length: Int64[np.ndarray, "chunks"]
    key: UInt64[np.ndarray, "chunks"]
    groups: Sequence[str]
    labels: Sequence[int]
    genomes: Sequence[str]


def choose(
    pool: Pool, *, per_group: int | None = None, balance: str = "none", seed: int = 0
) -> Int64[np.ndarray, "chosen"]:
    """Choose chunks of a pool; gives their positions, ascending.

    Args:
        per_group: the most that an organism group gives; None for all it has.
        balance: ``label`` takes as many viral as host chunks, the latter from all host groups alike; ``group`` takes as
            many from each organism group. In both the scarcer side decides.
        seed: decides who gives one more where shares do not come out even.
    """
    wanted = _per_group(pool, per_group, balance, seed)
    cells, cell, have = np.unique(
        np.stack([pool.group, pool.genome, pool.length], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    quota = np.zeros(len(cells), np.int64)
    for group, total in enumerate(wanted.tolist()):
        own = np.flatnonzero(cells[:, 0] == group)
        quota[own] = _per_cell(cells[own], have[own], total, pool, seed)
    order = np.lexsort((pool.key, cell))
    rank = np.arange(len(cell)) - np.repeat(np.cumsum(have) - have, have)
    return np.sort(order[rank < np.repeat(quota, have)])


def water_fill(capacity: Int64[np.ndarray, "n"], total: int, order: UInt64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Share a number out evenly among some who cannot give more than they have.

    What those who have little cannot give is spread over the others, as water finds its level; where it does not come
    out even, the lowest in ``order`` give one more. All give everything where ``total`` is more than there is.
    """
    total = min(total, int(capacity.sum()))
    low_first = np.sort(capacity)
    count = len(capacity)
    below = np.cumsum(low_first) - low_first
    left = count - np.arange(count)
    # With the level at the capacity of the i-th lowest, those below give all they have and the others that much each.
    first = int(np.searchsorted(below + low_first * left, total, side="right"))
    if first == count:
        return capacity.copy()
    level, more = divmod(total - int(below[first]), int(left[first]))
    shares: np.ndarray = np.minimum(capacity, level)
    able = np.flatnonzero(capacity > level)
    shares[able[np.argsort(order[able], kind="stable")[:more]]] += 1
    return shares


def _per_group(pool: Pool, per_group: int | None, balance: str, seed: int) -> Int64[np.ndarray, "groups"]:
    have = np.bincount(pool.group, minlength=len(pool.groups)).astype(np.int64)
    wanted = have if per_group is None else np.minimum(have, per_group)
    if balance == "group":
        return np.full_like(wanted, wanted.min() if len(wanted) else 0)
    if balance == "label":
        labels = np.asarray(pool.labels)
        order = np.array([name_key(seed, "group", name) for name in pool.groups], np.uint64)
        scarcer = min(int(wanted[labels == label].sum()) for label in (0, 1))
        wanted = wanted.copy()
        for label in (0, 1):
            own = labels == label
            wanted[own] = water_fill(wanted[own], scarcer, order[own])
    return wanted


def _per_cell(
    cells: Int64[np.ndarray, "cells 3"], have: Int64[np.ndarray, "cells"], total: int, pool: Pool, seed: int
) -> Int64[np.ndarray, "cells"]:
    """Share a group's number out over its genomes, and each genome's over its lengths."""
    genomes, genome = np.unique(cells[:, 1], return_inverse=True)
    order = np.array([name_key(seed, "genome", pool.genomes[place]) for place in genomes.tolist()], np.uint64)
    shares = water_fill(np.bincount(genome, weights=have, minlength=len(genomes)).astype(np.int64), total, order)
    quota = np.zeros(len(cells), np.int64)
    edges = np.append(np.flatnonzero(np.diff(genome, prepend=-1)), len(cells)).tolist()
    for place, share in enumerate(shares.tolist()):
        own = slice(edges[place], edges[place + 1])
        name = pool.genomes[int(genomes[place])]
        keys = [name_key(seed, "length", name, str(length)) for length in cells[own, 2].tolist()]
        quota[own] = water_fill(have[own], share, np.array(keys, np.uint64))
    return quota


_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def name_key(seed: int, *names: str) -> int:
    """A 64-bit number for a name, or for several that belong together."""
    text = "\0".join((str(seed), *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def chunk_keys(record_key: int, start: Int64[np.ndarray, "n"], end: Int64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    first = _mix(np.uint64(record_key) + start.astype(np.uint64) * _STEP)
    return _mix(first ^ (end.astype(np.uint64) * _STEP))


def _mix(value: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """Scramble bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed
