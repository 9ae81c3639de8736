"""A set of ``.pt`` files is of one export, also if that is killed or the disk is full; then once more: the same."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest

# Loaded before anything is forked and counted.
import vnp.export.formats  # noqa: F401
from tests.crash._child import WRITING, Ended, Points, die, in_child
from tests.features.exports import write_features
from vnp.errors import RunExistsError
from vnp.export.export import export
from vnp.features.read import open_features

KILLS = 24
UNFINISHED = ".pt-unfinished"
OLD, NEW = 2, 3
"""Rows of a file: the old export has more files than the new one."""


def write(source: Path, folder: Path, rows: int, *, force: bool = False) -> None:
    export(open_features(source), "pt", folder, rows_per_file=rows, force=force)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def disturbed(source: Path, folder: Path, scratch: Path, points: Points, *, force: bool) -> Ended:
    def work() -> None:
        with points.watch():
            write(source, folder, NEW, force=force)

    return in_child(work, scratch)


@pytest.fixture(scope="module")
def source(memory: Path) -> Path:
    return write_features(memory / "exported" / "features.h5")


@pytest.fixture(scope="module")
def sets(source: Path) -> dict[int, dict[str, str]]:
    """The files of two exports, and their sums."""
    found = {}
    for rows in (OLD, NEW):
        folder = source.parent / str(rows)
        write(source, folder, rows)
        found[rows] = contents(folder)
    assert set(found[OLD]) > set(found[NEW])
    return found


def require_one_set(folder: Path, sets: dict[int, dict[str, str]], *, force: bool) -> bool:
    """What stands there is one export, or none, or is marked; whether it was marked."""
    found = {name: digest for name, digest in contents(folder).items() if name.endswith((".pt", ".sha256"))}
    whole = [sets[NEW], sets[OLD]] if force else [sets[NEW], {}]
    marked = (folder / UNFINISHED).exists()
    assert marked or found in whole, found
    return marked


@pytest.mark.parametrize("force", [False, True], ids=["first", "over another"])
def test_killed_at_a_call_that_changes_files(
    source: Path, sets: dict[int, dict[str, str]], force: bool, room: Path, scratch: Path
) -> None:
    counted = Points()
    with counted.watch():
        write(source, room / "counted", NEW)
    calls = len(counted.names) + force * len(sets[OLD])
    choose, marked, killed = random.Random(f"pt {force}"), 0, 0
    for number in range(KILLS):
        at = choose.randrange(number * calls // KILLS, (number + 1) * calls // KILLS)
        folder = room / f"pt{number}"
        folder.mkdir()
        if force:
            shutil.copytree(source.parent / str(OLD), folder, dirs_exist_ok=True)
        points = Points(at, die, after=choose.random() < 0.5)
        killed += disturbed(source, folder, scratch, points, force=force).signal == 9
        half = require_one_set(folder, sets, force=force)
        # One that was killed while files got their names goes on without --force.
        write(source, folder, NEW, force=not half and any(folder.glob("*.pt")))
        marked += half
        assert contents(folder) == sets[NEW]
        assert sorted(path.name for path in folder.iterdir()) == sorted(sets[NEW])
    assert killed > KILLS * 0.9
    assert marked > 0


def test_a_full_disk(source: Path, sets: dict[int, dict[str, str]], room: Path, scratch: Path) -> None:
    only = WRITING - {"fsync", "fdatasync"}
    counted = Points(only=only)
    with counted.watch():
        write(source, room / "counted", NEW)

    def fail(_name: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for at in range(len(counted.names)):
        folder = room / f"pt{at}"
        shutil.copytree(source.parent / str(OLD), folder)
        ended = disturbed(source, folder, scratch, Points(at, fail, lasting=True, only=only), force=True)
        assert ended.code == 1, ended
        assert ended.error.startswith("StorageError: "), ended
        assert "no space left on the disk" in ended.error
        write(source, folder, NEW, force=not require_one_set(folder, sets, force=True))
        assert contents(folder) == sets[NEW]


def test_an_unfinished_set_is_no_obstacle_and_a_finished_one_is(source: Path, room: Path) -> None:
    write(source, room / "pt", OLD)
    with pytest.raises(RunExistsError, match="already there"):
        write(source, room / "pt", NEW)
    (room / "pt" / UNFINISHED).mkdir()
    write(source, room / "pt", NEW)
    assert not (room / "pt" / UNFINISHED).exists()
