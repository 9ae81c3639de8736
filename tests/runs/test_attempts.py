from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vnp.files.claims import SILENT_SECONDS
from vnp.files.machine import asked, bytes_of
from vnp.files.records import from_json, write_json
from vnp.runs.done import receipts as attempts
from vnp.runs.done.receipts import Announced, Attempt, job_id, read_attempts, told


def only(folder: Path) -> tuple[Path, Attempt]:
    found = read_attempts(folder)
    assert len(found) == 1
    return found[0]


def test_alive_while_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00000"
    current = Announced(folder, "some.log")
    path, stored = only(folder)
    assert stored == current.attempt
    assert stored.alive(path)
    assert (stored.number, stored.host, stored.pid, stored.log) == (1, socket.gethostname(), os.getpid(), "some.log")
    current.end("stopped")
    path, stored = only(folder)
    assert stored.outcome == "stopped"
    assert stored.ended is not None
    assert not stored.alive(path)


@pytest.mark.parametrize("error", [ValueError("first line\nsecond"), SystemExit(3)])
def test_how_it_failed_is_noted(tmp_path: Path, error: BaseException) -> None:
    Announced(tmp_path, None).fail(error)
    path, stored = only(tmp_path)
    assert stored.outcome == "failed"
    assert stored.error is not None
    assert stored.error.startswith(type(error).__name__)
    assert "second" not in stored.error
    assert not stored.alive(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()])
def test_an_interruption_is_a_stop(tmp_path: Path, error: BaseException) -> None:
    current = Announced(tmp_path, None)
    current.fail(error)
    current.end("failed", "what comes after counts no more")
    path, stored = only(tmp_path)
    assert (stored.outcome, stored.error) == ("stopped", None)
    assert stored.ended is not None
    assert not stored.alive(path)


def test_a_process_that_is_gone_is_dead(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from vnp.runs.done.receipts import Announced\n"
        "Announced(Path(sys.argv[1]), None); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    path, stored = only(tmp_path)
    assert stored.outcome == "running"
    assert not stored.alive(path)


def test_a_process_id_that_was_given_to_another_is_dead(tmp_path: Path) -> None:
    current = Announced(tmp_path, None)
    path, _ = only(tmp_path)
    assert not replace(current.attempt, boot="1").alive(path)
    assert current.attempt.alive(path)
    current.end()


def test_on_another_host_the_last_sign_of_life_counts(tmp_path: Path) -> None:
    path = tmp_path / "attempt-00001.json"
    other = Attempt(1, "elsewhere", 1, "1", None, None, "2020-01-01T00:00:00+00:00")
    write_json(path, {**json.loads("{}"), **{name: getattr(other, name) for name in Attempt.__slots__}})
    assert read_attempts(tmp_path) == [(path, other)]
    assert other.alive(path)
    long_ago = time.time() - SILENT_SECONDS - 5
    os.utime(path, (long_ago, long_ago))
    assert not other.alive(path)
    assert not other.alive(tmp_path / "gone.json")


def test_the_sign_of_life_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 0.01)
    current = Announced(tmp_path, None)
    path, _ = only(tmp_path)
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0
    current.end()


def test_numbers_rise_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    for number in (1, 2):
        current = Announced(tmp_path, None)
        assert current.attempt.number == number
        current.end()
    (tmp_path / "attempt-00001.json").write_text("{")
    (tmp_path / "attempt-00005.json").write_text("{}")
    assert [found.number for _, found in read_attempts(tmp_path)] == [2]
    (tmp_path / "attempt-00004.json").touch()
    current = Announced(tmp_path, None)
    assert current.attempt.number not in (1, 2, 4, 5)
    current.end()


def test_a_folder_that_goes_meanwhile_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00000"
    current = Announced(folder, None)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    current.end("stopped")
    assert not folder.exists()


def test_job_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID", "VNP_JOB"):
        monkeypatch.delenv(name, raising=False)
    assert job_id() is None
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert job_id() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id() == "8_3"
    # Tasks of this machine, be it that the whole is a job.
    monkeypatch.setenv("VNP_JOB", "local-5-0")
    assert job_id() == "local-5-0"


def test_what_a_task_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNP_ASKED", "mem=48G cpus=8 gpus=1 grace=120 mem=300M")
    monkeypatch.setenv("VNP_END_TIME", "1600")
    # The last word counts.
    assert asked(1000.0) == {"mem": 300 * 2**20, "cpus": 8, "gpus": 1, "grace": 120, "seconds": 600}
    monkeypatch.delenv("VNP_END_TIME")
    assert "seconds" not in asked(1000.0)
    monkeypatch.setenv("VNP_ASKED", "mem=much")
    assert asked(1000.0) == {}


@pytest.mark.parametrize(
    ("size", "found"), [("48G", 48 * 2**30), ("500M", 500 * 2**20), ("1.5TB", 1.5 * 2**40), ("200", 200 * 2**20)]
)
def test_sizes(size: str, found: float) -> None:
    assert bytes_of(size) == found


def test_an_attempt_tells_what_it_did_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    (tmp_path / "block-00000.h5").touch()
    current = Announced(tmp_path, None)
    current.embedded("cpu", 100, 0.0)
    current.embedded("cpu", 150, 0.5)
    current.end("stopped")
    _, stored = only(tmp_path)
    assert (stored.node, stored.had, stored.blocks, stored.tokens, stored.busy, stored.gpu) == (
        "n7",
        1,
        2,
        250,
        0.5,
        "cpu",
    )
    assert stored.memory is not None
    assert stored.memory > 2**20
    assert stored.gpu_memory is None or stored.gpu_size is not None
    assert stored.begun <= stored.started


def test_a_receipt_tells_of_all_attempts(tmp_path: Path) -> None:
    for outcome in ("stopped", None):
        Announced(tmp_path, None).end(outcome)
    path = tmp_path / "attempt-00002.json"
    write_json(path, {**json.loads(path.read_bytes()), "boot": "1"})
    os.utime(path, (1000, 1000))
    current = Announced(tmp_path, None)
    found = [from_json(Attempt, one) for one in told(tmp_path, current.so_far())]
    assert [one.outcome for one in found] == ["stopped", "vanished", "done"]
    assert found[1].ended == "1970-01-01T00:16:40.000+00:00"
    assert found[2].ended is not None
    current.end()
