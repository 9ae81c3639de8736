from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from tests.features.tables import make_rows, write
from vnp.errors import FeatureError, StorageError
from vnp.features import merge as module
from vnp.features import table
from vnp.features.hdf5 import allocate, extent
from vnp.features.merge import copy, merge, write_behind
from vnp.features.table import read_records, read_rows, read_skipped


def run(
    sources: list[Path], target: Path, arrays: dict[str, tuple[str, ...]] | None = None, **more: Any
) -> module.Merged:
    return merge(sources, target, arrays=arrays or {"a": ("a",)}, attributes={"kind": "merged"}, **more)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Record 1 is cut by a border; the second file has no row; record 3 has none."""
    return [
        write(tmp_path / "0.h5", [(0, 1, 0), (0, 1, 3), (1, 1, 2)], [0, 1], skipped=[(0, 2, -1, "no open frame")]),
        write(tmp_path / "1.h5", [], [1], skipped=[(1, 2, -1, "no open frame")]),
        write(tmp_path / "2.h5", [(1, 3, 0), (2, 1, 0)], [1, 2, 3], skipped=[(3, 0, -1, "the record is empty")]),
    ]


@pytest.mark.parametrize("at_once", [1, 2, 65_536])
def test_rows_stay_in_order_and_a_cut_record_is_there_once(
    tmp_path: Path, three: list[Path], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "ROWS_AT_ONCE", at_once)
    counted: list[int] = []
    merged = run(three, tmp_path / "m.h5", progress=counted.append)
    keys = [(0, 1, 0), (0, 1, 3), (1, 1, 2), (1, 3, 0), (2, 1, 0)]
    with h5py.File(tmp_path / "m.h5", "r") as file:
        rows, records, skipped = read_rows(file), read_records(file), read_skipped(file)
        assert rows.ids == make_rows(keys).ids
        assert rows.group == make_rows(keys).group
        for column in ("record", "chunk", "frame", "start", "end", "label"):
            assert getattr(rows, column).tolist() == getattr(make_rows(keys), column).tolist()
        assert records.ordinal.tolist() == [0, 1, 2, 3]
        assert skipped.record.tolist() == [0, 1, 3]
        assert file["a"][:].tolist() == [[r, c, f, r + c + f] for r, c, f in keys]
        content = table.content_digest(file)
        assert dict(file.attrs) == {"schema": table.SCHEMA, "kind": "merged", table.CONTENT: content}
    assert (merged.rows, merged.records) == (5, 4)
    assert merged.skipped == {"no open frame": 2, "the record is empty": 1}
    ids = [make_rows(part).ids for part in (keys[:3], [], keys[3:])]
    digests = [
        hashlib.sha256(b"".join(name + b"\n" for name in part)).hexdigest()
        for part in (*ids, [name for part in ids for name in part])
    ]
    assert [*merged.source_ids_sha256, merged.ids_sha256] == digests
    assert counted == [3, 0, 2]


def test_arrays_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 100)
    rng = np.random.default_rng(0)
    parts, sources = [], []
    for number in range(3):
        keys = [(number, chunk, 0) for chunk in range(1, 30 + number)]
        arrays = {
            name: rng.standard_normal((len(keys), width)).astype(np.float16) for name, width in (("x", 3), ("y", 5))
        }
        parts.append(arrays)
        sources.append(write(tmp_path / f"{number}.h5", keys, [number], arrays=arrays))
    merged = run(sources, tmp_path / "m.h5", {"both": ("y", "x"), "x": ("x",)})
    assert merged.widths == {"both": 8, "x": 3}
    with h5py.File(tmp_path / "m.h5", "r") as file:
        expected = np.concatenate([np.hstack([part["y"], part["x"]]) for part in parts])
        assert file["both"][:].tobytes() == expected.tobytes()
        assert file["x"][:].tobytes() == np.concatenate([part["x"] for part in parts]).tobytes()
        assert file["both"].dtype == np.float16


def test_merging_is_associative_and_deterministic(tmp_path: Path, three: list[Path]) -> None:
    run(three, tmp_path / "once.h5")
    run(three, tmp_path / "again.h5")
    assert (tmp_path / "once.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    run(three[:2], tmp_path / "left.h5")
    run([tmp_path / "left.h5", three[2]], tmp_path / "twice.h5")
    with h5py.File(tmp_path / "once.h5", "r") as once, h5py.File(tmp_path / "twice.h5", "r") as twice:
        assert table.content_digest(once) == table.content_digest(twice)


def test_long_names_in_one_source_make_the_column_variable(tmp_path: Path) -> None:
    short = write(tmp_path / "0.h5", [(0, 1, 0)], [0])
    long = write(tmp_path / "1.h5", [(1, 1, 0)], [1], name="ü" * 200 + "{}")
    run([short, long], tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r") as file:
        assert file["ids"].dtype.kind == "O"
        assert file["group"].dtype.kind == "S"
        assert read_rows(file).ids == make_rows([(0, 1, 0)]).ids + make_rows([(1, 1, 0)], "ü" * 200 + "{}").ids
        assert read_records(file).name == [b"r0", ("ü" * 200 + "1").encode()]


def test_widths_of_names_follow_the_widest_source(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{i}.h5", [(i, 1, 0)], [i], name="n" * (i * 40 + 1) + "{}") for i in range(4)]
    run(sources, tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r") as file:
        assert read_records(file).name == [b"n" * (i * 40 + 1) + b"%d" % i for i in range(4)]


def test_all_sources_empty(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{i}.h5", [], [i], skipped=[(i, 0, -1, "the record is empty")]) for i in range(2)]
    merged = run(sources, tmp_path / "m.h5")
    assert (merged.rows, merged.records, merged.skipped) == (0, 2, {"the record is empty": 2})
    with h5py.File(tmp_path / "m.h5", "r") as file:
        assert file["a"].shape == (0, 4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([(0, 1, 0), (1, 1, 4)], [(1, 1, 4)]),
        ([(0, 1, 0), (1, 2, 4)], [(1, 1, 5)]),
        ([(0, 1, 0), (0, 1, 0)], [(1, 1, 0)]),
        ([(1, 1, 0), (0, 1, 1)], [(1, 1, 1)]),
    ],
)
def test_rows_that_repeat_or_go_back_are_refused(
    tmp_path: Path, first: list[tuple[int, int, int]], second: list[tuple[int, int, int]]
) -> None:
    sources = [write(tmp_path / "0.h5", first, [0, 1]), write(tmp_path / "1.h5", second, [1])]
    with pytest.raises(FeatureError, match=r"the id '.*' is there twice or out of order") as caught:
        run(sources, tmp_path / "m.h5")
    assert caught.value.path in [str(source) for source in sources]


@pytest.mark.parametrize("second", [[2], [3, 4], [0]])
def test_records_that_are_missing_or_repeated_are_refused(tmp_path: Path, second: list[int]) -> None:
    first = [0] if second != [0] else [0, 1]
    sources = [write(tmp_path / "0.h5", [], first), write(tmp_path / "1.h5", [], second)]
    with pytest.raises(FeatureError, match="records are missing or repeated"):
        run(sources, tmp_path / "m.h5")


@pytest.mark.parametrize("array", [np.zeros((1, 5), np.float16), np.zeros((1, 4), np.float32)])
def test_other_widths_and_types_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    sources = [
        write(tmp_path / "0.h5", [(0, 1, 0)], [0]),
        write(tmp_path / "1.h5", [(1, 1, 0)], [1], arrays={"a": array}),
    ]
    with pytest.raises(FeatureError, match=r"1\.h5: a is \d wide of float\d\d, in 0\.h5 it is 4 wide of float16"):
        run(sources, tmp_path / "m.h5")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_row(
    tmp_path: Path, dtype: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 64)
    keys = [(1, chunk, 2) for chunk in range(1, 50)]
    arrays = {"a": np.ones((len(keys), 4), dtype)}
    sources = [write(tmp_path / "0.h5", [(0, 1, 0)], [0], arrays={"a": np.ones((1, 4), dtype)})]
    sources.append(write(tmp_path / "1.h5", keys, [1], arrays=arrays))
    with h5py.File(sources[1], "r+") as file:
        file["a"][36, 3] = value
        # As an earlier version wrote it: of what has checksums, its writer has looked.
        del file[table.CHECKSUMS], file.attrs[table.CONTENT]
    with pytest.raises(FeatureError, match="a of r1_chunk_37F3 holds NaN or infinity") as caught:
        run(sources, tmp_path / "m.h5")
    assert caught.value.path == str(sources[1])


@pytest.mark.parametrize("name", ["ids", "a", "frame", "group", "records/name", "skipped/reason"])
def test_a_source_whose_bytes_have_changed_is_refused(tmp_path: Path, three: list[Path], name: str) -> None:
    source = three[2]
    with h5py.File(source, "r") as file:
        place = file[name].id.get_offset()
    content = bytearray(source.read_bytes())
    content[place] ^= 1
    source.write_bytes(content)
    with pytest.raises(
        FeatureError, match=rf"2\.h5: is damaged: {name} of rows 0 to \d is not what was written"
    ) as caught:
        run(three, tmp_path / "m.h5")
    assert caught.value.path == str(source)


def test_a_source_is_the_one_that_was_noted(tmp_path: Path, three: list[Path]) -> None:
    contents = []
    for source in three:
        with h5py.File(source, "r") as file:
            contents.append(file.attrs[table.CONTENT])
    run(three, tmp_path / "m.h5", contents=contents)
    # Whole, but another.
    three[1].unlink()
    write(three[1], [], [1], skipped=[(1, 3, -1, "no open frame")])
    with pytest.raises(FeatureError, match=r"1\.h5: is not the file that was written"):
        run(three, tmp_path / "n.h5", contents=contents)
    with h5py.File(three[0], "r+") as file:
        del file.attrs[table.CONTENT], file[table.CHECKSUMS]
    with pytest.raises(FeatureError, match=r"0\.h5: is not the file that was written"):
        run(three, tmp_path / "o.h5", contents=contents)


def test_a_disk_without_room_is_noticed_before_writing(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_blocks=10, f_bavail=1, f_frsize=16))
    with pytest.raises(StorageError, match=r"disk: about 1 MB needed in .*, 1 MB free.*--ignore-disk"):
        run(three, tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()
    monkeypatch.setenv("VNP_IGNORE_DISK", "1")
    run(three, tmp_path / "m.h5")
    assert (tmp_path / "m.h5").exists()


def test_a_truncated_source_is_noticed(tmp_path: Path) -> None:
    keys = [(0, chunk, 0) for chunk in range(1, 5000)]
    source = write(tmp_path / "0.h5", keys, [0])
    with h5py.File(source, "r") as file:
        place = extent(source, file["a"])
    target = tmp_path / "m.h5"
    with h5py.File(target, "x") as file:
        made = extent(target, allocate(file, "a", place.rows, place.width, place.dtype))
    os.truncate(source, place.offset + place.rows * place.row_bytes - 1)
    with pytest.raises(FeatureError, match=r"0\.h5: ends in the middle of its data"):
        copy([place], made, 0)


def test_chunked_and_other_arrays_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "x") as file:
        file.create_dataset("a", data=np.zeros((4, 4)), chunks=(2, 4))
        file.create_dataset("b", data=np.zeros(4))
        for name in ("a", "b"):
            with pytest.raises(FeatureError, match=f"{name} is not a contiguous table of numbers"):
                extent(tmp_path / "a.h5", file[name])


def test_write_behind_tells_of_a_flush_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a"
    path.touch()
    with write_behind(path) as nudge:
        nudge()
        nudge()
    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(OSError, match="No space"), write_behind(path) as nudge:
        nudge()


def test_attributes_may_be_long(tmp_path: Path, three: list[Path]) -> None:
    long = "provenance " * 20_000
    merge(three, tmp_path / "m.h5", arrays={"a": ("a",)}, attributes={"provenance": long})
    with h5py.File(tmp_path / "m.h5", "r") as file:
        assert file.attrs["provenance"] == long
