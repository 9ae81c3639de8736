"""What disk a command needs is said before it starts, and refused where there is less."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.classifier.making import both_classes, write_features
from tests.jobs.commands import SAMPLE, call, calls, clean, extract
from vnp.errors import StorageError
from vnp.files.machine import require_room
from vnp.runs.request import Run

TINY = SimpleNamespace(f_blocks=100, f_bavail=1, f_frsize=4096)


def test_what_is_needed_and_what_is_free_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=10**7, f_bavail=3 * 10**6, f_frsize=1000))
    folder = tmp_path / "not/there"
    assert require_room(folder, 2.96e9) == f"disk: about 3.0 GB needed in {folder}, 3.0 GB free"
    assert require_room(folder, 12.1e6) == f"disk: about 13 MB needed in {folder}, 3.0 GB free"
    with pytest.raises(StorageError, match=r"about 3\.1 GB needed"):
        require_room(folder, 3.1e9)
    # A file system that does not say how large it is.
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=1000))
    require_room(folder, 1e12)


def test_shards_are_not_begun_on_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: TINY)
        refused = extract(SAMPLE, "--out", out)
        assert (refused.exit_code, "--ignore-disk" in clean(refused)) == (1, True)
        assert not list((out / "shards").iterdir())
        assert extract(SAMPLE, "--out", out, "--ignore-disk").exit_code == 0
        assert os.environ.pop("VNP_IGNORE_DISK") == "1"
        # All is made: nothing more is needed, and the merging needs some.
        assert "disk" not in extract(SAMPLE, "--out", out).stderr
        assert call("reduce", out).exit_code == 1
    made = sum(path.stat().st_size for path in (out / "shards").iterdir())
    run = Run.open(out)
    rows = run.request.totals.rows
    assert run.request.room(rows) == pytest.approx(made, rel=0.2)
    assert "disk: about" in call("reduce", out).stderr
    assert run.request.room(rows, "1664") == pytest.approx((out / "features.h5").stat().st_size, rel=0.2)


@pytest.mark.parametrize("name", ["export", "train"])
def test_so_are_features(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = write_features(tmp_path / "features.h5", groups=both_classes())
    words = ("--format", "npz", "--out", tmp_path / "made") if name == "export" else ("--out", tmp_path / "made/m.pth")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=100, f_bavail=0, f_frsize=1))
    refused = call(name, features, *words)
    assert (refused.exit_code, "needed in" in clean(refused)) == (1, True)
    assert not [path for path in (tmp_path / "made").rglob("*") if not path.name.startswith(".")]


def test_predictions_need_little(tmp_path: Path) -> None:
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 5000))
    (tmp_path / "a.fa").write_text(f">a\n{bases}\n")
    done = calls(tmp_path / "a.fa", "--out", tmp_path / "calls")
    assert f"disk: about 1 MB needed in {tmp_path / 'calls'}, " in done.stderr
