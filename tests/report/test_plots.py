from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from tests.comparison.making import predictions
from vnp.errors import StorageError, UsageError
from vnp.report.plots import Series, as_svg, draw_confusion, draw_roc, figure, save, write_training_plots

HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1.1 / epoch, "validation_roc_auc": 1 - 0.4 / epoch}
    for epoch in range(1, 6)
]


def series(name: str, *, seed: int = 0) -> Series:
    label, probability, _ = predictions(3000, 30, seed=seed)
    return Series(name, label, probability)


def digests(paths: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_training_plots_are_whole_and_the_same_every_time(tmp_path: Path) -> None:
    shown = [series("test"), series("validation", seed=1)]
    first = digests(write_training_plots(tmp_path, HISTORY, shown, best_epoch=4))
    single = ("curves_loss", "curves_roc_auc", "roc", "precision_recall", "reliability")
    each = [f"{name}_{part}" for name in ("scores", "confusion") for part in ("test", "validation")]
    assert set(first) == {f"{name}.{suffix}" for name in (*single, *each) for suffix in ("svg", "png")}
    assert digests(write_training_plots(tmp_path, HISTORY, shown, best_epoch=4)) == first
    for name in (one for one in first if one.endswith(".svg")):
        text = (tmp_path / name).read_text()
        ElementTree.fromstring(text)
        assert "<dc:date>" not in text
    curve = (tmp_path / "curves_roc_auc.svg").read_text()
    assert all(text in curve for text in ("validation", "ROC-AUC", "best: 4"))
    assert not list(tmp_path.glob(".*"))


def test_a_png_is_the_same_every_time(tmp_path: Path) -> None:
    images = []
    for name in ("a.png", "b.png"):
        made, axes = figure(1, 1)
        draw_confusion(axes[0], series("test"))
        images.append(save(made, tmp_path / name).read_bytes())
    assert images[0] == images[1]
    assert images[0].startswith(b"\x89PNG")


def test_one_class_can_be_drawn(tmp_path: Path) -> None:
    only = Series("hosts", np.zeros(5, np.int8), np.linspace(0, 1, 5))
    assert len(write_training_plots(tmp_path, [], [only])) == 10


def test_a_million_points_make_a_small_file() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 200_000).astype(np.int8)
    made, axes = figure(1, 1)
    draw_roc(axes[0], [Series("many", label, random.random(200_000))])
    assert len(as_svg(made)) < 100_000


def test_where_a_plot_cannot_be_written(tmp_path: Path) -> None:
    made, _ = figure(1, 1)
    with pytest.raises(UsageError, match="pdf"):
        save(made, tmp_path / "a.pdf")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        save(made, tmp_path / "file" / "a.svg")
