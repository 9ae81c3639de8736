"""How files come to their names: never open for writing under the final one, and on the disk before they get it."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.crash._run import Tiny, make_all, require_finished
from vnp.files.durable import creating, final_path, remove_temporaries, replacing, temporary_name

REPOSITORY = Path(__file__).resolve().parents[2]


def test_nothing_is_written_under_its_final_name(tiny: Tiny, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = room / "run"
    opened: list[str] = []
    hdf5: list[tuple[str, str, Any]] = []
    make_file, open_path, open_low = h5py.File.__init__, io.open, os.open

    def noted_file(self: h5py.File, name: Any, mode: str = "r", **options: Any) -> None:
        if isinstance(name, (str, Path)) and not (options.get("driver") == "core" and not options["backing_store"]):
            hdf5.append((str(name), mode, options.get("locking")))
        make_file(self, name, mode, **options)

    def noted_path(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if set(mode) & set("wxa+"):
            opened.append(os.fspath(path))
        return open_path(path, mode, *rest, **options)

    def noted_low(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            opened.append(os.fspath(path))
        return open_low(path, flags, *rest, **options)

    monkeypatch.setattr(h5py.File, "__init__", noted_file)
    monkeypatch.setattr(io, "open", noted_path)
    monkeypatch.setattr(os, "open", noted_low)
    make_all(tiny.ask(), root)
    monkeypatch.undo()
    require_finished(tiny, root)

    ours = [name for name in opened if name.startswith(str(root))]
    assert len(ours) > 10
    assert [name for name in ours if not name.endswith(".tmp")] == []
    assert {final_path(Path(name)).name for name in ours} >= {"run.json", "plan.h5", "features.h5", "skipped.tsv"}
    assert len(hdf5) > 10
    assert [call for call in hdf5 if call[1] != "r" and not call[0].endswith(".tmp")] == []
    assert [call for call in hdf5 if call[2] is not False] == []


def test_nothing_gets_its_name_before_its_bytes_are_on_the_disk(
    tiny: Tiny, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: dict[int, int] = {}
    named: list[tuple[str, bool]] = []
    owed: list[Path] = []

    def change_of(path: Any) -> tuple[int, int]:
        stat = os.stat(path)
        return stat.st_ino, stat.st_mtime_ns

    def noted_fsync(call: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            call(descriptor)
            inode, changed = change_of(descriptor)
            flushed[inode] = changed
            owed[:] = [folder for folder in owed if os.stat(folder).st_ino != inode]

        return fsync

    def noted_naming(call: Callable[..., None]) -> Callable[..., None]:
        def name(source: Any, target: Any, **options: Any) -> None:
            inode, changed = change_of(source)
            named.append((Path(target).name, flushed.get(inode) == changed))
            call(source, target, **options)
            owed.append(Path(target).parent)

        return name

    monkeypatch.setattr(os, "fsync", noted_fsync(os.fsync))
    monkeypatch.setattr(os, "link", noted_naming(os.link))
    monkeypatch.setattr(os, "replace", noted_naming(os.replace))
    make_all(tiny.ask(), room / "run")
    monkeypatch.undo()
    assert {"run.json", "plan.h5", "shard-00000.h5", "shard-00000.json", "features.h5", "skipped.tsv"} <= dict(
        named
    ).keys()
    assert [name for name, safe in named if not safe] == [], "named before they were flushed"
    assert owed == [], "folders whose new entries were never flushed"


def test_hdf5_files_are_opened_without_locks() -> None:
    """Lustre and network file systems without locks refuse HDF5's; each file that is opened says so itself."""
    found = 0
    for path in [*(REPOSITORY / "vnp").rglob("*.py"), *(REPOSITORY / "jobs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("h5py.File", "File"):
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if options.get("driver") == "'core'" and options.get("backing_store") == "False":
                    continue
                where = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                # The doctor tries what locks do here.
                assert options.get("locking") == "False" or (path.parent.name == "doctor" and "locking" in options), (
                    where
                )
                found += 1
    assert found > 5


@pytest.mark.parametrize("value", ["TRUE", "FALSE", "BEST_EFFORT"])
def test_works_whatever_the_environment_says_of_locks(tiny: Tiny, room: Path, value: str) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.crash._run import ask_for, make_all; "
        "make_all(ask_for(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": value, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, str(tiny.source), str(room / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    require_finished(tiny, room / "run")


def test_a_repeated_link_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS can send a request again whose answer was lost; the second one then finds the name taken, by us."""
    link = os.link

    def twice(source: Any, target: Any) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    with creating(tmp_path / "a") as temporary:
        temporary.write_text("ours")
    assert (tmp_path / "a").read_text() == "ours"
    with pytest.raises(FileExistsError), creating(tmp_path / "a") as temporary:
        temporary.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "ours"


def test_without_hard_links_the_first_still_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: Any, _target: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with creating(tmp_path / "a") as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), creating(tmp_path / "a") as temporary:
        temporary.write_text("second")
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_abandoned_temporaries_are_removed(tmp_path: Path) -> None:
    """A file that someone still writes stays: by its process on this machine, by its age where that cannot be seen."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    mine = temporary_name(tmp_path / "x.h5")
    of_dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    elsewhere, long_ago = tmp_path / ".x.h5.other-1-00000000.tmp", tmp_path / ".x.h5.other-2-00000000.tmp"
    for path in (mine, of_dead, elsewhere, long_ago):
        path.touch()
        assert final_path(path) == tmp_path / "x.h5"
    os.utime(long_ago, (0, 0))
    assert remove_temporaries(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere])


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
