"""benchmark speed, as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from jobs._cli import speed_runs as end_to_end
from tests.jobs.commands import call, clean
from tests.speed.tiny import tiny_model
from vnp.encoders.measured import tuned_path
from vnp.files.machine import processor_name
from vnp.speed import encoders, workloads


@pytest.fixture(autouse=True)
def small_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VNP_CONFIG", str(tmp_path / "settings"))
    monkeypatch.setenv("VNP_WEIGHTS", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(workloads, "random_model", tiny_model)
    # Shorter than what is worth measuring.
    monkeypatch.setattr(encoders, "budgets_of", lambda _: (128, 256))
    # Small products on many threads only wait for one another.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


def speed(*arguments: object) -> Any:
    small = ("--device", "cpu", "--tokens", "200", "--repeats", "1", "--quick")
    return call("benchmark", "speed", *small, *arguments)


def end_at_second_call(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    """Send this process TERM when a function is called for the second time."""
    plain, calls = getattr(module, name), iter(range(9))

    def ended(*given: Any, **more: Any) -> Any:
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given, **more)

    monkeypatch.setattr(module, name, ended)


def test_table_and_files(tmp_path: Path) -> None:
    result = speed("--model", "dnabert_s", "--out", tmp_path / "out", "--time", 20)
    assert result.exit_code == 0, clean(result)
    assert "on a CPU: small models with random weights" in result.stderr
    for words in ("dnabert_s: 2 layers of 84, random weights, small", "chunks of 300 bases"):
        assert words in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["speed.json", "speed.tsv"]
    assert not tuned_path().exists()


def test_the_network_of_windows(tmp_path: Path) -> None:
    result = speed("--model", "sixframe", "--quick", "--tokens", 200, "--time", 60, "--out", tmp_path)
    assert result.exit_code == 0, clean(result)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "small models with random weights" not in result.stderr
    (model,) = json.loads((tmp_path / "speed.json").read_text())["models"]
    assert [row["workload"] for row in model["rows"]] == ["windows of 2,000 bases", "windows of 150 bases"]
    assert all(row["share"] > 0 for row in model["rows"])


def test_json_and_tuning() -> None:
    result = speed("--model", "dnabert_s", "--precision", "fp32", "--tune", "--json", "--time", 1)
    assert result.exit_code == 0, clean(result)
    found = json.loads(result.stdout)
    assert found["models"][0]["name"] == "dnabert_s"
    assert found["machine"]["name"] == "cpu"
    kept = json.loads(tuned_path().read_text())["budgets"][processor_name()]["dnabert_s"]["fp32"]
    assert kept["tokens"] in (128, 256)
    splits = found["models"][0]["sweeps"][0]["splits"]
    assert splits[0]["tasks"] == 1
    assert all(each["tokens_per_second"] > 0 for each in splits)
    assert kept["threads"] in {each["threads"] for each in splits}
    assert "small models" not in result.stderr
    said = f"{kept['tokens']:,} tokens a batch, {kept['threads']} threads a task, kept in {tuned_path()}"
    assert said in result.stderr


def test_tuning_that_finds_nothing_says_so() -> None:
    result = speed("--model", "dnabert_s", "--precision", "fp8", "--tune", "--time", 1)
    assert result.exit_code == 2
    assert "nothing could be tuned" in clean(result)
    assert not tuned_path().exists()


def test_lengths_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.faa"
    path.write_text(">a\nMKTAYIAKQR\n>b\nMKT\n")
    result = speed("--lengths", path, "--time", 1)
    assert result.exit_code == 0, clean(result)
    assert "fastesm2_650, mine.faa" in result.stdout
    assert "dnabert_s" not in result.stdout
    result = speed("--lengths", path, "--model", "dnabert_s", "--model", "esm2_650m")
    assert result.exit_code == 2
    assert "--lengths is of proteins or of DNA" in clean(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--reads", "5"), "--reads goes with --end-to-end"),
        (("--weights", "missing"), "missing"),
        (("--end-to-end", "--gpus", "a"), "--gpus takes numbers from 1 on, separated by commas, such as 1,2, not 'a'"),
        (("--end-to-end", "--gpus", "0"), "--gpus takes numbers from 1 on"),
        (("--end-to-end", "--gpus", "1,"), "--gpus takes numbers from 1 on"),
        (("--end-to-end", "--gpus", "1,2"), "--gpus 1,2: this runs on the CPU"),
        (("--end-to-end", "--model", "esm2_3b", "--model", "fastesm2_650"), "one model of proteins"),
        (("--end-to-end", "--precision", "fp16", "--precision", "bf16", "--weights", "."), "one --precision"),
        (("--end-to-end", "--weights", "."), "error: no weights for "),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], words: str) -> None:
    result = speed(*arguments)
    assert result.exit_code in (1, 2)
    assert words in clean(result)


def test_from_end_to_end(thin_weights: Path, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    options = (
        "--end-to-end",
        "--reads",
        6,
        "--weights",
        thin_weights,
        "--folder",
        room,
        "--out",
        tmp_path / "out",
        "--cold",
    )
    result = speed(*options, "--shards", 2)
    assert result.exit_code == 0, clean(result)
    found = json.loads((tmp_path / "out/end_to_end.json").read_text())
    cold, warm, whole = found["runs"]
    assert (cold["name"], warm["name"], whole["name"]) == (
        "cold caches, few reads",
        "warm caches, few reads",
        "6 reads",
    )
    assert whole["rows"] == cold["rows"] > 0
    assert whole["shards"] == 2
    assert set(whole["tokens"]) == {"dna", "protein"}
    assert 0 < whole["planning"] < whole["wall"]
    assert whole["first_batch"] > 0
    assert whole["loading"] > whole["weights"] > 0
    assert 0 < whole["sealing"] < whole["wall"]
    assert "from start to end" in result.stdout
    assert os.listdir(room) == []


@pytest.mark.parametrize("more", [(), ("--json",), ("--tune",)])
def test_what_was_measured_before_it_was_ended_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    end_at_second_call(monkeypatch, encoders, "_measure")
    before = signal.getsignal(signal.SIGTERM)
    result = speed("--model", "dnabert_s", "--model", "fastesm2_650", "--out", tmp_path, "--time", 60, *more)
    assert signal.getsignal(signal.SIGTERM) is before
    assert result.exit_code == 130
    (model,) = json.loads((tmp_path / "speed.json").read_text())["models"]
    errors = [row["error"] for row in model["rows"]]
    assert errors[0] is None
    assert set(errors[1:]) == {"interrupted"}
    assert model["interrupted"]
    assert "could be tuned" not in result.stderr
    if more == ("--json",):
        assert json.loads(result.stdout)["models"][0]["name"] == "dnabert_s"
    else:
        assert "chunks of 300 bases" in result.stdout
        assert "interrupted: this is what was measured by then" in result.stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_models_before_one_that_was_ended_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    end_at_second_call(monkeypatch, workloads, "find_model")
    more = ("--json",) if as_json else ()
    result = speed("--model", "dnabert_s", "--model", "fastesm2_650", "--out", tmp_path, "--time", 2, *more)
    assert result.exit_code == 130
    (model,) = json.loads((tmp_path / "speed.json").read_text())["models"]
    assert (model["name"], model["interrupted"]) == ("dnabert_s", False)
    assert not as_json or [each["name"] for each in json.loads(result.stdout)["models"]] == ["dnabert_s"]


@pytest.mark.parametrize("as_json", [False, True])
def test_runs_before_one_that_was_ended_are_there(
    thin_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    end_at_second_call(monkeypatch, end_to_end, "_run")
    options = ("--reads", 3, "--weights", thin_weights, "--cold", "--out", tmp_path / "out")
    result = speed("--end-to-end", *options, *(("--json",) if as_json else ()))
    assert result.exit_code == 130
    (first,) = json.loads((tmp_path / "out/end_to_end.json").read_text())["runs"]
    assert first["name"] == "cold caches, few reads"
    assert "cold caches, few reads" in result.stdout
    assert "warm caches" not in result.stdout
    assert not as_json or len(json.loads(result.stdout)["runs"]) == 1


def test_a_run_that_fails_shows_what_extract_said(thin_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(thin_weights, tmp_path, copy_function=os.symlink, dirs_exist_ok=True)
    (tmp_path / "dnabert_s/model.safetensors").unlink()
    (tmp_path / "dnabert_s/model.safetensors").write_bytes(b"none")
    result = speed("--end-to-end", "--reads", 3, "--weights", tmp_path)
    assert result.exit_code == 1
    assert "extract ended with 3" in clean(result)
    assert "fetch it again" in result.stderr
