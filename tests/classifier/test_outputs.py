"""What a training may write over, and what it leaves when it does not end well."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.classifier.making import both_classes, write_features
from vnp.classifier import train as module
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.recipe import VIRNUCPRO
from vnp.classifier.split import FILE_DIGEST, text_digest
from vnp.classifier.train import Training, Watcher, train
from vnp.errors import FeatureError, RunExistsError, UsageError
from vnp.features.read import Features, open_features
from vnp.files.claims import alone_with
from vnp.files.durable import here

CPU = torch.device("cpu")
TRAINING = Training(recipe=replace(VIRNUCPRO, epochs=2, rate=0.01))


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_training_plots", lambda *_: [])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "features.h5"}


@pytest.mark.parametrize("name", ["split.tsv", "log.jsonl", "metrics.json", "state.pth", "train.html"])
def test_a_file_beside_the_checkpoint_is_kept_unless_forced(features: Features, tmp_path: Path, name: str) -> None:
    mine = tmp_path / f"model.{name}"
    mine.write_text("mine")
    with pytest.raises(RunExistsError, match=rf"model\.{re.escape(name)}: there already.*--force"):
        train(features, tmp_path / "model.pth", TRAINING, CPU)
    assert contents(tmp_path) == {mine.name: b"mine"}
    train(features, tmp_path / "model.pth", TRAINING, CPU, force=True)
    assert not mine.exists() or mine.read_bytes() != b"mine"


def test_plots_are_kept_unless_forced(features: Features, tmp_path: Path) -> None:
    (tmp_path / "model.plots").mkdir()
    (tmp_path / "model.plots/mine.svg").write_text("mine")
    with pytest.raises(RunExistsError, match=r"model\.plots: there already"):
        train(features, tmp_path / "model.pth", TRAINING, CPU)
    train(features, tmp_path / "model.pth", TRAINING, CPU, force=True)


def test_another_ending_does_not_take_over_a_models_files(features: Features, tmp_path: Path) -> None:
    train(features, tmp_path / "model.pth", TRAINING, CPU)
    before = contents(tmp_path)
    with pytest.raises(RunExistsError, match="there already, and not of this training"):
        train(features, tmp_path / "model.ckpt", replace(TRAINING, seed=3), CPU)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_split_that_is_read_is_never_written_over(features: Features, tmp_path: Path, force: bool) -> None:
    train(features, tmp_path / "one.pth", TRAINING, CPU)
    given = tmp_path / "two.split.tsv"
    given.write_bytes((tmp_path / "one.split.tsv").read_bytes() + b"more\ttrain\n")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is read, and would be written over: choose another --out"):
        train(features, tmp_path / "two.pth", replace(TRAINING, split=given), CPU, force=force)
    (tmp_path / "two.pth").symlink_to(features.path)
    with pytest.raises(UsageError, match="is read, and"):
        train(features, tmp_path / "two.pth", TRAINING, CPU, force=force)
    (tmp_path / "two.pth").unlink()
    assert contents(tmp_path) == before


def test_a_damaged_state_is_none_and_is_said(
    features: Features, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, state = tmp_path / "model.pth", tmp_path / "model.state.pth"
    with pytest.raises(KeyboardInterrupt):
        train(features, out, TRAINING, CPU, watcher=Watcher(epoch=stop))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with pytest.raises(RunExistsError, match=r"model\.state\.pth: there already"):
        train(features, out, replace(TRAINING, seed=1), CPU)
    assert train(features, out, TRAINING, CPU).fitted.resumed_after == 0
    assert "model.state.pth is damaged" in caplog.text
    assert "training begins anew" in caplog.text


def stop(_history: list[dict[str, Any]]) -> None:
    raise KeyboardInterrupt


def test_a_stopped_training_goes_on_and_another_does_not_take_its_files(features: Features, tmp_path: Path) -> None:
    out = tmp_path / "model.pth"
    with pytest.raises(KeyboardInterrupt):
        train(features, out, TRAINING, CPU, watcher=Watcher(epoch=stop))
    assert set(contents(tmp_path)) == {"model.split.tsv", "model.log.jsonl", "model.state.pth"}
    with pytest.raises(RunExistsError, match=r"model\.state\.pth: there already"):
        train(features, out, replace(TRAINING, seed=1), CPU)
    assert train(features, out, TRAINING, CPU).fitted.resumed_after == 1


def test_a_training_of_another_machine_is_begun_anew_without_force(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(module, "versions", lambda: {"vnp": "0"})
        with pytest.raises(KeyboardInterrupt):
            train(features, tmp_path / "model.pth", TRAINING, CPU, watcher=Watcher(epoch=stop))
    assert train(features, tmp_path / "model.pth", TRAINING, CPU).fitted.resumed_after == 0


def test_without_resume_it_begins_anew(features: Features, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(features, tmp_path / "model.pth", TRAINING, CPU, watcher=Watcher(epoch=stop))
    assert train(features, tmp_path / "model.pth", TRAINING, CPU, resume=False).fitted.resumed_after == 0


@pytest.mark.parametrize("failing", ["write_json", "write_training_plots"])
def test_the_checkpoint_comes_last(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Stopped before metrics or plots are whole, it is finished by the same command."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(module, failing, fail)
        with pytest.raises(KeyboardInterrupt):
            train(features, tmp_path / "model.pth", TRAINING, CPU)
    assert not (tmp_path / "model.pth").exists()
    done = train(features, tmp_path / "model.pth", TRAINING, CPU)
    assert done.fitted.resumed_after == 2
    assert set(contents(tmp_path)) == {
        "model.pth", "model.split.tsv", "model.log.jsonl", "model.metrics.json", "model.train.html",
        "ro-crate-metadata.json",
    }  # fmt: skip


def test_half_written_files_of_killed_trainings_are_removed(features: Features, tmp_path: Path) -> None:
    gone = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    left, other = (tmp_path / f".{name}.pth.{here()}-{gone}-01234567.tmp" for name in ("model", "other"))
    for path in (left, other):
        path.write_text("half")
    train(features, tmp_path / "model.pth", TRAINING, CPU)
    assert (left.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize("force", [False, True])
def test_two_at_once_on_the_same_files(features: Features, tmp_path: Path, force: bool) -> None:
    refused: list[str] = []

    def second(_summary: object) -> None:
        with pytest.raises(UsageError) as caught:
            train(features, tmp_path / "model.pth", TRAINING, CPU, force=force)
        refused.append(str(caught.value))
        train(features, tmp_path / "other.pth", TRAINING, CPU)

    train(features, tmp_path / "model.pth", TRAINING, CPU, watcher=Watcher(dealt=second))
    assert re.match(r"another training is at work on .*model\.pth; wait for it", refused[0])
    assert not list(tmp_path.glob(".*")), "the lock is gone"


def test_a_lock_that_a_killed_training_left_holds_nobody_up(features: Features, tmp_path: Path) -> None:
    (tmp_path / ".model.lock").touch()
    train(features, tmp_path / "model.pth", TRAINING, CPU)
    assert not (tmp_path / ".model.lock").exists()


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, whoever held it has removed it, and a third has made a new one."""
    import fcntl

    out, path = tmp_path / "model.pth", tmp_path / ".model.lock"
    flock: Callable[[int, int], None] = fcntl.flock
    removed: list[int] = []

    def remove_first(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(descriptor)
            path.unlink()
            path.touch()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    first, second = alone_with(out, "training"), alone_with(out, "training")
    with first, pytest.raises(UsageError, match="another training"), second:
        pass
    assert not path.exists()


def test_nothing_is_left_of_a_training_that_is_refused(tmp_path: Path) -> None:
    import h5py

    path = write_features(tmp_path / "features.h5", groups=both_classes(4, 4))
    with h5py.File(path, "r+") as file:
        file["features"][3, 2] = np.nan
    with pytest.raises(FeatureError, match="is damaged: features of rows 0 to 32"):
        train(open_features(path), tmp_path / "model.pth", TRAINING, CPU)
    assert not contents(tmp_path)


def test_the_checkpoint_says_which_split_was_written(features: Features, tmp_path: Path) -> None:
    train(features, tmp_path / "model.pth", TRAINING, CPU)
    split = Checkpoint.load(tmp_path / "model.pth").split
    assert split[FILE_DIGEST] == text_digest((tmp_path / "model.split.tsv").read_text())


@pytest.mark.parametrize("seed", [-1, 2**63, 10**23])
def test_a_seed_that_no_training_can_take(seed: int) -> None:
    with pytest.raises(UsageError, match="the seed is"):
        Training(seed=seed)
    assert Training(seed=2**63 - 1).seed == 2**63 - 1
