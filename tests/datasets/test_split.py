from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnp.datasets.choosing.split import Unit, split_units
from vnp.errors import InputError, UsageError
from vnp.features.split import PARTS, TEST, TRAIN, VALIDATION

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


@settings(deadline=None, max_examples=60)
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
