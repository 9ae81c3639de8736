"""Decides which units are trained on, which are watched and which are kept for the test."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64

from vnp.errors import UsageError
from vnp.finetune.genomes import TEST, TRAIN, VALIDATION, Genomes
from vnp.finetune.kmers import kmer_hashes

_K = 21
# Of the k-mers whose hash is below this, out of 2^64, all are compared: a sixteenth of a virus, half as many of a host.
_SAMPLED = {True: 1 << 60, False: 1 << 59}
# A k-mer in more units than this tells nothing of kinship.
_COMMON = 40
_SHARED = 0.3
_FEWEST = 3


def split(genomes: Genomes, *, validation: float, test: float, left_out: Collection[str] = ()) -> Genomes:
    """Set units apart by the SHA-256 of their names, in each group of each sample.

    Units that share more than 30 % of the smaller one's sampled 21-mers stay together, and so do all records of a unit.
    A group of fewer than three units is trained on.

    Args:
        genomes: of any split.
        validation: share of the units.
        test: share of the units.
        left_out: groups that are for the test as a whole.

    Raises:
        UsageError: no group is called so.
    """
    _require_groups(genomes, left_out)
    root = related(genomes)
    first: dict[int, tuple[int, int]] = {}
    for record, unit in enumerate(genomes.unit.tolist()):
        first.setdefault(int(root[unit]), (int(genomes.sample[record]), int(genomes.group[record])))
    strata: dict[tuple[int, int], list[int]] = defaultdict(list)
    for unit, stratum in first.items():
        strata[stratum].append(unit)
    part = np.full(len(genomes.units), TRAIN, np.int8)
    for (_, group), members in strata.items():
        members.sort(key=lambda unit: hashlib.sha256(genomes.units[unit].encode()).hexdigest())
        if genomes.groups[group] in left_out:
            part[members] = TEST
            continue
        if len(members) < 3:
            continue
        tested = max(1, round(test * len(members))) if test else 0
        watched = max(1, round(validation * len(members))) if validation else 0
        part[members[:tested]] = TEST
        part[members[tested : tested + watched]] = VALIDATION
    return replace(genomes, part=part[root][genomes.unit])


def leave_out(genomes: Genomes, groups: Collection[str]) -> Genomes:
    """The same split with some groups kept for the test as a whole.

    Raises:
        UsageError: no group is called so.
    """
    _require_groups(genomes, groups)
    chosen = np.isin(np.array(genomes.groups), list(groups))[genomes.group]
    return replace(genomes, part=np.where(chosen, TEST, genomes.part).astype(np.int8))


def folds(genomes: Genomes) -> Int64[np.ndarray, " records"]:
    """One of eight parts for each record, by the SHA-256 of its unit's name, or -1 where nothing may be fitted on it.

    What is fitted on units that were kept apart is judged on each part by a fit of the others. A group that was left
    out as a whole shows how far it holds, so none of its units is in a part.
    """
    eighth = np.array([hashlib.sha256(unit.encode()).digest()[-1] % 8 for unit in genomes.units])
    known = np.isin(genomes.group, genomes.group[genomes.part == TRAIN])
    found: Int64[np.ndarray, " records"] = np.where(known & (genomes.part != TRAIN), eighth[genomes.unit], -1)
    return found


def evidence_of(genomes: Genomes) -> Bool[np.ndarray, " records"]:
    """Records that evidence for a share of viruses is counted on: of the units to watch, and of half of the test's.

    Mixtures of the other half show whether shares that are found by it hold.
    """
    part = folds(genomes)
    chosen: Bool[np.ndarray, " records"] = (part >= 0) & ((genomes.part == VALIDATION) | (part % 2 == 0))
    return chosen


def _require_groups(genomes: Genomes, groups: Collection[str]) -> None:
    unknown = sorted(set(groups) - set(genomes.groups))
    if unknown:
        raise UsageError(f"no group is called {unknown[0]!r}: the genomes have {', '.join(genomes.groups)}")


def related(genomes: Genomes) -> Int32[np.ndarray, " units"]:
    """Join units of one label that share many k-mers: for each the first one that it belongs with."""
    sampled = [_sample(genomes, record) for record in range(len(genomes.unit))]
    hashes = np.concatenate(sampled)
    units = np.repeat(genomes.unit, [len(one) for one in sampled]).astype(np.int64)
    order = np.lexsort((units, hashes))
    hashes, units = hashes[order], units[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (units[1:] != units[:-1])
    hashes, units = hashes[new], units[new]
    sizes = np.bincount(units, minlength=len(genomes.units))
    edges = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1], [True])))
    shared: Counter[tuple[int, int]] = Counter()
    for begin, end in pairwise(edges.tolist()):
        if 1 < end - begin < _COMMON:
            group = units[begin:end].tolist()
            shared.update((one, other) for at, one in enumerate(group) for other in group[at + 1 :])
    viral = np.zeros(len(genomes.units), np.bool_)
    viral[genomes.unit[genomes.viral]] = True
    root = np.arange(len(genomes.units), dtype=np.int32)
    for (one, other), count in sorted(shared.items()):
        if viral[one] == viral[other] and count >= _FEWEST and count > _SHARED * min(sizes[one], sizes[other]):
            low, high = sorted((root[one], root[other]))
            root[root == high] = low
    return root


def _sample(genomes: Genomes, record: int) -> np.ndarray:
    hashes, known = kmer_hashes(genomes.record(record), _K)
    return np.unique(hashes[known & (hashes < np.uint64(_SAMPLED[bool(genomes.viral[record])]))])
