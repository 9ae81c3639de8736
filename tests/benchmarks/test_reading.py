"""What digests add to reading is measured on the reading itself: what is timed without them notices nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.reading import measure, readings
from tests.jobs.commands import clean
from tests.jobs.commands import measure as command
from vnp.errors import VnpError


def test_with_digests_damage_is_noticed_and_without_it_is_not(tmp_path: Path) -> None:
    files = [tmp_path / "run" / "features.h5", tmp_path / "contigs.fna"]
    for name, checked, plain in readings(tmp_path, 300, 20_000):
        checked()
        # A run whose shard is damaged is not what it was afterwards.
        if name == "shards, reduce":
            continue
        _flip(files)
        with pytest.raises(VnpError):
            checked()
        plain()
        _flip(files)


def _flip(files: list[Path]) -> None:
    """A bit in each of the rows in the middle, since an epoch takes a few of them, and in the letters."""
    for path in files:
        if path.exists():
            content = bytearray(path.read_bytes())
            for place in range(len(content) // 4, len(content) * 3 // 4, 2 * 1664):
                content[place] ^= 1
            path.write_bytes(content)


def test_medians_of_pairs() -> None:
    assert np.isfinite(measure(lambda: sum(range(20_000)), lambda: sum(range(10_000)), 3)).all()


def test_the_command() -> None:
    done = command("reading", "--rows", 300, "--bases", 20_000, "--rounds", 1, "--json")
    assert done.exit_code == 0, clean(done)
    figures = json.loads(done.stdout)
    assert {name for name in figures if name.endswith("%")} == {
        f"{name}: cost, %"
        for name in ("features, export", "features, train", "streamed epoch", "shards, reduce", "input, task")
    }
