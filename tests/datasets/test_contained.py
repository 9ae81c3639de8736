from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnp.datasets.annotations import contained
from vnp.datasets.annotations.contained import ContainmentIndex
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import open_frames

LETTERS = st.text("ACD", max_size=12).map(str.encode)
RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"


def contains(proteins: Sequence[bytes], queries: Sequence[bytes]) -> list[bool]:
    """What the index says, which is the same whether it hashes everything or searches where that is faster."""
    offsets = np.cumsum([0, *map(len, queries)], dtype=np.int64)
    letters = np.frombuffer(b"".join(queries), dtype=np.uint8)
    found = ContainmentIndex(proteins).contains(letters, offsets)
    assert found.dtype == np.bool_
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_START_HASHING", "_HASHING"):
            patch.setattr(contained, name, 0)
        hashed = ContainmentIndex(proteins).contains(letters, offsets)
    assert hashed.tolist() == found.tolist()
    return list(found.tolist())


def scanned(proteins: Sequence[bytes], queries: Sequence[bytes]) -> list[bool]:
    return [any(query in protein for protein in proteins) for query in queries]


@given(st.lists(LETTERS, max_size=6), st.lists(LETTERS, max_size=40))
def test_is_what_in_says(proteins: list[bytes], queries: list[bytes]) -> None:
    assert contains(proteins, queries) == scanned(proteins, queries)


@given(
    st.lists(st.text(RESIDUES, max_size=80).map(str.encode), min_size=1, max_size=6),
    st.integers(4, 30),
    st.data(),
)
def test_pieces_of_proteins_and_near_misses(proteins: list[bytes], length: int, data: st.DataObject) -> None:
    whole = b"".join(proteins)
    starts = data.draw(st.lists(st.integers(0, max(len(whole) - length, 0)), min_size=5, max_size=12))
    queries = [whole[at : at + length] for at in starts]
    queries += [bytes([*query[:-1], ord("W")]) for query in queries if query]
    assert contains(proteins, queries) == scanned(proteins, queries)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 64]))
def test_texts_longer_than_a_block(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    proteins = [rng.choice(np.frombuffer(b"AC", dtype=np.uint8), size).tobytes() for size in rng.integers(0, 90, 8)]
    queries = [rng.choice(np.frombuffer(b"AC", dtype=np.uint8), 8).tobytes() for _ in range(60)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contained, "_BLOCK", block)
        patch.setattr(contained, "_QUERIES", 13)
        assert contains(proteins, queries) == scanned(proteins, queries)


def test_every_place_of_every_length() -> None:
    protein = np.random.default_rng(1).choice(np.frombuffer(RESIDUES.encode(), dtype=np.uint8), 60).tobytes()
    queries = [protein[a:b] for a, b in itertools.combinations(range(61), 2)]
    assert all(contains([b"M", protein, b"AC"], queries))


def test_never_across_the_border_of_two_proteins() -> None:
    assert contains([b"ACDEFG", b"HIKLMN"], [b"EFGHIK"] * 5 + [b"DEFG"] * 5) == [False] * 5 + [True] * 5
    assert contains([b"ACDEFG", b"HIKLMN"], [b"EFGHIK"]) == [False]


def test_nothing_to_look_in_or_for() -> None:
    assert contains([], []) == []
    assert contains([b"ACD"], []) == []
    assert contains([], [b"", b"A"]) == [False, False]
    assert contains([b""], [b"", b"A"]) == [True, False]
    assert contains([b"ACD"], [b""] * 6) == [True] * 6


def test_queries_longer_than_any_protein() -> None:
    assert contains([b"ACDE", b"AC"], [b"ACDEA", b"ACDEACDE"] * 5) == [False] * 10


def test_one_protein_ten_thousand_times() -> None:
    protein = b"MKVLAAGICH" * 30
    index = ContainmentIndex([protein] * 10_000)
    query = np.frombuffer(protein[5:105] * 5000, dtype=np.uint8)
    assert index.contains(query, np.arange(5001) * 100).all()
    assert len(index._text) == len(protein)


def test_repeats() -> None:
    proteins = [b"N" * 5000, b"NA" * 3000, b"N" * 4999]
    queries = [b"N" * 100] * 50 + [b"AN" * 50] * 50 + [b"N" * 99 + b"A"] * 50 + [b"N" * 100 + b"K"] * 50
    assert contains(proteins, queries) == scanned(proteins, queries)


def test_texts_with_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of 1 makes every order of the same letters one hash; the answers stay right."""
    monkeypatch.setattr(contained, "_BASE", 1)
    monkeypatch.setattr(contained, "_INVERSE", 1)
    orders = [bytes(order) for order in itertools.permutations(b"ACDEF")]
    proteins = [orders[3] + b"K" + orders[80], orders[17]]
    assert contains(proteins, orders) == scanned(proteins, orders)
    assert sum(contains(proteins, orders)) == 3


def test_thue_morse_texts() -> None:
    """Such texts are what makes polynomial hashes modulo a power of two collide, whatever the base."""
    one, other = b"A", b"C"
    for _ in range(11):
        one, other = one + other, other + one
    assert contains([one], [other] * 5) == [other in one] * 5
    assert contains([one + one], [other] * 5) == [other in one + one] * 5


def test_x_matches_nothing_but_x() -> None:
    protein = b"MKVLAAGICHWWYNDE"
    assert contains([protein], [b"AAGXCH", b"AAGICH"] * 4) == [False, True] * 4
    assert contains([protein.replace(b"I", b"X")], [b"AAGXCH", b"AAGICH"] * 4) == [True, False] * 4


def test_zero_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        ContainmentIndex([b"AC\0D"])
    with pytest.raises(ValueError, match="zero byte"):
        contains([b"ACD"], [b"A\0"])


def test_frames_of_chunks() -> None:
    rng = np.random.default_rng(3)
    sequence = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), 60_000).tobytes()
    chunks = Chunking(90).cut(np.array([len(sequence)]))
    frames = open_frames([sequence], chunks)
    everything = [query.encode() for query in frames.proteins()]
    proteins = [b"".join(everything[at : at + 3]) for at in range(0, len(everything), 9)]
    found = ContainmentIndex(proteins).contains(frames.protein, frames.protein_offsets)
    assert found.tolist() == scanned(proteins, everything)
    assert 0.3 < found.mean() < 0.5
