"""What the pages say of files, columns and commands is true of the code."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest

from jobs._cluster.executor import Job
from vnp.encoders import identity, load
from vnp.encoders import spec as encoder_specs
from vnp.encoders.spec import EncoderSpec, Family
from vnp.features.table import CHECKSUMS, PARTS
from vnp.prediction.tables import CHUNKS, FRAMES, PREDICTIONS, REGION_COLUMNS

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
PAGE = (REPOSITORY / "docs/files.md").read_text()


def named(heading: str) -> list[str]:
    """The names in the first cells of the table below a heading, or in its prose: everything in backquotes."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return re.findall(r"`([^`]+)`", " ".join(cells))


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("### predictions.tsv", PREDICTIONS),
        ("### chunks.tsv", CHUNKS),
        ("### frames.tsv", FRAMES),
        ("### regions.tsv", REGION_COLUMNS),
    ],
)
def test_every_column_of_the_calls_is_explained_in_order(heading: str, columns: Sequence[Any]) -> None:
    assert named(heading) == [column.name for column in columns]


def test_every_dataset_of_features_is_explained() -> None:
    columns = {f"{group}/{field.name}".lstrip("/") for group, part in PARTS for field in fields(part)}
    assert set(named("### features.h5")) == columns | {"features", CHECKSUMS}


def commands_shown(text: str) -> Iterator[list[str]]:
    """The words of every command in the code of a page, without its comment, led by the package that has it."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"(?m)^    .*$", "", text))
    for code in [line for line in text.splitlines() if line.startswith("    ")] + spans:
        for part in code.partition("#")[0].split(" && "):
            if found := re.match(r"(vnp |python -m jobs\.|python -m benchmarks )([a-z].*)", " ".join(part.split())):
                yield ["benchmarks" if "benchmarks" in found[1] else "jobs", *found[2].split()]


def command_of(package: str, name: str, *rest: str) -> tuple[click.Command | None, tuple[str, ...]]:
    """The command that the words begin with, and the words behind it."""
    if package == "benchmarks":
        group = importlib.import_module("benchmarks.__main__").main
        return group.get_command(click.Context(group), name), rest
    if not (REPOSITORY / "jobs" / f"{name}.py").exists():
        return None, rest
    command = importlib.import_module(f"jobs.{name}").main
    if isinstance(command, click.Group):
        return command.commands.get(rest[0]), rest[1:]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist_with_their_options(page: Path) -> None:
    for words in commands_shown(page.read_text()):
        command, rest = command_of(*words)
        assert command is not None, f"{page.name}: {' '.join(words)}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known | {"--help"}, f"{page.name}: {' '.join(words)}"


def test_commands_are_found_in_pages() -> None:
    found = [".".join(words[:2]) for page in PAGES for words in commands_shown(page.read_text())]
    assert {"jobs.extract", "jobs.predict", "jobs.benchmark", "benchmarks.frames"} <= set(found)
    assert len(found) > 60


def test_the_page_of_the_house_names_what_is_there() -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text()
    named = set(re.findall(r"`((?:vnp|jobs|benchmarks|tests|docs)/[\w./]*)`", page))
    said = named | set(re.findall(r"`((?:vnp|jobs|benchmarks|tests|docs)/[\w./]*)`", CONTRIBUTING))
    examples = {"vnp/encoders/models/composition.py", "jobs/_cluster/background.py"}
    assert {path for path in said if not (REPOSITORY / path).exists()} == examples
    rooms = [path for path in (REPOSITORY / "vnp").iterdir() if (path / "__init__.py").exists()]
    assert {f"vnp/{room.name}/" for room in rooms} <= named


def example(name: str) -> str:
    """A worked example of CONTRIBUTING.md."""
    (found,) = re.findall(rf"<!-- example: {name} -->\n```python\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
    return str(found)


def load_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (folder / name).write_text(example(name))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(REPOSITORY)]))
    return importlib.import_module(name.removesuffix(".py"))


def test_the_example_of_an_encoder_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("composition", "composition", "composition:CompositionEncoder", "spectrum")
    entry = EncoderSpec("composition", "protein", 20, family, algorithm="composition-1")
    monkeypatch.setattr("vnp.encoders.spec._ALL", (*encoder_specs._ALL, entry))
    load_example("composition.py", tmp_path, monkeypatch)
    encoder = load("composition")
    assert encoder.embed(["MKKV", ""]).tolist() == [[0.5 * (x == "K") + 0.25 * (x in "MV") for x in RESIDUES], [0] * 20]
    assert identity(encoder)["algorithm"] == "composition-1"


def test_the_example_of_a_scheduler_runs_what_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = load_example("background.py", tmp_path, monkeypatch).Background()
    first = scheduler.submit(Job(tmp_path, "shards", os.path.join, shards=(), arguments=("x",)))
    job = Job(tmp_path, "shown", os.path.join, arguments=("x",), after=tuple(first))
    (found,) = scheduler.submit(job)
    assert [(one.id, one.shard) for one in scheduler.state(tmp_path)] == [(found, None)]
    os.waitpid(int(found), 0)
    assert scheduler.state(tmp_path) == []
    assert (tmp_path / "logs" / scheduler.log(found, None)).read_text() == f"{tmp_path}/run.json/x\n"
    scheduler.cancel([found])


def test_the_example_of_a_column_has_values() -> None:
    (added,) = re.findall(r"^\+ *(Column\(.*\)),$", CONTRIBUTING, flags=re.MULTILINE)
    column = eval(added, {"Column": type(PREDICTIONS[0]), "np": np})
    rows = SimpleNamespace(
        calls=SimpleNamespace(scored=np.array([9, 1, 0])),
        window=slice(1, 3),
        records=SimpleNamespace(chunks=np.array([2, 0])),
    )
    assert column.values(rows).tolist() == [0.5, 0.0]


def test_lines_around_the_changes_of_the_examples_are_those_of_the_code() -> None:
    files = [
        REPOSITORY / name for name in ("vnp/encoders/spec.py", "jobs/_cluster/executor.py", "vnp/prediction/tables.py")
    ]
    code = "".join(path.read_text() for path in files)
    diffs = re.findall(r"```diff\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
    kept = [line[1:] for diff in diffs for line in diff.splitlines() if line.startswith(" ")]
    assert len(kept) >= 6
    assert not [line for line in kept if f"\n{line}\n" not in code]
