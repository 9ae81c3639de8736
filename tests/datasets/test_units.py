from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from vnp.datasets.choosing.split import Unit, UnitRecord, describe_units, find_units, split_units
from vnp.errors import InputError, UsageError
from vnp.sequences import identity

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
    with pytest.raises(UsageError, match=r"--units ani needs pyskani.*vnp\[dedupe\]"):
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
