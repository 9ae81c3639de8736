from __future__ import annotations

import random

import pytest

from vnp.sequences.record import base_counts


@pytest.mark.parametrize("length", [0, 1, 150, 1_999, 2_000, 30_000])
def test_bases_are_counted_in_short_and_long_records(length: int) -> None:
    sequence = "".join(random.Random(length).choices("ACGTNRY", k=length))
    expected = sum(map(sequence.count, "GC")), sum(map(sequence.count, "NRY"))
    assert base_counts(sequence.encode()) == expected
