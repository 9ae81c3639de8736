"""Logs as JSON: VNP_LOG_FORMAT=json."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs._cli.ending import about, event_line
from vnp.runs.done.status import last_words, log_tail

FIELDS = ["time", "level", "node", "run", "shard", "event"]


def events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(list(one) == FIELDS and one["node"] == socket.gethostname() for one in found)
    assert all(timedelta() <= datetime.now(UTC) - datetime.fromisoformat(one["time"]) < timedelta(1) for one in found)
    return found


def python(*words: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *map(str, words)], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done


def test_commands_and_tasks_say_objects_on_standard_error_and_the_same_on_standard_output(tmp_path: Path) -> None:
    fasta, run = tmp_path / "in.fasta", tmp_path / "run"
    fasta.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(4)))
    asked = ["--shards", 2, "--dna", "kmer", "--protein", "kmer", "--cluster", "local"]
    done = python("-m", "jobs.extract", fasta, "--out", run, *asked, VNP_LOG_FORMAT="json")
    assert done.stdout.startswith(f"planned {run}: 4 records")
    events(done.stderr)
    logs = [events(path.read_text()) for path in (run / "logs").glob("local-*.err")]
    outs = [path.read_text() for path in (run / "logs").glob("local-*.out")]
    assert sorted("".join(f"{one['event']}\n" for one in log) for log in logs) == sorted(outs), "what tasks print too"
    said = [one for log in logs for one in log]
    assert all((one["run"], one["level"]) == (str(run), "info") for one in said)
    blocks = {(one["shard"], one["event"]) for one in said if one["event"].endswith("blocks")}
    assert {(number, f"shard {number}: 1 of 1 blocks") for number in (0, 1)} <= blocks
    assert "{" not in "".join(outs)


def test_an_error_is_one_object(tmp_path: Path) -> None:
    (error,) = events(python("-m", "jobs.status", tmp_path, code=2, VNP_LOG_FORMAT="json").stderr)
    assert (error["level"], error["run"]) == ("error", str(tmp_path))
    assert error["event"].startswith("error: ")
    # Of Click's refusals there are two more, the usage and the hint.
    *_, refused = events(python("-m", "jobs.status", code=2, VNP_LOG_FORMAT="json").stderr)
    assert (refused["level"], refused["run"], refused["event"]) == ("error", None, "Error: Missing argument 'RUN'.")
    assert "must be text or json" in python("-m", "jobs.status", tmp_path, code=2, VNP_LOG_FORMAT="jsno").stderr


def test_a_fault_of_vnp_is_one_object_with_its_traceback() -> None:
    script = "from jobs._cli.ending import keep_streams; keep_streams(); {}['a']"
    (fault,) = events(python("-c", script, code=1, VNP_LOG_FORMAT="json").stderr)
    assert fault["level"] == "error"
    assert fault["event"].startswith("Traceback (most recent call last):\n")
    assert fault["event"].endswith("KeyError: 'a'")


@pytest.mark.parametrize(
    ("text", "level", "shard"),
    [
        ("shard 12: 3 of 4 blocks", "info", 12),
        ("error: shard 7: disk full", "error", 7),
        ("Warning: odd\nlines", "warning", 3),
        ("sharded", "info", 3),
    ],
)
def test_level_and_shard(text: str, level: str, shard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(about, "shard", 3)
    monkeypatch.delenv("VNP_LOG_FORMAT", raising=False)
    assert event_line(text) == text
    monkeypatch.setenv("VNP_LOG_FORMAT", "json")
    (said,) = events(event_line(text))
    assert (said["event"], said["level"], said["shard"]) == (text, level, shard)


def test_status_quotes_what_events_say(tmp_path: Path) -> None:
    log = tmp_path / "task.err"
    log.write_text('plain\n{"time": "x", "event": "one\\ntwo"}\n{not json\n{"event": "last"}\nsrun: error\n')
    assert last_words(str(log)) == "last"
    assert log_tail(str(log), 5) == ["one", "two", "{not json", "last", "srun: error"]
