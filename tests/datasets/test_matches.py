from __future__ import annotations

import random
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.genbank import random_bases, reverse_complement
from vnp.datasets.choosing import _prophages as matches
from vnp.datasets.choosing._prophages import (
    BAND,
    SEED_LENGTH,
    SEED_SHARE,
    ViralIndex,
    base_codes,
    fewest_edits,
    find_seeds,
)

GENOMES = [random_bases(size, size) for size in (30_000, 12_000, 700, 300, 5_000)]


def indexed(genomes: list[str] | None = None) -> ViralIndex:
    return ViralIndex.from_genomes(genome.encode() for genome in (GENOMES if genomes is None else genomes))


def found(index: ViralIndex, chunks: list[str]) -> list[bool]:
    result = index.matches([chunk.encode() for chunk in chunks])
    assert result.dtype == np.bool_
    return list(result.tolist())


def substituted(bases: str, number: int, rng: random.Random) -> str:
    letters = list(bases)
    for place in rng.sample(range(len(bases)), number):
        letters[place] = rng.choice([base for base in "ACGT" if base != letters[place]])
    return "".join(letters)


def with_indels(bases: str, number: int, rng: random.Random) -> str:
    for _ in range(number):
        at = rng.randrange(1, len(bases) - 1)
        bases = bases[:at] + (rng.choice("ACGT") + bases[at:] if rng.random() < 0.5 else bases[at + 1 :])
    return bases


def edits(chunk: str, text: str) -> int:
    """Edits that turn the chunk into the best stretch of the text, by the plain dynamic programme."""
    row = [0] * (len(text) + 1)
    for base in chunk:
        diagonal, row[0] = row[0], row[0] + 1
        for at, other in enumerate(text, start=1):
            diagonal, row[at] = row[at], min(diagonal + (base != other), row[at] + 1, row[at - 1] + 1)
    return min(row)


def drawn(length: int, count: int, seed: int) -> list[str]:
    """Stretches of the genomes, every second on the other strand."""
    rng = random.Random(seed)
    long = [genome for genome in GENOMES if len(genome) > length]
    chunks = []
    for number in range(count):
        genome = rng.choice(long)
        at = rng.randrange(len(genome) - length)
        chunk = genome[at : at + length]
        chunks.append(reverse_complement(chunk) if number % 2 else chunk)
    return chunks


def memory_of(index: ViralIndex) -> int:
    return sum(int(getattr(index, field.name).nbytes) for field in fields(index))


@pytest.mark.parametrize("length", [100, 150, 300, 500])
def test_exact_stretches_on_either_strand(length: int) -> None:
    chunks = drawn(length, 60, 1)
    assert found(indexed(), chunks) == [True] * 60


