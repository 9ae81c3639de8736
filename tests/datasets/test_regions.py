from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnp.datasets.choosing._prophages import read_regions
from vnp.errors import InputError


def overlap(path: Path, record: str, start: int, end: int) -> bool:
    return bool(read_regions(path).overlaps(record, np.array([start]), np.array([end]))[0])


@pytest.fixture
def bed(tmp_path: Path) -> Path:
    path = tmp_path / "prophages.bed"
    path.write_text(
        '#chrom\tstart\tend\ntrack name="phages"\nbrowser position c1:1-2\n\n'
        "c1\t10\t20\tphage1\t960\t+\nc1\t100\t200\nc2 5 6\n"
    )
    return path


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 10, False), (0, 11, True), (19, 30, True), (20, 30, False), (12, 13, True), (0, 500, True), (15, 15, False)],
)
def test_any_shared_base_counts(bed: Path, start: int, end: int, expected: bool) -> None:
    assert overlap(bed, "c1", start, end) == expected


def test_records_are_told_apart(bed: Path) -> None:
    assert overlap(bed, "c2", 5, 6)
    assert not overlap(bed, "c2", 10, 20)
    assert not overlap(bed, "c3", 0, 1000)
    assert set(read_regions(bed).spans) == {"c1", "c2"}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 15)), max_size=12),
)
def test_is_what_counting_bases_says(regions: list[tuple[int, int]], stretches: list[tuple[int, int]]) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".bed") as file:
        file.write("".join(f"c\t{start}\t{start + size}\n" for start, size in regions))
        file.flush()
        found = read_regions(file.name).overlaps(
            "c", np.array([a for a, _ in stretches], dtype=np.int64), np.array([a + n for a, n in stretches], np.int64)
        )
    bases = {base for start, size in regions for base in range(start, start + size)}
    assert found.tolist() == [bool(bases & set(range(start, start + size))) for start, size in stretches]


def test_compressed_and_of_other_systems(tmp_path: Path) -> None:
    path = tmp_path / "a.bed.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfc1\t3\t5\r\nc1\t7\t9\r\n"))
    assert overlap(path, "c1", 8, 10)
    assert not overlap(path, "c1", 5, 7)


def test_empty_file_has_no_regions(tmp_path: Path) -> None:
    path = tmp_path / "a.bed"
    path.write_text("")
    assert not read_regions(path).spans
    assert not overlap(path, "c", 0, 9)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c1\t10", "line 2: is not BED"),
        ("c1\tten\t20", "line 2: is not BED"),
        ("c1\t-1\t20", "line 2: is not BED"),
        ("c1\t1.5\t20", "line 2: is not BED"),
        ("c1,10,20", "line 2: is not BED"),
        ("\t10\t20", "line 2: is not BED"),
        ("c1\t10\t99999999999999999999", "line 2: is not BED"),
        ("c1\t30\t20", "line 2: the region ends \\(20\\) before it starts \\(30\\)"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.bed"
    path.write_text(f"c1\t1\t2\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_regions(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_regions(tmp_path / "none.bed")
