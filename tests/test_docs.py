"""What the pages say of files is true of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from vnp.features.table import PARTS
from vnp.prediction.tables import CHUNKS, FRAMES, PREDICTIONS

PAGE = (Path(__file__).resolve().parent.parent / "docs/files.md").read_text()


def named(heading: str) -> list[str]:
    """The names in the first cells of the table below a heading, or in its prose: everything in backquotes."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return re.findall(r"`([^`]+)`", " ".join(cells))


@pytest.mark.parametrize(
    ("heading", "columns"),
    [("### predictions.tsv", PREDICTIONS), ("### chunks.tsv", CHUNKS), ("### frames.tsv", FRAMES)],
)
def test_every_column_of_the_calls_is_explained_in_order(heading: str, columns: tuple[tuple[str, str], ...]) -> None:
    assert named(heading) == [column[0] for column in columns]


def test_every_dataset_of_features_is_explained() -> None:
    columns = {f"{group}/{field.name}".lstrip("/") for group, part in PARTS for field in fields(part)}
    assert set(named("### features.h5")) == columns | {"features"}