@pytest.mark.parametrize("length", [150, 300, 500])
def test_mutated_stretches(length: int) -> None:
    """One base in twenty substituted, and two bases inserted or deleted."""
    rng = random.Random(length)
    chunks = [with_indels(substituted(chunk, length // 20, rng), 2, rng) for chunk in drawn(length, 1000, length)]
    assert sum(found(indexed(), chunks)) >= 990


def test_no_random_chunk_matches() -> None:
    chunks = [random_bases(length, 1000 + seed) for seed in range(300) for length in (100, 150, 500)]
    assert not any(found(indexed(), chunks))


@pytest.mark.parametrize("length", [150, 301])
def test_edge_of_ninety_percent(length: int) -> None:
    rng = random.Random(2)
    allowed = length // 10
    chunks = drawn(length, 100, 3)
    below = [substituted(chunk, allowed, rng) for chunk in chunks]
    above = [substituted(chunk, allowed + 8, rng) for chunk in chunks]  # far enough for no other alignment to save it
    assert sum(found(indexed(), below)) >= 97
    assert sum(found(indexed(), above)) == 0


def test_what_is_found_is_there() -> None:
    """Whatever the mutations, a chunk is found only if the plain dynamic programme agrees, and nearly always then."""
    rng = random.Random(4)
    genome = GENOMES[3]
    index = indexed([genome])
    chunks = []
    for _ in range(60):
        at = rng.randrange(len(genome) - 165)
        chunks.append(with_indels(substituted(genome[at : at + 165], rng.randrange(4, 22), rng), rng.randrange(5), rng))
    chunks = [chunk[:155] for chunk in chunks]
    truth = [edits(chunk, genome) <= len(chunk) // 10 for chunk in chunks]
    answers = found(index, chunks)
    assert 15 < sum(truth) < 45
    assert not any(answer and not true for answer, true in zip(answers, truth, strict=True))
    assert sum(answers) >= sum(truth) - 2


def test_half_a_chunk_is_not_enough() -> None:
    chunks = [chunk[:130] + random_bases(170, seed) for seed, chunk in enumerate(drawn(300, 50, 5))]
    assert not any(found(indexed(), chunks))


def test_ends_of_records() -> None:
    index = indexed()
    first, second = GENOMES[0], GENOMES[1]
    assert found(index, [first[:300], first[-300:], second[:300]]) == [True] * 3
    outside = random_bases(60, 9)
    assert found(index, [outside[:25] + first[:275], first[-275:] + outside[:25]]) == [True] * 2
    assert found(index, [outside + first[:240], first[-240:] + outside]) == [False] * 2
    assert found(index, [first[-150:] + second[:150]]) == [False], "two records are no one genome"
    assert found(index, [outside + GENOMES[3] + outside]) == [False], "the record is shorter than the chunk"
    assert found(index, [GENOMES[3]]) == [True]


def test_long_insertions() -> None:
    chunk = GENOMES[0][1000:1500]
    assert found(indexed(), [chunk[:250] + random_bases(30, 1) + chunk[250:470]]) == [True]
    assert found(indexed(), [chunk[:220] + chunk[250:]]) == [True]


def test_ambiguous_bases_match_nothing() -> None:
    chunk = GENOMES[0][1000:1300]
    assert found(indexed(), ["N" * 29 + chunk[29:], "N" * 31 + chunk[31:], "N" * 300]) == [True, False, False]
    masked = GENOMES[0][:1000] + "N" * 29 + GENOMES[0][1029:]
    index = indexed([masked])
    assert found(index, [chunk, "N" * 40 + chunk[40:]]) == [True, False]


def test_many_copies_of_one_genome() -> None:
    """More of them than copies of a seed are kept; each is still found."""
    rng = random.Random(7)
    family = [substituted(GENOMES[4], 60, rng) for _ in range(100)]
    index = indexed(family)
    assert len(index.keys) < 0.5 * 100 * 5_000 / SEED_SHARE
    chunks = [genome[at : at + 200] for genome in family for at in (0, 2_000, 4_800)]
    assert found(index, chunks) == [True] * 300


def test_families_of_which_some_members_match() -> None:
    """Genomes 7 % away from one ancestor: what they share is kept of the first ones only, and each is still found."""
    rng = random.Random(8)
    ancestor = random_bases(2_000, 8)
    family = [substituted(ancestor, 140, rng) for _ in range(150)]
    index = indexed(family)
    places = [(rng.randrange(150), rng.randrange(1_700)) for _ in range(300)]
    near = [substituted(family[member][at : at + 300], 15, rng) for member, at in places]
    assert sum(found(index, near)) >= 297
    far = [substituted(ancestor[at : at + 300], 45, rng) for _, at in places]
    assert sum(found(index, far)) == 0


def test_repeats_do_no_harm() -> None:
    unit = random_bases(24, 8)
    index = indexed(["A" * 20_000, unit * 800, GENOMES[2]])
    repeats = ["A" * 300, "T" * 300, (unit * 20)[7:307], reverse_complement(unit * 20)[:300]]
    assert found(index, [*repeats, GENOMES[2][10:310], "AT" * 150]) == [True] * 5 + [False]
    assert memory_of(index) < 10 * 40_700


def test_small_things() -> None:
    assert found(indexed([]), ["ACGT" * 50]) == [False]
    assert found(indexed([""]), ["ACGT" * 50]) == [False]
    assert found(indexed(["ACGT", "", GENOMES[2]]), [GENOMES[2][:200]]) == [True]
    assert found(indexed(), []) == []
    assert found(indexed(), ["", "ACGT", GENOMES[0][:200], ""]) == [False, False, True, False]


def test_batches_and_wide_places(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = drawn(150, 100, 11) + [random_bases(150, seed) for seed in range(100)]
    narrow = indexed()
    expected = found(narrow, chunks)
    monkeypatch.setattr(matches, "_BATCH", 1000)
    monkeypatch.setattr(matches, "_PAIRS", 3)
    monkeypatch.setattr(matches, "_WIDE", 0)
    wide = indexed()
    assert [str(index.places.dtype) for index in (narrow, wide)] == ["uint32", "int64"]
    assert np.array_equal(narrow.places, wide.places)
    assert np.array_equal(narrow.keys, wide.keys)
    assert found(wide, chunks) == expected


def test_memory_is_a_few_bytes_a_base() -> None:
    index = indexed([random_bases(200_000, 1)])
    assert memory_of(index) < 5 * 200_000


def test_seeds_are_the_same_on_both_strands() -> None:
    bases = random_bases(60_000, 1)
    forward, backward = (find_seeds(base_codes(text.encode())) for text in (bases, reverse_complement(bases)))
    there = len(bases) - SEED_LENGTH - backward.place[::-1]
    assert np.array_equal(forward.place, there)
    assert np.array_equal(forward.key, backward.key[::-1])
    assert np.array_equal(forward.reverse, ~backward.reverse[::-1])
    assert 0.9 < len(forward.key) * SEED_SHARE / len(bases) < 1.1


def test_seeds_with_strange_letters_are_left_out() -> None:
    bases = random_bases(3_000, 2)
    whole = find_seeds(base_codes(bases.encode()))
    strange = find_seeds(base_codes((bases[:1000] + "N" + bases[1001:]).encode()))
    kept = (whole.place > 1000) | (whole.place + SEED_LENGTH <= 1000)
    assert np.array_equal(strange.place, whole.place[kept])
    assert np.array_equal(strange.key, whole.key[kept])


@pytest.mark.parametrize(
    "length",
    [0, SEED_LENGTH - 1, SEED_LENGTH, 16_384 + SEED_LENGTH - 2, 16_384 + SEED_LENGTH - 1, 16_384 + SEED_LENGTH],
)
def test_seeds_at_the_edges_of_blocks(length: int) -> None:
    bases = random_bases(40_000, 3)
    whole, part = (find_seeds(base_codes(text.encode())) for text in (bases, bases[:length]))
    kept = whole.place + SEED_LENGTH <= length
    assert np.array_equal(part.place, whole.place[kept])


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(20, 60))
def test_edits_are_those_of_the_plain_programme(seed: int, length: int) -> None:
    rng = random.Random(seed)
    window = random_bases(length + 2 * BAND, seed)
    chunk = window[BAND : BAND + length]
    chunk = with_indels(substituted(chunk, rng.randrange(length // 3), rng), rng.randrange(4), rng)
    window = random_bases(length + 2 * BAND - len(window), 1) + window
    chunk = (chunk + "A" * length)[:length]
    pairs = np.array([list(chunk.encode())] * 2, dtype=np.uint8), np.array([list(window.encode())] * 2, dtype=np.uint8)
    truth = edits(chunk, window)
    for limit in (0, 5, length):
        found = fewest_edits(*pairs, limit)
        assert (found == truth).all() if truth <= limit else (found > limit).all()
