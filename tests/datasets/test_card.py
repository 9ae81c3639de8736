from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.making import write_set
from vnp.datasets.build import build_dataset
from vnp.datasets.choosing._part import COUNTED
from vnp.datasets.choosing.candidates import read_lengths
from vnp.datasets.recipe import Recipe
from vnp.datasets.writing.card import chunk_lines, render_card

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("card")
    sheet = write_set(folder)
    with (folder / "h.gb").open("a") as file:
        file.write("LOCUS       BARE 900 bp    DNA     linear   BCT 01-JAN-2020\nCONTIG      join(X.1:1..900)\n//\n")
    recipe = Recipe(read_lengths("150,300"), per_group=20, balance="label", units="genome")
    return folder / "out", build_dataset(sheet, folder / "out", recipe).summary


def tables_of(card: str) -> dict[str, list[list[str]]]:
    """The tables of a card, by the title of their section."""
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for line in card.splitlines():
        if line.startswith("#"):
            title = line.strip("# ")
        elif line.startswith("|"):
            tables.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split(" | ")])
    return tables


def test_the_card_has_the_numbers_of_the_summary(made: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = made
    card = (folder / "dataset.md").read_text()
    assert card == render_card(summary)
    tables = tables_of(card)
    for rows in tables.values():
        assert len({len(row) for row in rows}) == 1
    chunks = {(row[0], row[1]): row[2:] for row in tables["Chunks"][2:]}
    for row in summary["counts"]:
        shown = chunks[row["organism_group"], row["length"]]
        assert shown == [f"{row[name]:,}" for name in COUNTED[:7]]
    for length in ("150", "300"):
        total = sum(row["kept"] for row in summary["counts"] if row["length"] == length)
        assert chunks["all", length][-1] == f"{total:,}"
    frames = tables["Frames"][2:]
    assert len(frames) == len(tables["Chunks"][2:])
    sample = tables["Sample"][2:]
    assert sum(int(row[2]) for row in sample) == summary["chunks"] == 40
    assert sum(int(row[3]) for row in sample) == summary["rows"]
    split = tables["Units and split"][2:]
    assert sum(int(row[2]) for row in split) == summary["units"] == 11
    assert sum(int(row[3]) for row in split) == summary["chunks"]
    files = {row[0]: row for row in tables["Files"][2:]}
    assert files["h.gb"][4:6] == ["6", "1"]
    for row in summary["files"]:
        assert row["sha256"] in card
    assert "| per group | 20 |" in card


def test_the_card_says_what_to_mind(made: tuple[Path, dict[str, Any]]) -> None:
    _, summary = made
    card = render_card(summary)
    assert "python -m jobs.dataset sheet.csv --out DIR --lengths 150,300" in card
    assert "BARE" in card
    assert "were dropped" in card
    assert "licence" in card
    assert "not genes" not in card
    settings = {**summary["settings"], "frames": "all", "keep_prophages": True, "prophages": "p.bed"}
    other = render_card({**summary, "settings": settings, "prophages_sha256": "abc"})
    assert "not genes" in other
    assert "were kept and are labelled host" in other
    assert "p.bed (SHA-256 abc)" in other
    assert "No list of prophage regions" not in other


def test_the_summary_is_json_and_names_no_place_or_time(made: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = made
    text = json.dumps(summary)
    assert json.loads(text) == summary
    assert str(folder.parent) not in text
    assert str(folder.parent) not in (folder / "dataset.md").read_text()


def test_every_genome_gives_alike(made: tuple[Path, dict[str, Any]]) -> None:
    _, summary = made
    viral = [row for row in summary["sample"] if row["organism_group"] == "viral"]
    assert [row["chunks"] for row in viral] == [10, 10]
    assert all(row["genomes"] == 5 and row["most_of_a_genome"] <= 3 for row in viral)


def test_lines_for_a_terminal(made: tuple[Path, dict[str, Any]]) -> None:
    _, summary = made
    lines = chunk_lines(summary)
    assert lines[0].split()[:3] == ["group,", "length", "chunks"]
    assert len(lines) == 1 + 2 * (4 + 1)
    assert lines[-1].split()[0] == "all"
    assert max(map(len, lines)) <= 80
