from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.status import measure_status
from jobs import extract, reduce, status
from jobs._cli.command import echo
from vnp.runs.done.receipts import Announced
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.start import start_run
from vnp.sequences.samplesheet import InputFile


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A planned run of two shards, on a machine without Slurm."""
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(4)))
    found, _ = start_run(
        RunOptions((InputFile(fasta, -1, None),), shards=2, dna="kmer", protein="kmer"), tmp_path / "run"
    )
    monkeypatch.setenv("PATH", os.pathsep.join(["/nowhere"]))
    return found.paths.root


def make(run: Path, shard: int) -> None:
    result = CliRunner().invoke(extract.main, ["--out", str(run), "--only", str(shard)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_watch_looks_until_all_shards_are_done(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        make(run, len(waits))
        waits.append(seconds)

    monkeypatch.setattr("jobs.status.time.sleep", sleep)
    result = CliRunner().invoke(status.main, [str(run), "--watch"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(waits) == 2
    said = result.output
    assert (
        said.index("2 shards: 2 missing") < said.index("2 shards: 1 done, 1 missing") < said.index("2 shards: 2 done")
    )
    # The screen is cleared on terminals only.
    assert "\x1b" not in said


def test_watch_on_a_terminal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pty
    import sys

    make(run, 0)
    make(run, 1)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "jobs.status", str(run), "--watch"])
    said = b""
    try:
        while piece := os.read(terminal, 4096):
            said += piece
    except OSError:
        pass
    _, code = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(code) == 0
    assert said.startswith(b"\x1b[2J")
    assert b"2 shards: 2 done" in said


def test_state_as_json(run: Path) -> None:
    make(run, 1)
    result = CliRunner().invoke(status.main, [str(run), "--json"], catch_exceptions=False)
    assert result.exit_code == 3
    found = json.loads(result.output)
    assert found["counts"] == {"done": 1, "missing": 1}
    assert not found["complete"]
    assert [shard["state"] for shard in found["shards"]] == ["missing", "done"]
    assert found["rows"] == found["shards"][1]["rows"]


def test_escapes_of_attempts_and_logs_stay_text(run: Path) -> None:
    """A name, an error or a log must not turn colours on, set the window's title, or hide a line."""
    evil = "\x1b]0;title\x07 \x1b[31mred \x9b2J \u202etxet"
    log = run / "logs" / "task.err"
    log.write_text(f"before\n{evil}\n")
    shard = Announced(run / "parts" / "shard-00001", str(log))
    shard.end("failed", f"two\nlines {evil}")
    said = CliRunner().invoke(status.main, [str(run)], catch_exceptions=False).output
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
    shown = r"\x1b]0;title\x07 \x1b[31mred \x9b2J \u202etxet"
    assert f"two lines {shown}" in " ".join(said.split())
    assert f"       | {shown}" in said.splitlines()


def test_passwords_of_addresses_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    echo("no answer from https://ada:sec@ret@host:80/x?y and http://ada@b/, a@b, RUN@model.pth, http://h/a@b")
    assert capsys.readouterr().out == (
        "no answer from https://host:80/x?y and http://b/, a@b, RUN@model.pth, http://h/a@b\n"
    )


@pytest.mark.parametrize("words", [["--layout", "\x1b[31m"], ["--no\x1b[31m"], ["\x1b[31m"]])
def test_escapes_of_the_command_line_stay_text(words: list[str], run: Path) -> None:
    said = CliRunner().invoke(reduce.main, [str(run), *words]).output
    assert r"\x1b[31m" in said
    assert "\x1b" not in said


def test_large_run_is_measured() -> None:
    found = measure_status(60, 20, repeats=2)
    assert (found.shards, found.done, len(found.seconds)) == (60, 20, 2)
