"""Commands that are ended at random moments and given again end in the same bytes; more of it in the measurement."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.kills import Bench, make_world, trials


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    make_world(root)
    return root


@pytest.mark.parametrize("name", ["reduce", "export pt", "convert"])
def test_the_same_bytes_in_the_end(world: Path, name: str) -> None:
    bench = Bench(world, name)
    outcomes = [outcome for _, outcome in trials(bench, (3, 1, 1), random.Random(name))]
    assert set(outcomes) <= {"same", "left over"}, outcomes


def test_what_is_different_is_found(world: Path) -> None:
    """Else nothing of this could fail."""
    bench = Bench(world, "export npz")
    (world / "run/features.h5").rename(world / "run/kept.h5")
    try:
        assert next(trials(bench, (1, 0, 0), random.Random(1)))[1] in ("refused", "different")
    finally:
        (world / "run/kept.h5").rename(world / "run/features.h5")
