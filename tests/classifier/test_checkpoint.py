from __future__ import annotations

import json
import pickle
import random
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.classifier.making import ENCODERS, LAYOUT
from vnp.classifier.calibration import Calibration
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.classifier import margins
from vnp.classifier.model import MLPClassifier
from vnp.errors import FeatureError, LayoutError, StorageError, UsageError
from vnp.features.layout import make_layout
from vnp.files.tensors import load_tensors, save_tensors
from vnp.metrics.presets import Preset


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(1)
    calibration = Calibration("isotonic", margins=(-1.0, 0.0, 2.0), probabilities=(0.1, 0.4, 0.9))
    about: dict[str, Any] = {"recipe": {"batch": 32}, "metrics": None}
    presets = {"default": Preset((500,), (0.75, 0.5), 0.99)}
    return Checkpoint(MLPClassifier(20).state_dict(), LAYOUT, ENCODERS, 300, calibration, 0.7, presets, training=about)


def test_it_comes_back_whole_and_without_pickles_that_run(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pth"
    checkpoint.write(path)
    assert torch.load(path, weights_only=True)["format"] == "vnp-classifier/1"
    again = Checkpoint.load(path)
    assert again.digest == checkpoint.digest
    for name in (
        "layout",
        "encoders",
        "chunk",
        "calibration",
        "threshold",
        "presets",
        "classes",
        "origin",
        "training",
    ):
        assert getattr(again, name) == getattr(checkpoint, name), name
    rows = np.random.default_rng(0).normal(size=(9, 20)).astype(np.float32)
    assert np.array_equal(again.scorer("cpu").logits(rows), checkpoint.scorer("cpu").logits(rows))


def test_its_bytes_depend_on_its_content_alone(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.write(tmp_path / "one.pth")
    checkpoint.write(tmp_path / "another name.pth")
    Checkpoint.load(tmp_path / "one.pth").write(tmp_path / "again.pth")
    assert len({path.read_bytes() for path in tmp_path.glob("*.pth")}) == 1
    replace(checkpoint, chunk=500).write(tmp_path / "other.pth")
    assert (tmp_path / "other.pth").read_bytes() != (tmp_path / "one.pth").read_bytes()


def test_probabilities_are_those_of_the_network_calibrated(checkpoint: Checkpoint) -> None:
    rows = np.random.default_rng(2).normal(size=(20_000, 20)).astype(np.float16)
    found = checkpoint.scorer("cpu").probability(rows)
    with torch.inference_mode():
        expected = torch.softmax(checkpoint.model()(torch.from_numpy(rows).float()), dim=1)[:, 1].numpy()
    odds = np.log(expected / (1 - expected))
    assert np.allclose(found, np.interp(odds, [-1, 0, 2], [0.1, 0.4, 0.9]), atol=1e-6)
    assert found.dtype == np.float64
    assert len(checkpoint.scorer("cpu").probability(rows[:0])) == 0


def test_one_of_before_presets_has_none(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.write(tmp_path / "model.pth")
    content = load_tensors(tmp_path / "model.pth")
    about = json.loads(content["about"])
    del about["presets"], about["layout"]["rows"]
    torch.save({**content, "about": json.dumps(about)}, tmp_path / "old.pth")
    old = Checkpoint.load(tmp_path / "old.pth")
    assert (old.presets, old.layout.rows, old.threshold) == ({}, "frames", 0.7)
    about["presets"] = {"default": {"lengths": [], "thresholds": [2.0], "specificity": 0.99}}
    torch.save({**content, "about": json.dumps(about)}, tmp_path / "odd.pth")
    with pytest.raises(FeatureError, match="default"):
        Checkpoint.load(tmp_path / "odd.pth")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_rows_logits_do_not_depend_on_the_others(checkpoint: Checkpoint, dtype: type) -> None:
    rows: Any = np.random.default_rng(3).normal(size=(2_500, 20)).astype(dtype)
    scorer = checkpoint.scorer("cpu")
    whole = scorer.logits(rows)
    for border in (1, 700, 1024, 1500):
        parts = [scorer.logits(rows[:border]), scorer.logits(rows[border:])]
        assert np.array_equal(np.concatenate(parts), whole)


def test_log_odds_are_of_the_sums_of_kinds() -> None:
    logits = np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    viral = share[:, 0] + share[:, 2]
    found = margins(logits, ("phage", "bacteria", "virus", "plasmid"), ("phage", "virus"))
    assert found == pytest.approx(np.log(viral / (1 - viral)), rel=1e-5)
    two = margins(logits[:, :2], ("host", "viral"), ("viral",))
    assert np.array_equal(two, logits[:, 1].astype(np.float64) - logits[:, 0])


def test_rows_that_do_not_fit_are_not_scored(checkpoint: Checkpoint) -> None:
    scorer = checkpoint.scorer("cpu")
    with pytest.raises(FeatureError, match="rows of 20"):
        scorer.logits(np.zeros((3, 21), np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        rows = np.zeros((3, 20), np.float16)
        rows[1, 4] = bad
        with pytest.raises(FeatureError, match="NaN or infinity"):
            scorer.logits(rows)
    with pytest.raises(UsageError, match="no device"):
        checkpoint.scorer("tpu")


def test_it_refuses_features_of_another_kind_and_names_both(checkpoint: Checkpoint) -> None:
    checkpoint.require(LAYOUT, ENCODERS, 300, "RUN")
    other = make_layout("full", dna=("kmer", 768), protein=("esm2_3b", 2560))
    with pytest.raises(LayoutError) as layout:
        checkpoint.require(other, ENCODERS, 300, "RUN")
    assert "20 = dna 8 (kmer)" in str(layout.value)
    assert "RUN has: 3328 = dna 768 (kmer) + protein 2560 (esm2_3b)" in str(layout.value)
    with pytest.raises(FeatureError, match=r"chunks of 300 bases, RUN has chunks of 500"):
        checkpoint.require(LAYOUT, ENCODERS, 500, "RUN")
    changed = {**ENCODERS, "protein": {**ENCODERS["protein"], "algorithm": "kmer-protein-2"}}
    with pytest.raises(FeatureError, match=r"(?s)protein encoders differ.*kmer-protein-1.*RUN has.*kmer-protein-2"):
        checkpoint.require(LAYOUT, changed, 300, "RUN")
    with pytest.raises(FeatureError, match="dna encoders differ"):
        checkpoint.require(LAYOUT, {}, 300, "RUN")


def test_precision_of_the_encoder_is_no_difference(checkpoint: Checkpoint) -> None:
    half = {part: {**identity, "precision": "fp16"} for part, identity in ENCODERS.items()}
    checkpoint.require(LAYOUT, half, 300, "RUN")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, checkpoint: Checkpoint, kept: float) -> None:
    path = tmp_path / "model.pth"
    checkpoint.write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(FeatureError, match=r"model\.pth: is no checkpoint of vnp, or a damaged one"):
        Checkpoint.load(path)


def test_a_file_of_the_future_says_so(tmp_path: Path) -> None:
    torch.save({"format": "vnp-classifier/2", "something": "new"}, tmp_path / "model.pth")
    with pytest.raises(FeatureError, match="format 2, this vnp reads format 1"):
        Checkpoint.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "content", [{}, [1], torch.zeros(3), {"format": "x"}, {"format": "vnp-classifier/one"}, {"format": 7}]
)
def test_other_tensors_are_no_checkpoint(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(FeatureError, match="no checkpoint"):
        Checkpoint.load(tmp_path / "model.pth")


@pytest.mark.parametrize("missing", ["about", "weights"])
def test_a_checkpoint_with_a_part_missing_is_damaged(tmp_path: Path, checkpoint: Checkpoint, missing: str) -> None:
    path = tmp_path / "model.pth"
    checkpoint.write(path)
    content = load_tensors(path)
    del content[missing]
    torch.save(content, path)
    with pytest.raises(FeatureError, match="damaged checkpoint"):
        Checkpoint.load(path)


def test_weights_of_another_shape_are_damage(tmp_path: Path, checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    weights["hidden.weight"] = weights["hidden.weight"][:, :7]
    replace(checkpoint, weights=weights).write(tmp_path / "model.pth")
    with pytest.raises(FeatureError, match="damaged checkpoint"):
        Checkpoint.load(tmp_path / "model.pth")


class Malicious:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self._marker)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", ["plain", "zip", "legacy"])
def test_nothing_in_a_foreign_pickle_runs(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "model.pth"
    if kind == "plain":
        path.write_bytes(pickle.dumps(Malicious(marker)))
    else:
        torch.save({"weights": Malicious(marker)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(FeatureError, match="nothing in it was run"):
        Checkpoint.load(path)
    assert not marker.exists()


def test_zip_archives_and_text_are_no_checkpoints(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/readme.txt", "hello")
    (tmp_path / "b.pth").write_text(">record\nACGT\n")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(FeatureError, match="no checkpoint of vnp"):
            Checkpoint.load(tmp_path / name)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.pth"):
        Checkpoint.load(tmp_path / "none.pth")


@pytest.mark.parametrize("sealed", [True, False])
def test_one_flipped_bit_is_found(tmp_path: Path, checkpoint: Checkpoint, sealed: bool) -> None:
    """Those of before there were digests are checked by the sums in the archive."""
    path = tmp_path / "model.pth"
    checkpoint.write(path)
    if not sealed:
        save_tensors(path, load_tensors(path), sealed=False)
    whole = path.read_bytes()
    choose = random.Random(5)
    noticed = 0
    for _ in range(60):
        content = bytearray(whole)
        content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        path.write_bytes(content)
        try:
            # What is left are bits that nobody reads, such as times and padding.
            assert contents(Checkpoint.load(path)) == contents(checkpoint)
        except FeatureError:
            noticed += 1
    assert noticed > 40


def contents(checkpoint: Checkpoint) -> tuple[object, ...]:
    return (checkpoint.digest, checkpoint.layout, checkpoint.encoders, checkpoint.metrics, checkpoint.calibration)


def test_a_digest_that_is_not_its_own_is_damage(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.write(tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    content["weights"]["hidden.bias"][0] += 1
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(FeatureError, match="a damaged one"):
        Checkpoint.load(tmp_path / "model.pth")


ABOUT = ("encoders", "chunk", "threshold", "origin", "training", "split", "metrics", "code", "layout", "classes",
         "calibration", "presets")  # fmt: skip


@pytest.mark.parametrize("name", ABOUT)
def test_fields_of_wrong_types_are_damage(tmp_path: Path, checkpoint: Checkpoint, name: str) -> None:
    path = tmp_path / "model.pth"
    checkpoint.write(path)
    content = load_tensors(path)
    about = json.loads(content["about"])
    right = type(about[name])
    for value in (None, "x", 7, -1, 0.5, [], [1], {}, {"a": 1}, True):
        if type(value) is right and value not in (-1, [1], {"a": 1}):
            continue
        if name in ("training", "split", "metrics") and isinstance(value, dict):
            continue
        save_tensors(path, {**content, "about": json.dumps({**about, name: value})})
        with pytest.raises(FeatureError, match="damaged checkpoint"):
            Checkpoint.load(path)
    wrong: tuple[object, ...] = (None, [], {"a": 1}, {"hidden.weight": "x"}, {1: torch.zeros(3)})
    for weights in wrong:
        save_tensors(path, {**content, "weights": weights})
        with pytest.raises(FeatureError, match="damaged checkpoint"):
            Checkpoint.load(path)
