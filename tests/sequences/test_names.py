from __future__ import annotations

import errno
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnp.errors import StorageError
from vnp.sequences.names import NameCheck


def groups_of(names: list[str]) -> list[tuple[int, ...]]:
    places = defaultdict(list)
    for ordinal, name in enumerate(names):
        places[name].append(ordinal)
    return sorted((tuple(group) for group in places.values() if len(group) > 1), key=lambda group: group[1])


@pytest.mark.parametrize("in_memory", [10_000, 7])
@given(names=st.lists(st.text("abc", max_size=4), max_size=60), step=st.integers(1, 20))
def test_repeated_names_are_found(in_memory: int, names: list[str], step: int) -> None:
    with NameCheck(in_memory=in_memory, limit=1000) as check:
        for first in range(0, len(names), step):
            check.add(names[first : first + step])
        assert check.suspects() == groups_of(names)


def test_many_names_over_many_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [f"read.{index}" for index in range(50_000)]
    names[49_999] = names[12]
    names[30_001] = names[30_000]
    with NameCheck(in_memory=3_000) as check:
        for first in range(0, len(names), 1_000):
            check.add(names[first : first + 1_000])
        found = check.suspects()
    assert found == [(30_000, 30_001), (12, 49_999)]
    assert list(tmp_path.iterdir()) == []


def test_names_that_share_a_hash_are_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnp.sequences.names.hash", len, raising=False)
    names = ["aa", "bb", "c", "bb"]
    with NameCheck() as check:
        check.add(names)
        found = check.suspects()
    assert found == [(0, 1, 3)]


def test_a_file_in_which_all_names_are_the_same_stays_cheap() -> None:
    with NameCheck(in_memory=1_000, limit=10) as check:
        for _ in range(100):
            check.add(["read"] * 500)
        found = check.suspects()
    assert found[0][:2] == (0, 1)
    assert len(found[0]) <= 10


def test_a_full_disk_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with NameCheck(in_memory=2) as check, pytest.raises(StorageError, match="no space left"):
        check.add(["a", "b", "c"])
