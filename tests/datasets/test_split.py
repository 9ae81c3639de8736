from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnp.datasets.choosing._split import Unit, UnitRecord, describe_units, find_units, split_units
from vnp.errors import InputError, UsageError
from vnp.features.split import PARTS, TEST, TRAIN, VALIDATION
from vnp.sequences import identity

GROUPS = ("bacteria", "fungi", "plant")


def units_of(**counts: int) -> dict[str, Unit]:
    return {
        f"{group}{n}": Unit(int(group == "viral"), group, 1000 + n)
        for group, count in counts.items()
        for n in range(count)
    }


def by_group(split: dict[str, int]) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {}
    for name, part in split.items():
        found.setdefault(name.rstrip("0123456789"), Counter())[part] += 1
    return found


def test_each_organism_group_gives_its_share() -> None:
    split = split_units(units_of(viral=100, bacteria=50, fungi=10, plant=3), validation=0.1, test=0.2)
    assert by_group(split) == {
        "viral": {TRAIN: 70, VALIDATION: 10, TEST: 20},
        "bacteria": {TRAIN: 35, VALIDATION: 5, TEST: 10},
        "fungi": {TRAIN: 7, VALIDATION: 1, TEST: 2},
        "plant": {TRAIN: 1, VALIDATION: 1, TEST: 1},
    }


def test_small_organism_groups_are_dealt_out_together() -> None:
    split = split_units(units_of(viral=10, bacteria=2, fungi=2, plant=1))
    host = Counter(part for name, part in split.items() if not name.startswith("viral"))
    assert host == {TRAIN: 3, VALIDATION: 1, TEST: 1}
    split = split_units(units_of(viral=10, bacteria=9, plant=1, fungi=1))
    assert split["plant0"] == split["fungi0"] == TRAIN


@settings(max_examples=60)
@given(
    st.integers(3, 40),
    st.lists(st.integers(0, 12), min_size=3, max_size=3).filter(lambda counts: sum(counts) >= 3),
    st.integers(0, 99),
)
def test_every_part_has_both_labels_and_every_unit_a_part(viral: int, hosts: list[int], seed: int) -> None:
    units = units_of(viral=viral, **dict(zip(GROUPS, hosts, strict=True)))
    split = split_units(units, seed=seed)
    assert split.keys() == units.keys()
    for label in (0, 1):
        assert {split[name] for name, unit in units.items() if unit.label == label} == set(range(len(PARTS)))


def test_a_unit_with_most_of_the_bases_is_trained_on() -> None:
    units = units_of(viral=5, bacteria=5)
    large = {**units, "bacteria2": Unit(0, "bacteria", 4500)}
    parts = {split_units(units, seed=seed)["bacteria2"] for seed in range(40)}
    assert parts == {TRAIN, VALIDATION, TEST}
    for seed in range(40):
        split = split_units(large, seed=seed)
        assert split["bacteria2"] == TRAIN
        assert by_group(split) == by_group(split_units(units, seed=seed))


def test_the_seed_and_the_names_decide_and_no_order() -> None:
    units = units_of(viral=30, bacteria=30)
    first = split_units(units, seed=1)
    assert split_units(dict(reversed(units.items())), seed=1) == first
    assert split_units(units, seed=2) != first


def test_without_a_test_part() -> None:
    split = split_units(units_of(viral=2, bacteria=2), test=0)
    assert set(split.values()) == {TRAIN, VALIDATION}


def test_too_few_units() -> None:
    with pytest.raises(InputError, match=r"host units: 2, too few.*train, validation, test.*--units"):
        split_units(units_of(viral=9, bacteria=1, plant=1))
    with pytest.raises(InputError, match="viral units: 0, too few"):
        split_units(units_of(bacteria=9))


@pytest.mark.parametrize(("validation", "test"), [(0, 0.2), (0.5, 0.5), (0.1, -0.1), (float("nan"), 0.1)])
def test_impossible_shares(validation: float, test: float) -> None:
    with pytest.raises(UsageError, match="something must be left"):
        split_units(units_of(viral=9, bacteria=9), validation=validation, test=test)


LENGTH = 6_000
LETTERS = np.frombuffer(b"ACGT", np.uint8)


def record(name: str, genome: str = "", *, label: int = 1, group: str | None = None, bases: int = LENGTH) -> UnitRecord:
    return UnitRecord(name, genome or name, label, "viral" if label else "bacteria", bases, group, f"{label}.gb")


