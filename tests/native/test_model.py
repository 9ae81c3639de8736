"""The bundled model: whole, small, and able to tell what it should."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vnp.errors import WeightsError
from vnp.finetune.folder import CONFIG, METRICS, WEIGHTS, read_folder
from vnp.metrics.presets import SPECIFICITIES
from vnp.native.model import FOLDER, WEIGHTS_SHA256, load_native


def test_weights_are_small_and_the_ones_that_were_measured() -> None:
    assert (FOLDER / WEIGHTS).stat().st_size <= 20_000_000
    config = json.loads((FOLDER / CONFIG).read_text())
    assert config["weights_sha256"] == WEIGHTS_SHA256
    presets = load_native().presets
    assert set(presets) == set(SPECIFICITIES)
    lengths = np.array([100, 300, 500, 1000, 3000, 10_000, 100_000])
    assert (presets["relaxed"].of(lengths) <= presets["default"].of(lengths)).all()
    assert (presets["default"].of(lengths) >= 0.5).all()
    assert (presets["default"].of(lengths) <= presets["conservative"].of(lengths)).all()


def test_metrics_are_what_the_card_promises() -> None:
    metrics = json.loads((FOLDER / METRICS).read_text())
    wanted = {"1": [0.84, 0.92, 0.96, 0.98, 0.995, 0.998], "2": [0.0, 0.0, 0.91, 0.94, 0.96, 0.97]}
    for sample, floors in wanted.items():
        found = [metrics["windows"][sample][str(length)]["roc_auc"] for length in (150, 300, 500, 1000, 3000, 10000)]
        assert all(value >= floor for value, floor in zip(found, floors, strict=True)), found


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    for name in (WEIGHTS, CONFIG):
        shutil.copy(FOLDER / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    read_folder(tmp_path, weights_sha256=WEIGHTS_SHA256)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_folder(tmp_path)
    with pytest.raises(WeightsError, match="another training"):
        read_folder(FOLDER, weights_sha256="0" * 64)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "foreign"])
def test_what_came_with_vnp_and_is_damaged_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    shutil.copytree(FOLDER, tmp_path / "native")
    file = tmp_path / "native" / name
    content = file.read_bytes()
    middle = len(content) // 2
    file.unlink()
    if damage != "missing":
        file.write_bytes(
            {
                "short": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
                "foreign": b"{}",
            }[damage]
        )
    monkeypatch.setattr("vnp.native.model.FOLDER", tmp_path / "native")
    with pytest.raises(WeightsError, match=f"(?s){name}.*install vnp again"):
        load_native()
