from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.frames import chunk_bounds
from vnp.sequences.chunks import Chunking

LENGTHS = st.lists(st.integers(0, 3000), max_size=8)


def lengths_of(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@given(LENGTHS, st.integers(1, 700))
def test_chunks_are_those_of_the_loop(values: list[int], size: int) -> None:
    chunks = Chunking(size).cut(lengths_of(values))
    expected = [
        (index, number, start, end)
        for index, length in enumerate(values)
        for number, (start, end) in enumerate(chunk_bounds(length, size), start=1)
    ]
    columns = (chunks.sequence, chunks.number, chunks.start, chunks.end)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert Chunking(size).count(lengths_of(values)).tolist() == [len(chunk_bounds(n, size)) for n in values]


@given(LENGTHS.filter(any), st.integers(1, 700))
def test_chunks_cover_every_base_and_are_no_longer_than_asked(values: list[int], size: int) -> None:
    chunks = Chunking(size).cut(lengths_of(values))
    assert ((chunks.end - chunks.start) <= size).all()
    for index, length in enumerate(values):
        mine = chunks.sequence == index
        covered = np.zeros(length, dtype=bool)
        for start, end in zip(chunks.start[mine], chunks.end[mine], strict=True):
            assert start < end
            covered[start:end] = True
        assert covered.all()


@given(LENGTHS, st.integers(1, 700), st.integers(0, 40), st.integers(0, 40))
def test_a_part_is_a_slice_of_the_whole(values: list[int], size: int, first: int, count: int) -> None:
    whole = Chunking(size).cut(lengths_of(values)).slice(first, first + count)
    part = Chunking(size).cut(lengths_of(values), first=first, last=first + count)
    assert len(part) == len(whole)
    for name in ("sequence", "number", "start", "end"):
        a, b = getattr(whole, name), getattr(part, name)
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()


def test_a_part_of_a_chromosome_is_cut_without_the_rest() -> None:
    part = Chunking(300).cut(lengths_of([0, 250_000_000]), first=800_000, last=800_002)
    assert part.sequence.tolist() == [1, 1]
    assert part.number.tolist() == [800_001, 800_002]
    assert part.start.tolist() == [239_999_800, 240_000_100]


@pytest.mark.parametrize(
    ("length", "size", "starts", "last_end"),
    [
        (0, 300, [], None),
        (1, 300, [0], 1),
        (300, 300, [0], 300),
        (301, 300, [0, 151 - 1], 301),
        (601, 300, [0, 200, 400], 601),
        (900, 500, [0, 449], 900),
        (2999, 300, [0, *range(299, 2999, 300)], 2999),
    ],
)
def test_known_cuts(length: int, size: int, starts: list[int], last_end: int | None) -> None:
    chunks = Chunking(size).cut(lengths_of([length]))
    assert chunks.start.tolist() == starts
    assert chunks.end.tolist()[-1:] == ([] if last_end is None else [last_end])


def test_a_chunk_needs_a_base() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Chunking(0).cut(lengths_of([5]))


@given(st.lists(st.integers(0, 2_000), max_size=5), st.integers(30, 300), st.integers(0, 29))
def test_another_overlap_is_one_number(values: list[int], size: int, overlap: int) -> None:
    chunking = Chunking(size, overlap)
    chunks = chunking.cut(lengths_of(values))
    assert chunking.count(lengths_of(values)).tolist() == [chunking.number(length) for length in values]
    for index, length in enumerate(values):
        own = chunks.sequence == index
        start, end = chunks.start[own], chunks.end[own]
        assert len(start) == chunking.number(length)
        if length:
            assert (start[0], end[-1]) == (0, length)
            assert (end[:-1] - start[1:] >= overlap).all()
            assert (np.diff(start) > 0).all()
            assert (end[:-1] - start[:-1] == size).all()
