from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vnp.datasets.choosing import candidates as lengths_module
from vnp.datasets.choosing.candidates import Lengths, read_lengths, tile
from vnp.errors import UsageError
from vnp.sequences.chunks import Chunking


def tiled(bases: int, text: str, name: str = "r", seed: int = 0) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for tiles in tile(bases, read_lengths(text), name=name, seed=seed):
        found.setdefault(tiles.length, []).extend(zip(tiles.start.tolist(), tiles.end.tolist(), strict=True))
    return found


def test_lengths_on_a_command_line() -> None:
    assert read_lengths("300") == Lengths((300,))
    assert read_lengths("500, 150,300") == Lengths((150, 300, 500))
    assert read_lengths("150-500") == Lengths((150, 500), is_range=True)
    assert str(read_lengths("500,150")) == "150,500"
    assert read_lengths("500,150").names == ("150", "500")
    assert read_lengths(" 150 - 500").names == ("150-500",)


@pytest.mark.parametrize("text", ["", "x", "300,", "29", "300,300", "500-150", "300-300", "-300", "1e3", "2000000"])
def test_lengths_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--lengths"):
        read_lengths(text)


def test_fixed_lengths_are_cut_as_virnucpro_cuts() -> None:
    for bases in (500, 1234, 10_001):
        found = tiled(bases, "150,300,500")
        for number, size in enumerate((150, 300, 500)):
            chunks = Chunking(size).cut(np.array([bases]))
            assert found[number] == list(zip(chunks.start.tolist(), chunks.end.tolist(), strict=True))


def test_no_chunk_comes_twice_in_short_records() -> None:
    for bases in range(1, 1100):
        found = [place for chunks in tiled(bases, "150,297,300,500").values() for place in chunks]
        assert len(found) == len(set(found)), bases
    assert tiled(100, "150,300,500") == {0: [(0, 100)], 1: [], 2: []}
    assert tiled(200, "150,300,500") == {0: [(0, 150), (99, 200)], 1: [(0, 200)], 2: []}


def test_a_range_covers_the_record_without_gaps() -> None:
    for bases in (1000, 4321, 100_000):
        places = tiled(bases, "150-500")[0]
        assert places[0][0] == 0
        assert places[-1][1] == bases
        assert all(150 <= end - start <= 500 for start, end in places)
        assert all(after[0] == before[1] for before, after in pairwise(places[:-1]))
        assert places[-1][0] <= places[-2][1]


def test_lengths_of_a_range_are_drawn_evenly() -> None:
    places = np.array(tiled(3_000_000, "150-500")[0])
    drawn = places[:-1, 1] - places[:-1, 0]
    assert {150, 500} <= set(drawn.tolist())
    assert abs(drawn.mean() - 325) < 5
    assert abs((drawn < 238).mean() - 0.25) < 0.03


def test_a_range_depends_on_record_and_seed() -> None:
    assert tiled(9000, "150-500") == tiled(9000, "150-500")
    assert tiled(9000, "150-500", seed=1) != tiled(9000, "150-500")
    assert tiled(9000, "150-500", name="s") != tiled(9000, "150-500")


def test_short_records_of_a_range_are_one_chunk() -> None:
    assert tiled(100, "150-500") == {0: [(0, 100)]}
    assert not any(tiled(0, text).get(0) for text in ("150-500", "150,300"))


@pytest.mark.parametrize("text", ["150,300", "150-300"])
def test_pieces_do_not_change_the_chunks(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiled(100_123, text)
    monkeypatch.setattr(lengths_module, "_PIECE_BASES", 1000)
    assert len(list(tile(100_123, read_lengths(text), name="r", seed=0))) > 100
    assert tiled(100_123, text) == whole
