"""Whose code runs: where tasks look for modules, that they are of the code that planned the run, and how they die."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vnp
from jobs._cluster import worker
from tests.jobs.commands import KMER, REPOSITORY, call, clean
from tests.runs.making import coding, plan_run, write_fasta
from vnp.files.hashing import code_digest
from vnp.runs.making.leases import TRIES
from vnp.runs.request import Run

FAULTS = REPOSITORY / "tests/slurm/faults"
OTHER = "0" * 64


def local(folder: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, as a user does who has installed vnp."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "in.fa", [(f"r{i}", coding(300 * (2 + i), i)) for i in range(4)])


def test_modules_in_the_working_directory_are_nobodys(tmp_path: Path, fasta: Path) -> None:
    folder = tmp_path / "data"
    for name in ("random", "queue", "vnp/__init__", "jobs/__init__", "numpy/__init__"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the working directory was run')\n")
    asked = ["extract", fasta, "--out", "run", "--shards", 2, *KMER, "--cluster", "local"]
    done = local(folder, "-P", "-m", "jobs", *asked)
    assert done.returncode == 0, done.stderr
    assert "was run" not in done.stdout + done.stderr
    receipts = [json.loads(path.read_bytes()) for path in (folder / "run/receipts").iterdir()]
    assert [receipt["versions"]["code"] for receipt in receipts] == [code_digest()] * 2
    assert not list((folder / "run/logs").glob("*.pkl"))


def test_code_that_is_not_installed_makes_its_own_shards(tmp_path: Path, fasta: Path) -> None:
    """A checkout in the working directory is what ``python -m`` runs, and then its tasks are of it too."""
    copy, run = tmp_path / "copy", tmp_path / "run"
    for room in ("vnp", "jobs"):
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "vnp/errors.py").open("a") as file:
        file.write("# changed\n")
    asked = ["extract", fasta, "--out", run, "--shards", 2, *KMER, "--cluster", "local"]
    done = local(copy, "-m", "jobs", *asked)
    assert done.returncode == 0, done.stderr
    planned = Run.open(run)
    assert planned.request.versions["code"] not in (None, code_digest())

    # The installed code does not go on with it in silence, and what is done stays.
    planned.paths.receipt(1).unlink()
    before = planned.paths.request.read_bytes()
    for words in (("rerun", run), ("extract", "--out", run, "--only", "1"), asked):
        result = call(*words)
        assert result.exit_code == 1
        assert f"{run} was planned by other code than this ({vnp.__path__[0]}, vnp " in clean(result)
        assert f"jobs.rerun {run} --accept-code" in result.stderr
    assert planned.paths.request.read_bytes() == before
    result = call("rerun", run, "--accept-code")
    assert result.exit_code == 0, result.output
    assert Run.open(run).request.versions["code"] == code_digest()
    assert call("rerun", run).output.startswith("nothing to do: all 2 shards are done")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""), (":", ""), (".", ""), (":/lib", "/lib"), ("/lib:", "/lib"), ("/a::/b", "/a:/b"), ("lib:/a:..", "/a"),
    ],
)  # fmt: skip
def test_relative_places_of_modules_are_not_handed_on(given: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.search_path(given) == kept
    monkeypatch.setenv("PYTHONPATH", given)
    assert worker.environment()["PYTHONPATH"] == kept
    assert worker.environment()["PYTHONSAFEPATH"] == "1"


def test_a_task_of_other_code_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    task = worker.task_words(len, ["12345"])  # type: ignore[arg-type]
    assert task[:4] == ["-P", "-u", "-m", "jobs._cluster.worker"]
    monkeypatch.setattr(sys, "argv", ["worker", *task[4:]])
    worker.main()
    assert capsys.readouterr().out.endswith("\n5\n")
    monkeypatch.setattr(sys, "argv", ["worker", OTHER, *task[5:]])
    with pytest.raises(SystemExit) as ended:
        worker.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert f"error: {vnp.__path__[0]} is not the code that this task was submitted with" in said.err
    assert "\n5\n" not in said.out


@pytest.fixture
def planned(tmp_path: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two shards; one task at a time."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    return plan_run(tmp_path / "run", [fasta], shards=2)


def rerun(run: Run, monkeypatch: pytest.MonkeyPatch, modules: Path, **variables: str) -> tuple[str, list[Any]]:
    """What rerun and status say of a run that is not completed."""
    monkeypatch.setenv("PYTHONPATH", str(modules))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = call("rerun", run.paths.root, "--cluster", "local")
    assert result.exit_code == 3
    found = call("status", run.paths.root, "--json")
    return clean(result), json.loads(found.output)["shards"]


def test_a_killed_task_is_told_with_its_signal(tmp_path: Path, planned: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.0.kill.always").touch()
    said, (killed, other) = rerun(planned, monkeypatch, FAULTS, FAULTS=str(tmp_path))
    why = "killed by SIGKILL: by somebody, or by the system because memory ran out"
    assert (killed["state"], killed["error"], killed["attempts"]) == ("failed", why, TRIES)
    assert other["state"] == "done"
    assert f"shard-00000 failed: {why} (log: {killed['log']})" in said
    assert "       | about to be killed at 0.0" in said.splitlines()


def test_a_task_that_dies_before_it_starts_is_told_with_its_last_words(
    tmp_path: Path, planned: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "import os\nos.write(2, b'one\\nlibfoo.so cannot be opened\\n')\nos._exit(127)\n"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/sitecustomize.py").write_text(broken)
    said, shards = rerun(planned, monkeypatch, tmp_path / "modules")
    assert [shard["state"] for shard in shards] == ["failed", "missing"]
    assert shards[0]["error"] == "libfoo.so cannot be opened (exit code 127)"
    assert "       | one\n       | libfoo.so cannot be opened\n" in said
    assert "       | libfoo.so cannot be opened\n" in call("status", planned.paths.root).output
