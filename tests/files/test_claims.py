from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from vnp.errors import RunExistsError, StorageError, UsageError
from vnp.files import claims
from vnp.files import machine as memory
from vnp.files.claims import alone, alone_with, make_folder, require_apart, require_free
from vnp.files.durable import here, process_start
from vnp.files.machine import available_memory, cache_folder, peak_memory, settings_folder
from vnp.files.records import read_json, write_json


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    assert require_free(paths, force=False) == []
    for path in paths:
        path.touch()
    with pytest.raises(RunExistsError) as caught:
        require_free(paths, force=False)
    named = ", ".join(map(str, paths[:3]))
    assert str(caught.value) == f"{named} …: already there. Choose another --out, or --force to write anew"
    with pytest.raises(RunExistsError, match=r"a: not of this\. Go away$"):
        require_free(paths[:1], force=False, why="not of this", remedy="Go away")
    assert require_free(paths, force=True) == paths
    assert require_free(paths, force=False, ours=True) == paths


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    make_folder(folder)
    assert require_free([folder], force=False) == []
    (folder / "file").touch()
    with pytest.raises(RunExistsError):
        require_free([folder], force=False)
    with pytest.raises(StorageError, match="making"):
        make_folder(folder / "file" / "x")


def test_what_is_read_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    require_apart([tmp_path / "a"], [tmp_path / "b"], "no")
    with pytest.raises(UsageError, match="is read, and would be written over: no"):
        require_apart([tmp_path / "link"], [tmp_path / "a"], "no")


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        alone(tmp_path, "fetch"),
        pytest.raises(UsageError, match="another fetch is at work in"),
        alone(tmp_path, "fetch"),
    ):
        pass
    model = tmp_path / "new" / "model.pth"
    with alone_with(model, "training"):
        with pytest.raises(UsageError, match="another training is at work on"), alone_with(model, "training"):
            pass
        with alone_with(model.with_name("other.pth"), "training"):
            pass
    assert list(model.parent.iterdir()) == []


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none."""

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("no_locks")
class TestWithoutLocks:
    def test_one_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
        here = rf"\(process {os.getpid()} on {socket.gethostname()}\)"
        model = tmp_path / "model.pth"
        with alone(tmp_path, "fetch"), alone_with(model, "training"):
            with (
                pytest.raises(UsageError, match=f"another fetch is at work in .* {here}; wait"),
                alone(tmp_path, "fetch"),
            ):
                pass
            with pytest.raises(UsageError, match=f"training is at work on .* {here}"), alone_with(model, "training"):
                pass
            os.utime(tmp_path / ".fetch.lock", (0, 0))
            while (tmp_path / ".fetch.lock").stat().st_mtime == 0:
                pass
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("silent", [0, 100, 250])
    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_an_owner_that_died_is_followed(self, tmp_path: Path, silent: int, elsewhere: bool) -> None:
        """Here its process tells, elsewhere the time since its last sign of life."""
        dead = subprocess.Popen(["true"])
        dead.wait()
        lock = tmp_path / ".fetch.lock"
        own = {"host": "node3", "here": "node3-1" if elsewhere else here(), "process": dead.pid, "start": "5"}
        write_json(lock, own)
        os.utime(lock, (lock.stat().st_mtime - silent,) * 2)
        if elsewhere and silent < claims.SILENT_SECONDS:
            with pytest.raises(UsageError, match="node3"), alone(tmp_path, "fetch"):
                pass
            assert read_json(lock) == own
        else:
            with alone(tmp_path, "fetch"):
                assert read_json(lock)["process"] == os.getpid()
            assert list(tmp_path.iterdir()) == []

    def test_what_another_has_made_meanwhile_is_his(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of two that find an owner dead, the slower one finds the owner file of the faster one."""
        lock = tmp_path / ".fetch.lock"
        write_json(lock, {"here": here(), "process": 1 << 30, "start": "5"})
        living = {"host": "h", "here": here(), "process": os.getpid(), "start": process_start(os.getpid())}
        rename = Path.rename

        def late(path: Path, target: Path) -> Path:
            write_json(lock, living)
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", late)
        with pytest.raises(UsageError, match=f"process {os.getpid()} on h"), alone(tmp_path, "fetch"):
            pass
        assert read_json(lock) == living

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
    def test_an_owner_file_that_says_nothing_counts_by_its_age(self, tmp_path: Path, content: bytes) -> None:
        lock = tmp_path / ".fetch.lock"
        lock.write_bytes(content)
        with pytest.raises(UsageError, match="at work"), alone(tmp_path, "fetch"):
            pass
        os.utime(lock, (0, 0))
        with alone(tmp_path, "fetch"):
            pass


@pytest.mark.parametrize("ahead", [-7200, 0, 7200])
def test_the_clock_of_the_host_ends_nobodys_work(tmp_path: Path, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    living, dead = (tmp_path / f".a.h5.node3-1-{number}0000000.tmp" for number in (1, 2))
    for path in (living, dead):
        path.touch()
    os.utime(dead, (now() - 3700,) * 2)
    with alone(tmp_path, "fetch", ["a.h5"]):
        assert list(tmp_path.iterdir()) == [living]


def test_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "VNP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder("fp8") == tmp_path / ".cache/vnp/fp8"
    assert settings_folder() == tmp_path / ".config/vnp"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/y")
    assert (cache_folder("fp8"), settings_folder()) == (Path("/x/vnp/fp8"), Path("/y/vnp"))
    monkeypatch.setenv("VNP_CONFIG", "/z")
    assert settings_folder() == Path("/z")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        cache_folder("fp8")


def test_memory_is_told() -> None:
    peak, free = peak_memory(), available_memory()
    assert peak is not None
    assert peak > 0
    assert free is not None
    assert free > 0


class TestMemory:
    def test_a_control_group_leaves_what_is_not_used(self, tmp_path: Path) -> None:
        (tmp_path / "memory.max").write_text("1000\n")
        (tmp_path / "memory.current").write_text("900\n")
        (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 300\nactive_file 5\n")
        assert memory._group(tmp_path) == 400
        (tmp_path / "memory.max").write_text("max\n")
        assert memory._group(tmp_path) is None
        assert memory._group(tmp_path / "none") is None

    def test_the_least_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "_machine", lambda: 500)
        monkeypatch.setattr(memory, "_address_space", lambda: None)
        monkeypatch.setattr(memory, "_group_folders", lambda: [Path("/none")])
        assert memory.available_memory() == 500
        monkeypatch.setattr(memory, "_group", lambda folder: -3)
        assert memory.available_memory() == 0
        monkeypatch.setattr(memory, "_machine", lambda: None)
        monkeypatch.setattr(memory, "_group", lambda folder: None)
        assert memory.available_memory() is None
