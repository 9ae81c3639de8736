from __future__ import annotations

from pathlib import Path

from benchmarks.flips import flip_each, make_products


def test_no_flip_of_any_file_is_used(tmp_path: Path) -> None:
    """A small version of the measurement; every file is flipped at least where one flip in four would be noticed."""
    seen = {product.name: flip_each(product, 6, 1) for product in make_products(tmp_path)}
    named = {"features.h5", "model.pth", "training state", "plan.h5", "predictions.tsv", "export, pt", "dataset.md"}
    assert named <= seen.keys()
    for name, counts in seen.items():
        assert counts["detected"] + counts["harmless"] == 6, (name, counts)
        assert counts["detected"] > 0, name
