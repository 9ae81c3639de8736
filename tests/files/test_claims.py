from __future__ import annotations

from pathlib import Path

import pytest

from vnp.errors import RunExistsError, StorageError, UsageError
from vnp.files import machine as memory
from vnp.files.claims import alone, alone_with, make_folder, require_apart, require_free
from vnp.files.machine import available_memory, cache_folder, peak_memory, resident_memory, settings_folder


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
    peak, now, free = peak_memory(), resident_memory(), available_memory()
    assert peak is not None
    assert now is not None
    assert free is not None
    assert 0 < now <= peak
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
