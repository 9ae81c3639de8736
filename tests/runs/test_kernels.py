from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from vnp.runs.making.encoders import VARIABLE, share_kernels
from vnp.runs.request import RunPaths


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_the_user_s_cache_is_shared_by_runs(tmp_path: Path) -> None:
    expected = tmp_path / "cache" / "vnp" / "kernels"
    assert share_kernels(RunPaths(tmp_path / "run")) == expected
    assert os.environ[VARIABLE] == str(expected)
    assert expected.is_dir()
    assert not (tmp_path / "run").exists()


def test_without_a_home_the_run_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert share_kernels(RunPaths(tmp_path / "run")) == tmp_path / "run" / "kernels"
    assert os.environ[VARIABLE] == str(tmp_path / "run" / "kernels")


@pytest.mark.parametrize("shared", ["cache/vnp/kernels", "cache/vnp", "cache"])
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_where_others_can_put_kernels_none_are_run(shared: str, mode: int, tmp_path: Path) -> None:
    (tmp_path / "cache/vnp/kernels").mkdir(parents=True, mode=0o700)
    (tmp_path / shared).chmod(mode)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o775)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    expected = temporary / f"vnp-kernels-{os.getuid()}"
    assert share_kernels(RunPaths(tmp_path / "run")) == expected
    assert expected.stat().st_mode & 0o777 == 0o700


def test_what_the_user_chose_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert share_kernels(RunPaths(tmp_path / "run")) == tmp_path / "mine"
    assert os.environ[VARIABLE] == str(tmp_path / "mine")


def test_where_nothing_can_be_written_nothing_is_set(tmp_path: Path) -> None:
    for name in ("cache", "run", "temporary"):
        (tmp_path / name).write_text("no folder")
    assert share_kernels(RunPaths(tmp_path / "run")) is None
    assert os.environ[VARIABLE] == ""
