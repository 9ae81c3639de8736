"""The crate beside results: what was read and made, by which command, with digests that are true."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from click.testing import CliRunner

import vnp
from jobs import extract, predict, reduce, train
from tests.conftest import REPOSITORY
from vnp.runs.done.crate import NAME, Action, Item, write_crate

SAMPLE = REPOSITORY / "vnp/sample"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is merged and trained on, in ``run``, and calls of a virus in ``calls``."""
    root = tmp_path_factory.mktemp("crate")
    run, virus = root / "run", next((SAMPLE / "viral").glob("*.gz"))
    kmer = ["--dna", "kmer", "--protein", "kmer", "--cluster", "inline"]
    for command, words in (
        (extract, [SAMPLE / "samplesheet.csv", "--out", run, *kmer]),
        (reduce, [run]),
        (train, [run, "--out", run / "model.pth", "--epochs", 1, "--device", "cpu"]),
        (predict, [virus, "--out", root / "calls", "--device", "cpu", "--cluster", "inline"]),
    ):
        done = CliRunner().invoke(command.main, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return root


def graph_of(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / NAME).read_text())
    return {one["@id"]: one for one in found["@graph"]}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "commands"), [("run", ["vnp reduce", "vnp train"]), ("calls", ["vnp predict"])])
def test_it_tells_what_was_read_and_made(results: Path, name: str, commands: list[str]) -> None:
    folder = results / name
    graph = graph_of(folder)
    actions = [graph[link["@id"]] for link in graph["./"]["mentions"]]
    assert [one["name"] for one in actions] == commands
    for action in actions:
        software = graph[action["instrument"]["@id"]]
        assert (software["name"], software["softwareVersion"]) == ("vnp", vnp.__version__)
        assert action["startTime"] < action["endTime"]
    files = [one for one in graph.values() if one["@type"] == "File"]
    for file in files:
        address = urlparse(file["@id"])
        path = Path(unquote(address.path)) if address.scheme == "file" else folder / unquote(file["@id"])
        assert file.get("sha256", sha256(path)) == sha256(path)
        assert int(file.get("contentSize", path.stat().st_size)) == path.stat().st_size
    assert {link["@id"] for link in graph["./"]["hasPart"]} >= {file["@id"] for file in files}
    inputs = [graph[link["@id"]] for link in actions[0]["object"]]
    assert sum("sha256" in one for one in inputs) == (len(list(SAMPLE.glob("*/*.gz"))) if name == "run" else 1)


def test_it_has_the_parameters(results: Path) -> None:
    told = {
        one["name"]: one["value"] for one in graph_of(results / "calls").values() if one["@type"] == "PropertyValue"
    }
    assert told["checkpoint"] == "native"
    assert told["preset"] == "default"
    assert told["dna-weights"] == f"model.safetensors sha256:{sha256(REPOSITORY / 'vnp/native/model.safetensors')}"
    told = {one["name"]: one["value"] for one in graph_of(results / "run").values() if one["@type"] == "PropertyValue"}
    assert (told["dna"], told["layout"], told["recipe"], told["epochs"]) == ("kmer", "1664", "virnucpro", 1)


def act(folder: Path, output: str, **parameters: float) -> None:
    (folder / output).write_text("made")
    write_crate(
        folder, Action("make", "It is made", [], [Item(folder / output)], parameters, "2026-01-01T00:00:00+00:00")
    )


def test_actions_are_added_and_make_way_and_what_is_gone_is_left_out(tmp_path: Path) -> None:
    act(tmp_path, "a b", x=1)
    act(tmp_path, "c", x=2)
    act(tmp_path, "a b", y=3)
    graph = graph_of(tmp_path)
    assert [link["@id"] for link in graph["./"]["mentions"]] == ["#make-a%20b", "#make-c"]
    told = {one["@id"]: one["value"] for one in graph.values() if one["@type"] == "PropertyValue"}
    assert told == {"#make-a%20b-y": 3, "#make-c-x": 2}
    (tmp_path / "a b").unlink()
    act(tmp_path, "c")
    assert not [key for key in graph_of(tmp_path) if "a%20b" in key]


def test_what_somebody_says_stays_and_a_crate_of_something_else_too(tmp_path: Path) -> None:
    act(tmp_path, "a")
    crate = json.loads((tmp_path / NAME).read_text())
    root = next(one for one in crate["@graph"] if one["@id"] == "./")
    root |= {"license": {"@id": "https://creativecommons.org/publicdomain/zero/1.0/"}, "author": {"@id": "#me"}}
    crate["@graph"].append({"@id": "#me", "@type": "Person", "name": "Me"})
    (tmp_path / NAME).write_text(json.dumps(crate))
    act(tmp_path, "b")
    graph = graph_of(tmp_path)
    assert graph["./"]["license"] == root["license"]
    assert graph["#me"]["name"] == "Me"
    for text in ("no JSON", json.dumps({"@graph": [{"@id": "./", "@type": "Dataset"}]})):
        (tmp_path / NAME).write_text(text)
        act(tmp_path, "c")
        assert (tmp_path / NAME).read_text() == text


def test_its_validator_finds_nothing_to_object_to(results: Path, tmp_path: Path) -> None:
    python = os.environ.get("VNP_STANDARDS")
    if not python:
        if os.environ.get("CI") == "true":
            pytest.fail("VNP_STANDARDS names no Python with the validators; see .ci/run")
        pytest.skip("VNP_STANDARDS names no Python with the validators")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    act(wrong, "a")
    (wrong / NAME).write_text((wrong / NAME).read_text().replace('"instrument"', '"tool"'))
    words = [python, str(REPOSITORY / "tests/standards/crates.py")]
    done = subprocess.run([*words, results / "run", results / "calls"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = subprocess.run([*words, wrong], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("MUST have an instrument")) == (1, 1), done.stderr
