from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.features.tables import make_records, make_rows, make_skipped, write
from vnp.errors import FeatureError
from vnp.features import table
from vnp.features.hdf5 import WIDEST_FIXED
from vnp.features.table import (
    CONTENT,
    all_finite,
    content_digest,
    read_records,
    read_rows,
    read_skipped,
    require_schema,
    windows,
    write_table,
)

KEYS = [(4, 1, 0), (4, 1, 5), (4, 2, 3), (6, 1, 1)]


def assert_same(found: object, expected: object) -> None:
    for column in (field.name for field in dataclasses.fields(expected)):  # type: ignore[arg-type]
        there, here = getattr(found, column), getattr(expected, column)
        if isinstance(here, np.ndarray):
            assert there.dtype == here.dtype, column
            assert (there == here).all(), column
        else:
            assert there == here, column


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("r{}", id="short"),
        pytest.param("Bäcillus|φ{}/1", id="utf-8"),
        pytest.param("tab\\t{}", id="escape"),
        pytest.param("n" * 240 + "{}", id="251 bytes"),
        pytest.param("n" * 300 + "{}", id="300 bytes"),
        pytest.param("n" * 100_000 + "{}", id="100 kB"),
    ],
)
def test_round_trip(tmp_path: Path, name: str) -> None:
    skipped = [(4, 3, -1, "no open frame"), (5, 0, -1, "the record is empty")]
    path = write(tmp_path / "a.h5", KEYS, [4, 5, 6], name=name, skipped=skipped)
    with h5py.File(path, "r") as file:
        assert_same(read_rows(file), make_rows(KEYS, name))
        assert_same(read_records(file), make_records([4, 5, 6], name))
        assert_same(read_skipped(file), make_skipped(skipped))
        assert file["a"][:].tolist() == [[4, 1, 0, 5], [4, 1, 5, 10], [4, 2, 3, 9], [6, 1, 1, 8]]
        assert file.attrs["shard"] == 3
        assert file.attrs[CONTENT] == content_digest(file)
        require_schema(file, path)
        kind = file["ids"].dtype.kind
    longest = max(map(len, make_rows(KEYS, name).ids))
    assert kind == ("S" if longest <= WIDEST_FIXED else "O")


def test_windows_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", KEYS, [4, 5, 6])
    with h5py.File(path, "r") as file:
        assert read_rows(file, slice(1, 3)).ids == make_rows(KEYS[1:3]).ids
        assert read_records(file, slice(2, 3)).ordinal.tolist() == [6]


def test_empty_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", [], [])
    with h5py.File(path, "r") as file:
        assert len(read_rows(file)) == len(read_records(file)) == len(read_skipped(file)) == 0
        assert file["a"].shape == (0, 4)
        assert file.attrs[CONTENT] == content_digest(file)


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, KEYS, [4, 5, 6]) for name in ("first.h5", "other.h5"))
    assert first.read_bytes() == second.read_bytes()


def test_arrays_of_another_length_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="a has 3 rows, there are 4 ids"):
        write(tmp_path / "a.h5", KEYS, [4, 5, 6], arrays={"a": np.zeros((3, 2))})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    array = np.ones((4, 3), dtype)
    array[2, 1] = value
    with pytest.raises(FeatureError, match="a of r4_chunk_2R1 holds NaN or infinity"):
        write(tmp_path / "a.h5", KEYS, [4, 5, 6], arrays={"a": array})


def test_float16_is_told_finite_or_not() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for pattern in every[((every.view(np.uint16) & 0x7C00) >= 0x7800) | (every.view(np.uint16) % 97 == 0)]:
        one = np.array([[pattern]], np.float16)
        assert all_finite(one) == bool(np.isfinite(pattern))
    finite = every[np.isfinite(every)].reshape(-1, 2)
    assert all_finite(finite)
    assert all_finite(finite[:, ::2])
    assert all_finite(every[:0].reshape(0, 4))


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", KEYS, [4, 5, 6])
    with pytest.raises(FileExistsError):
        write(path, [], [])


def test_digest_covers_values_names_shapes_and_attributes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", KEYS, [4, 5, 6])
    seen = set()
    with h5py.File(path, "r+") as file:
        seen.add(content_digest(file))
        file["a"][1, 1] += 1
        seen.add(content_digest(file))
        file["records/name"][0] = b"x"
        seen.add(content_digest(file))
        file.attrs["shard"] = 4
        seen.add(content_digest(file))
        file.move("a", "b")
        seen.add(content_digest(file))
    assert len(seen) == 5


def test_other_schemas_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", KEYS, [4, 5, 6])
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = "vnp-features/0"
        with pytest.raises(FeatureError, match=r"of the format 'vnp-features/0'.*extract it again"):
            require_schema(file, path)
        del file.attrs["schema"]
        with pytest.raises(FeatureError, match="no vnp file"):
            require_schema(file, path)


def test_windows_cover_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 4)
    for first in range(6):
        for count in range(12):
            places = [place for window in windows(count, first) for place in range(window.start, window.stop)]
            assert places == list(range(first, count))


def test_a_table_is_written_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object) -> str:
        raise OSError("out of order")

    monkeypatch.setattr(table, "content_digest", fails)
    with pytest.raises(OSError, match="out of order"):
        write_table(
            tmp_path / "a.h5",
            rows=make_rows(KEYS),
            records=make_records([4, 5, 6]),
            skipped=make_skipped(),
            arrays={},
            attributes={},
        )
    assert not list(tmp_path.iterdir())
