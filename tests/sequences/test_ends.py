"""Terminal repeats: exact lengths, and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from vnp.sequences.ends import LONGEST, terminal_repeat
from vnp.sequences.record import reverse_complement


def dna(length: int, seed: int) -> bytes:
    return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(seed).integers(0, 4, length)].tobytes()


@pytest.mark.parametrize("size", [20, 21, 55, 127, 400])
def test_direct_and_inverted_repeats_have_their_exact_length(size: int) -> None:
    end, middle = dna(size, 1), b"A" + dna(900, 2) + b"C"
    assert terminal_repeat(end + middle + end) == size
    # The base behind the beginning, A, is not the complement of the one before the end, C.
    assert terminal_repeat(end + middle + reverse_complement(end)) == -size


@pytest.mark.parametrize(
    "sequence",
    [
        b"",
        b"ACGT",
        dna(1000, 3),
        dna(19, 4) + dna(500, 5) + dna(19, 4),
        b"ACG" * 200,
        b"A" * 500,
        b"AC" * 30 + dna(300, 6) + b"AC" * 30,
        dna(10, 7) + b"N" + dna(300, 8) + dna(10, 7) + b"N",
    ],
    ids=["empty", "tiny", "none", "19 bases", "triplets", "one base", "microsatellite", "ambiguous"],
)
def test_no_repeat(sequence: bytes) -> None:
    assert terminal_repeat(sequence) == 0


def test_the_longest_of_several_counts_up_to_half_of_the_record() -> None:
    short, middle = dna(30, 9), dna(500, 10)
    long = short + dna(40, 11) + short
    assert terminal_repeat(long + middle + long) == len(long)
    # Twice the same is a record and its copy.
    assert terminal_repeat(middle + middle) == len(middle)
    # A palindrome is its own reverse complement throughout; no more than half of it is told.
    half = dna(200, 12)
    assert terminal_repeat(half + reverse_complement(half)) == -200


def test_a_mismatch_ends_a_repeat() -> None:
    end = dna(60, 13)
    other = end[:25] + (b"A" if end[25:26] != b"A" else b"C") + end[26:]
    assert terminal_repeat(end + dna(500, 14) + other) == 0
    assert terminal_repeat(end + dna(500, 14) + reverse_complement(other)) == -25


def test_no_more_than_so_much_of_either_end_is_looked_at() -> None:
    end = dna(LONGEST + 50, 15)
    assert terminal_repeat(end + dna(10_000, 16) + end) == 0
    assert terminal_repeat(end[:LONGEST] + dna(10_000, 16) + end[:LONGEST]) == LONGEST
