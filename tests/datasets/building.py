"""A sheet of made-up genomes, and training sets of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.datasets.making import write_set
from vnp.datasets.build import Built, build_dataset
from vnp.datasets.choosing.candidates import read_lengths
from vnp.datasets.recipe import Recipe

FILES = {"dataset.fna.gz", "dataset.json", "dataset.md", "dataset.parquet"}


RECIPE = Recipe(read_lengths("150,300"), per_group=30, units="genome", seed=3)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    return write_set(tmp_path / "in")


def build(sheet: Path, out: Path, recipe: Recipe = RECIPE, **more: Any) -> Built:
    return build_dataset(sheet, out, recipe, **more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