def mutated(genome: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    places = chance.random(len(genome)) < share
    return np.where(places, (genome + chance.integers(1, 4, len(genome))) % 4, genome)


def no_sequence(_number: int) -> bytes:
    raise AssertionError("no sequence is needed")


@pytest.fixture
def related() -> tuple[list[UnitRecord], list[bytes]]:
    """Two viruses of 98 % identity, each of two segments, a third of its own, and a host like the first."""
    pytest.importorskip("pyskani")
    chance = np.random.default_rng(3)
    first, second, other = (chance.integers(0, 4, LENGTH) for _ in range(3))
    genomes = [
        (record("b1", "Beta"), first),
        (record("b2", "Beta"), second),
        (record("a1", "Alpha"), mutated(first, 0.02, chance)),
        (record("a2", "Alpha"), mutated(second, 0.02, chance)),
        (record("c", "Gamma"), other),
        (record("h", "Host", label=0), first),
        (record("s", "Short", bases=300), other[:300]),
    ]
    return [own for own, _ in genomes], [LETTERS[bases].tobytes() for _, bases in genomes]


def test_genomes_of_high_identity_are_joined_under_the_first_name(
    related: tuple[list[UnitRecord], list[bytes]],
) -> None:
    records, sequences = related
    told: list[int] = []
    units = find_units(records, "ani", sequences.__getitem__, progress=told.append)
    assert units == ["Alpha"] * 4 + ["Gamma", "Host", "Short"]
    assert sum(told) == 5


def test_neither_order_nor_file_changes_units(related: tuple[list[UnitRecord], list[bytes]]) -> None:
    records, sequences = related
    units = dict(zip((r.name for r in records), find_units(records, "ani", sequences.__getitem__), strict=True))
    turned = [replace(r, file="else.gb") for r in records[::-1]]
    again = find_units(turned, "ani", sequences[::-1].__getitem__)
    assert dict(zip((r.name for r in turned), again, strict=True)) == units


def test_a_group_of_the_sheet_wins(related: tuple[list[UnitRecord], list[bytes]]) -> None:
    records, sequences = related
    records[0] = replace(records[0], group="given")
    records[1] = replace(records[1], group="given")
    assert find_units(records, "ani", sequences.__getitem__)[:4] == ["given", "given", "Alpha", "Alpha"]
    records = [replace(own, group=f"g{own.label}") for own in records]
    assert find_units(records, "ani", no_sequence) == ["g1"] * 5 + ["g0", "g1"]


def test_units_without_comparing() -> None:
    records = [record("r1", "x"), record("r2", "x"), record("r3"), record("r4", "y", group="g")]
    assert find_units(records, "genome", no_sequence) == ["x", "x", "r3", "g"]
    assert find_units(records, "record", no_sequence) == ["r1", "r2", "r3", "g"]


def test_a_unit_with_both_labels_is_refused() -> None:
    records = [record("r1", "Same"), record("r2", "Same", label=0)]
    with pytest.raises(InputError, match=r"'Same' is viral in 1\.gb \(record r1\) and host in 0\.gb \(record r2\)"):
        find_units(records, "genome", no_sequence)
    assert find_units(records, "record", no_sequence) == ["r1", "r2"]


def test_an_organism_group_of_a_unit_is_that_of_most_bases() -> None:
    records = [
        replace(record("r1", "u", label=0, bases=10), organism_group="plant"),
        replace(record("r2", "u", label=0, bases=30), organism_group="fungi"),
        replace(record("r3", "u", label=0, bases=30), organism_group="bacteria"),
        record("r4", "v", bases=7),
    ]
    units = find_units(records, "genome", no_sequence)
    assert describe_units(records, units) == {"u": Unit(0, "bacteria", 70), "v": Unit(1, "viral", 7)}


def test_a_missing_pyskani_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyskani", None)
    with pytest.raises(UsageError, match=r"--units ani needs pyskani.*\[dedupe\]"):
        find_units([record("r")], "ani", no_sequence)


def test_large_genomes_are_compared_with_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands first, a small genome is found in a large one, and two large ones in each other."""
    pytest.importorskip("pyskani")
    monkeypatch.setattr(identity, "_LARGE_BASES", 200_000)
    chance = np.random.default_rng(1)
    large = chance.integers(0, 4, 300_000)
    genomes = {
        "small": large[50_000:130_000],
        "large": large,
        "like": mutated(large, 0.02, chance),
        "other": chance.integers(0, 4, 250_000),
    }
    sizes = {name: len(bases) for name, bases in genomes.items()}
    for names in (list(sizes), list(sizes)[::-1]):
        clusters = identity.clusters_of_genomes(
            {name: sizes[name] for name in names}, lambda name: [LETTERS[genomes[name]].tobytes()], asked_by="a test"
        )
        assert clusters["small"] == clusters["large"] == clusters["like"] != clusters["other"]


def test_units_and_split_do_not_depend_on_what_is_sampled() -> None:
    records = [record(f"v{n}") for n in range(9)] + [record(f"h{n}", label=0) for n in range(9)]
    split = split_units(describe_units(records, find_units(records, "genome", no_sequence)), seed=5)
    shuffled = records[::2] + records[1::2]
    assert split_units(describe_units(shuffled, find_units(shuffled, "genome", no_sequence)), seed=5) == split
