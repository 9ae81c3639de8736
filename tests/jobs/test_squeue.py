"""What is made of Slurm's answers, and of no answer; nothing of it decides that a shard is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs import extract, status
from jobs._cluster import executor
from jobs._cluster.executor import Element
from jobs._cluster.slurm import Slurm
from tests.jobs.fake_slurm import FakeSlurm, slurm
from vnp.errors import VnpError

__all__ = ["slurm"]


def note(root: Path, job: str, name: str, base: int, shards: list[int]) -> None:
    executor.note(root, job, name, base, shards)


def test_queue_is_told_by_shard(slurm: FakeSlurm, tmp_path: Path) -> None:
    note(tmp_path, "41", "vnp-run-0-9", 0, [0, 1, 2])
    note(tmp_path, "42", "vnp-run-0-9", 1001, [1001, 1005])
    note(tmp_path, "43", "vnp-run-reduce", 0, [])
    slurm.answer(
        "squeue",
        "41|2|RUNNING|None|vnp-run-0-9\n"
        "42|4|PENDING|JobArrayTaskLimit|vnp-run-0-9\n"
        "43|N/A|PENDING|Dependency|vnp-run-reduce\n"
        "99|0|RUNNING|None|vnp-run-0-9\n"
        "41|1|COMPLETING|None|vnp-run-0-9\n",
    )
    found = Slurm().state(tmp_path)
    assert found == [
        Element("41_2", "vnp-run-0-9", "RUNNING", "None", 2, "41_2_0_log.err", "41"),
        Element("42_4", "vnp-run-0-9", "PENDING", "JobArrayTaskLimit", 1005, "42_4_0_log.err", "42", waiting=True),
        Element("43", "vnp-run-reduce", "PENDING", "Dependency", None, "43_0_log.err", "43", waiting=True),
        Element("41_1", "vnp-run-0-9", "COMPLETING", "None", 1, "41_1_0_log.err", "41", ending=True),
    ]
    (call,) = slurm.calls("squeue")
    # Never by id: Slurm answers a question for an id that it has forgotten with an error.
    assert "--jobs" not in call
    assert "--array" in call


def test_id_that_belongs_to_somebody_else_by_now(slurm: FakeSlurm, tmp_path: Path) -> None:
    note(tmp_path, "41", "vnp-run-0-9", 0, [0])
    slurm.answer("squeue", "41|0|RUNNING|None|their|job\n41|0|RUNNING|None|vnp-run-0-9 2\n\ngarbage\n41\n")
    assert Slurm().state(tmp_path) == []


def test_name_with_a_separator(slurm: FakeSlurm, tmp_path: Path) -> None:
    note(tmp_path, "41", "by|hand ", 0, [])
    slurm.answer("squeue", "41|7|RUNNING|None|by|hand\n")
    (found,) = Slurm().state(tmp_path) or []
    assert (found.id, found.shard) == ("41_7", 7)


def test_more_elements_than_an_array_may_have(slurm: FakeSlurm, tmp_path: Path) -> None:
    note(tmp_path, "41", "n", 0, list(range(5000)))
    slurm.answer("squeue", "".join(f"41|{index}|PENDING|Priority|n\n" for index in range(5000)))
    assert [element.shard for element in Slurm().state(tmp_path) or []] == list(range(5000))


def test_no_answer_is_not_an_empty_queue(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Slurm().state(tmp_path) == []
    assert slurm.calls("squeue") == []
    note(tmp_path, "41", "n", 0, [0])
    slurm.answer("squeue", error="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert Slurm().state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Slurm().state(tmp_path) is None


@pytest.mark.parametrize(
    "answer", ["", "||\n", "garbage\n\n|", "41_7|RUNNING|0:0\n41_8|COMPLETED|0:0\n41_9|PENDING|\n"]
)
def test_sacct_without_a_useful_answer(answer: str, slurm: FakeSlurm) -> None:
    slurm.answer("sacct", answer)
    assert Slurm().ended(["41_7", "41_8", "41_9"]) == {}


def test_sacct_says_how_jobs_ended(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slurm.answer("sacct", "41_7|TIMEOUT|0:0\n41_8|OUT_OF_MEMORY|0:125\n41_9|CANCELLED by 0|0:0\n7|FAILED|1:0\n")
    assert Slurm().ended(["41_7", "41_8", "41_9"]) == {
        "41_7": "TIMEOUT", "41_8": "OUT_OF_MEMORY, exit code 0:125", "41_9": "CANCELLED by 0",
    }  # fmt: skip
    assert Slurm().ended([]) == {}
    slurm.answer("sacct", error="Slurm accounting storage is disabled", code=1)
    assert Slurm().ended(["41_7"]) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Slurm().ended(["41_7"]) == {}


def test_many_jobs_are_asked_for_in_pieces(slurm: FakeSlurm) -> None:
    Slurm().ended([f"41_{index}" for index in range(1200)])
    assert len(slurm.calls("sacct")) == 3


def test_job_that_ended_before_it_could_be_cancelled(slurm: FakeSlurm) -> None:
    slurm.answer("scancel", error="scancel: error: Kill job error on job id 41: Invalid job id specified", code=1)
    Slurm().cancel(["41"])
    slurm.answer("scancel", error="scancel: error: Kill job error on job id 41: Access/permission denied", code=1)
    with pytest.raises(VnpError, match="permission denied"):
        Slurm().cancel(["41"])


# What status makes of it.

Look = Callable[..., dict[str, Any]]


def test_a_job_that_two_tasks_noted_at_once_is_one_job(tmp_path: Path) -> None:
    for job, shards in (("41", [0, 1]), ("42", []), ("42", []), ("43", []), ("41", [2])):
        executor.note(tmp_path, job, "name", 0, shards)
    assert [(entry.job, entry.shards) for entry in executor.submitted(tmp_path)] == [
        ("41", [0, 1]),
        ("42", []),
        ("43", []),
        ("41", [2]),
    ]


@pytest.fixture
def run(slurm: FakeSlurm, tmp_path: Path) -> Path:
    """Four shards on fake Slurm, none of them made."""
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(8)))
    root = tmp_path / "run"
    words = [str(fasta), "--out", str(root), "--shards", "4", "--dna", "kmer", "--protein", "kmer"]
    result = CliRunner().invoke(extract.main, [*words, "--cluster", "slurm"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert executor.submitted(root)[0].shards == [0, 1, 2, 3]
    return root


@pytest.fixture
def look(run: Path) -> Look:
    def shards() -> dict[str, Any]:
        result: Result = CliRunner().invoke(status.main, [str(run), "--json"], catch_exceptions=False)
        assert result.exit_code == 3
        found: dict[str, Any] = json.loads(result.output)
        return found

    return shards


def queue(slurm: FakeSlurm, *lines: str) -> None:
    slurm.answer("squeue", "".join(f"{line}|vnp-run-0-3\n" for line in lines))


def test_status_tells_waiting_from_running_and_cancelled(slurm: FakeSlurm, run: Path, look: Look) -> None:
    queue(slurm, "41|0|RUNNING|None", "41|1|PENDING|Priority", "41|2|COMPLETING|None")
    (run / "logs" / "41_3_0_log.err").write_text("python: not found\nsrun: error: n1: Exited with exit code 127\n")
    slurm.answer("sacct", "41_3|FAILED|127:0\n41_0|NODE_FAIL|0:0\n")
    shards = look()["shards"]
    assert [shard["state"] for shard in shards] == ["running", "queued", "missing", "failed"]
    assert shards[1]["error"] == "waits: Priority"
    assert shards[3]["error"] == "python: not found (Slurm: FAILED, exit code 127:0)"
    assert shards[3]["log"].endswith("41_3_0_log.err")


def test_status_says_in_80_columns_what_is_true_of_each_shard(slurm: FakeSlurm, run: Path) -> None:
    """Some wait, run, are done or failed, and one cannot be read; then all are at work, and there is nothing to do."""
    result = CliRunner().invoke(extract.main, ["--out", str(run), "--only", "0"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    queue(slurm, "41|1|RUNNING|None", "41|2|PENDING|Resources")
    (run / "logs" / "41_3_0_log.err").write_text("python: not found\n")
    text = CliRunner().invoke(status.main, [str(run), "--all"], catch_exceptions=False).output
    words = [line.split()[:2] for line in text.splitlines() if line[:5].strip().isdigit()]
    assert words == [["0", "done"], ["1", "running"], ["2", "queued"], ["3", "failed"]]
    told = next(line for line in text.splitlines() if line.startswith("4 shards: "))
    assert told == "4 shards: 1 done, 1 running, 1 queued, 1 failed; 12 of 48 rows"
    assert f"next: when no task runs or waits any more, python -m jobs.rerun {run}" in text
    assert max(len(line) for line in text.splitlines() if str(run) not in line) <= 80

    queue(slurm, *(f"41|{index}|RUNNING|None" for index in (1, 2, 3)))
    text = CliRunner().invoke(status.main, [str(run)], catch_exceptions=False).output
    assert "4 shards: 1 done, 3 running" in text
    assert "next:" not in text


def test_status_without_an_answer_of_slurm(slurm: FakeSlurm, run: Path, look: Look) -> None:
    slurm.answer("squeue", code=1)
    slurm.answer("sacct", code=1)
    shards = look()["shards"]
    assert [shard["state"] for shard in shards] == ["missing"] * 4
    assert shards[0]["error"] == "submitted, no sign of it yet"


def test_status_after_the_queue_has_forgotten(slurm: FakeSlurm, run: Path, look: Look) -> None:
    assert look()["shards"][0]["error"] == "its job ended or was cancelled before it started"


def test_slurm_never_decides_that_a_shard_is_done(slurm: FakeSlurm, run: Path, look: Look) -> None:
    slurm.answer("sacct", "".join(f"41_{index}|COMPLETED|0:0\n" for index in range(4)))
    assert look()["counts"] == {"missing": 4}
    result = CliRunner().invoke(extract.main, ["--out", str(run), "--only", "0-3"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    queue(slurm, *(f"41|{index}|PENDING|Priority" for index in range(4)))
    slurm.answer("sacct", "".join(f"41_{index}|FAILED|1:0\n" for index in range(4)))
    result = CliRunner().invoke(status.main, [str(run), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.output)["counts"] == {"done": 4}


def test_status_lists_other_jobs(slurm: FakeSlurm, run: Path, look: Look) -> None:
    note(run, "50", "vnp-run-reduce", 0, [])
    slurm.answer("squeue", "50|N/A|PENDING|Dependency|vnp-run-reduce\n")
    assert look()["other_jobs"] == [{"job": "50", "name": "vnp-run-reduce", "state": "PENDING", "reason": "Dependency"}]
    text = CliRunner().invoke(status.main, [str(run)], catch_exceptions=False).output
    assert "job 50 (vnp-run-reduce) waits: Dependency" in text
