from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.comparison.making import frames, write_features
from vnp.comparison._cases import align, read_table
from vnp.errors import FeatureError, InputError, LayoutError
from vnp.features.split import read_groups


def test_rows_are_matched_by_record_chunk_and_frame(tmp_path: Path) -> None:
    found = frames(6)
    values = np.arange(len(found) * 6, dtype=np.float32).reshape(-1, 6)
    first = read_table("a", write_features(tmp_path / "a.h5", found, values=values))
    second = read_table("b", write_features(tmp_path / "b.h5", found, values=values, order=[3, 0, 5, 1, 2, 4]))
    tables, same = align([first, second])
    assert same
    rows = [np.concatenate([w.values for w in table.features.windows()])[table.row] for table in tables]
    assert np.array_equal(rows[0], rows[1])
    assert tables[0].frames.names == tables[1].frames.names == found.names
    assert tables[0].frames.organism == found.organism


def test_another_chunk_size_shares_the_records_only(tmp_path: Path) -> None:
    first = read_table("a", write_features(tmp_path / "a.h5", frames(6)))
    second = read_table("b", write_features(tmp_path / "b.h5", frames(6, chunks=2), chunk=500))
    tables, same = align([first, second])
    assert not same
    assert len(tables[1].frames) < len(tables[0].frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["r0", "r1", "r2", "new"]}, r"1 records are only in a: r3\n  1 records are only in b: new"),
        ({"length": np.array([1000, 2000, 3000, 9])}, "1 records have another length: r3"),
        ({"label": np.array([0, 1, 1, 1], np.int8)}, "1 records have another label: r2"),
        ({"group": ["g0", "x", "g1", "g1"]}, "1 records have another group: r1"),
    ],
)
def test_other_records_are_refused_and_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    first = read_table("a", write_features(tmp_path / "a.h5", frames(4)))
    second = read_table("b", write_features(tmp_path / "b.h5", replace(frames(4), **change)))  # type: ignore[arg-type]
    with pytest.raises(FeatureError, match=message) as caught:
        align([first, second])
    assert "a and b are not over the same records" in str(caught.value)
    assert f"4 records of {tmp_path / 'b.h5'}" in str(caught.value)


def test_many_missing_records_are_counted_and_some_named(tmp_path: Path) -> None:
    first = read_table("a", write_features(tmp_path / "a.h5", frames(20)))
    second = read_table("b", write_features(tmp_path / "b.h5", frames(8)))
    with pytest.raises(FeatureError, match="12 records are only in a: r8, r9, r10, r11, r12 and 7 more"):
        align([first, second])


def test_unlabelled_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    found = replace(frames(4), label=np.array([0, 1, -1, 1], np.int8))
    table = read_table("a", write_features(tmp_path / "a.h5", found))
    assert table.unlabelled == 6
    assert set(table.frames.record.tolist()) == {0, 1, 3}
    none = replace(found, label=np.full(4, -1, np.int8))
    with pytest.raises(FeatureError, match="no row has a label"):
        read_table("a", write_features(tmp_path / "none.h5", none))


def test_groups_and_organisms_from_files(tmp_path: Path) -> None:
    features = write_features(tmp_path / "a.h5", frames(4))
    groups = {f"r{index}": f"unit{index % 2}" for index in range(4)}
    regrouped = features.regrouped(groups)
    table = read_table("a", regrouped, {"unit0": "plant", "r1": "phage", "unit1": "virus"})
    assert table.frames.group == ["unit0", "unit1", "unit0", "unit1"]
    assert table.frames.organism == ["plant", "phage", "plant", "virus"]
    assert regrouped.groups() == [f"unit{record % 2}" for record in range(4) for _ in range(6)]
    assert next(iter(regrouped.windows())).columns.group[-1] == regrouped.records().group[-1] == b"unit1"
    assert features.groups()[0] == "g0"
    with pytest.raises(InputError, match=r"2 of 4 records have no group of organisms in the file given: r1, r3"):
        read_table("a", regrouped, {"unit0": "plant"})
    with pytest.raises(InputError, match=r"3 of 4 records have no group in the file given"):
        features.regrouped({"r2": "x"})


def test_reading_names(tmp_path: Path) -> None:
    path = tmp_path / "names.tsv"
    path.write_text("record\tgroup\nr1\tg 1\n\nr2\tg2\nr1\tg 1\n")
    assert read_groups(path) == {"r1": "g 1", "r2": "g2"}
    for text, message in (
        ("r1 g1\n", "line 1: has 1 columns"),
        ("r1\tg1\nr1\tg2\n", "line 2: puts r1 into g2 and into g1"),
        ("r1\t\n", "line 1"),
        ("", "names no record"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_groups(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_groups(tmp_path / "absent.tsv")


def test_one_part_of_the_columns(tmp_path: Path) -> None:
    found = frames(4)
    values = np.arange(len(found) * 6, dtype=np.float32).reshape(-1, 6)
    features = write_features(tmp_path / "a.h5", found, values=values)
    protein = features.only("protein")
    assert (protein.width, [part.name for part in protein.layout.parts]) == (4, ["protein"])
    for read in (
        np.concatenate([window.values for window in protein.windows()]),
        np.concatenate([window for _, window in protein.stored_windows()]),
        protein.mapped(),
    ):
        assert np.array_equal(read, values[:, 2:])
    with pytest.raises(LayoutError, match="rna"):
        features.only("rna")
