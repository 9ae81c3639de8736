from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnp.datasets.choosing._sample import Pool, choose, chunk_keys, name_key, water_fill


def pool_of(have: dict[tuple[str, str, int], int], seed: int = 0) -> Pool:
    """A pool with so many chunks of each (organism group, genome, length)."""
    groups = sorted({group for group, _, _ in have})
    genomes = sorted({genome for _, genome, _ in have})
    cells = [cell for cell, count in have.items() for _ in range(count)]
    keys = [
        chunk_keys(name_key(seed, genome, str(length)), np.arange(count), np.arange(count) + 300)
        for (_, genome, length), count in have.items()
    ]
    return Pool(
        group=np.array([groups.index(group) for group, _, _ in cells], np.int64),
        genome=np.array([genomes.index(genome) for _, genome, _ in cells], np.int64),
        length=np.array([length for _, _, length in cells], np.int64),
        key=np.concatenate(keys),
        groups=groups,
        labels=[int(group.startswith("v")) for group in groups],
        genomes=genomes,
    )


def counts(pool: Pool, chosen: np.ndarray) -> Counter[tuple[str, str, int]]:
    return Counter(
        (pool.groups[pool.group[place]], pool.genomes[pool.genome[place]], int(pool.length[place]))
        for place in chosen.tolist()
    )


@settings(max_examples=200)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 200), st.integers(0, 9))
def test_water_finds_its_level(capacity: list[int], total: int, seed: int) -> None:
    have = np.array(capacity, np.int64)
    order = np.random.default_rng(seed).integers(0, 1 << 60, len(have)).astype(np.uint64)
    shares = water_fill(have, total, order)
    assert shares.sum() == min(total, have.sum())
    assert ((shares >= 0) & (shares <= have)).all()
    free = shares[shares < have]
    # Whoever could give more gives at most one less than anybody.
    assert not len(free) or shares.max() - free.min() <= 1


def test_the_rest_goes_to_the_lowest_in_order() -> None:
    shares = water_fill(np.array([9, 9, 9, 1]), 12, np.array([5, 2, 9, 0], np.uint64))
    assert shares.tolist() == [4, 4, 3, 1]


def test_a_large_genome_does_not_drown_the_others() -> None:
    pool = pool_of({("bacteria", "large", 0): 5000, ("bacteria", "middle", 0): 40, ("bacteria", "small", 0): 5})
    got = counts(pool, choose(pool, per_group=105))
    assert got == {("bacteria", "large", 0): 60, ("bacteria", "middle", 0): 40, ("bacteria", "small", 0): 5}


def test_lengths_come_evenly_within_a_genome() -> None:
    pool = pool_of({("viral", "g", 0): 100, ("viral", "g", 1): 50, ("viral", "g", 2): 4, ("viral", "h", 0): 100})
    got = counts(pool, choose(pool, per_group=60))
    assert got == {("viral", "g", 0): 13, ("viral", "g", 1): 13, ("viral", "g", 2): 4, ("viral", "h", 0): 30}


def test_one_chunk_a_genome_still_meets_every_length() -> None:
    pool = pool_of({("viral", f"g{n}", length): 5 for n in range(300) for length in range(3)})
    by_length = Counter(length for _, _, length in counts(pool, choose(pool, per_group=300)).elements())
    assert all(70 < count < 130 for count in by_length.values()), by_length


@pytest.mark.parametrize(
    ("balance", "per_group", "expected"),
    [
        ("none", None, {"bacteria": 90, "fungi": 10, "plant": 50, "viral": 80}),
        ("none", 40, {"bacteria": 40, "fungi": 10, "plant": 40, "viral": 40}),
        ("label", None, {"bacteria": 35, "fungi": 10, "plant": 35, "viral": 80}),
        ("label", 20, {"bacteria": 7, "fungi": 6, "plant": 7, "viral": 20}),
        ("group", None, {"bacteria": 10, "fungi": 10, "plant": 10, "viral": 10}),
        ("group", 7, {"bacteria": 7, "fungi": 7, "plant": 7, "viral": 7}),
    ],
)
def test_balance(balance: str, per_group: int | None, expected: dict[str, int]) -> None:
    have = {"viral": 80, "bacteria": 90, "fungi": 10, "plant": 50}
    pool = pool_of({(group, f"{group}{n}", 0): count // 2 for group, count in have.items() for n in (0, 1)})
    got = Counter(group for group, _, _ in counts(pool, choose(pool, per_group=per_group, balance=balance)).elements())
    if (balance, per_group) == ("label", 20):
        # 20 do not divide by 3, and the seed decides who gives one more.
        assert sorted(got[group] for group in ("bacteria", "fungi", "plant")) == [6, 7, 7]
        assert got["viral"] == 20
    else:
        assert got == expected


def test_neither_the_order_nor_the_company_changes_the_choice() -> None:
    have = {("viral", f"v{n}", length): 20 for n in range(5) for length in (0, 1)}
    pool = pool_of(have)
    chosen = choose(pool, per_group=33, seed=4)
    keys = set(pool.key[chosen].tolist())
    turned = pool_of(dict(reversed(have.items())))
    assert set(turned.key[choose(turned, per_group=33, seed=4)].tolist()) == keys
    more = pool_of(have | {("plant", "p", 0): 50})
    chosen = choose(more, per_group=33, seed=4)
    assert set(more.key[chosen[more.group[chosen] == 1]].tolist()) == keys


def test_the_lowest_keys_suffice() -> None:
    """What a genome keeps of its chunks beforehand, the lowest keys of each length, decides as all would."""
    pool = pool_of({("viral", "a", 0): 100, ("viral", "a", 1): 100, ("viral", "b", 0): 7, ("plant", "c", 1): 90})
    per_group = 30
    kept = np.concatenate(
        [
            cell[np.argsort(pool.key[cell])][:per_group]
            for cell in (
                np.flatnonzero((pool.genome == genome) & (pool.length == length))
                for genome in range(3)
                for length in range(2)
            )
        ]
    )
    small = Pool(
        pool.group[kept], pool.genome[kept], pool.length[kept], pool.key[kept], pool.groups, pool.labels, pool.genomes
    )
    for balance in ("none", "label", "group"):
        whole = choose(pool, per_group=per_group, balance=balance)
        part = choose(small, per_group=per_group, balance=balance)
        assert set(small.key[part].tolist()) == set(pool.key[whole].tolist())


def test_an_empty_pool() -> None:
    empty = np.zeros(0, np.int64)
    pool = Pool(empty, empty, empty, empty.astype(np.uint64), ["viral", "plant"], [1, 0], [])
    for balance in ("none", "label", "group"):
        assert len(choose(pool, per_group=5, balance=balance)) == 0


def test_keys_depend_on_seed_record_and_place() -> None:
    start = np.arange(0, 3_000_000, 300)
    keys = chunk_keys(name_key(0, "NC_1"), start, start + 300)
    assert len(np.unique(keys)) == len(keys)
    # The top bit is set as often as not.
    assert 0.45 < (keys >> np.uint64(63)).mean() < 0.55
    for other in (
        chunk_keys(name_key(1, "NC_1"), start, start + 300),
        chunk_keys(name_key(0, "NC_2"), start, start + 300),
        chunk_keys(name_key(0, "NC_1"), start, start + 150),
        chunk_keys(name_key(0, "NC_1"), start + 1, start + 301),
    ):
        assert not len(np.intersect1d(keys, other))
    assert name_key(0, "ab", "c") != name_key(0, "a", "bc")
