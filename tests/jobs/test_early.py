"""Tasks of this machine that load their encoders while the run is still being planned."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from jobs._cluster import local
from tests.jobs.commands import call
from tests.runs.making import plan_run
from vnp.files.records import from_json, to_json
from vnp.runs.making.encoders import load_ahead
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.start import draft
from vnp.runs.request import Request
from vnp.sequences.samplesheet import InputFile

WRITTEN = ["predictions.tsv", "chunks.tsv", "viral.fna"]


@pytest.fixture
def contigs(tmp_path: Path) -> Path:
    path = tmp_path / "contigs.fna"
    letters = ("".join(np.random.default_rng(seed).choice(list("ACGT"), 700 * (1 + seed % 9))) for seed in range(6))
    path.write_text("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(letters)))
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Let any input be large enough; gives the processes that were started early."""
    found: list[subprocess.Popen[bytes]] = []
    start = local._start_early

    def noting(options: RunOptions, root: Path, tasks: int | None) -> list[local._Early]:
        early = start(options, root, tasks)
        found.extend(one.process for one in early)
        return early

    monkeypatch.setattr(local, "_EARLY_BYTES", 1)
    monkeypatch.setattr(local, "_start_early", noting)
    return found


def predict(contigs: Path, out: Path) -> str:
    result = call("predict", contigs, "--out", out, "--cluster", "local", "--device", "cpu")
    assert result.exit_code == 0, result.output
    (log,) = (out / "logs").glob("*.out")
    return log.read_text()


def test_calls_are_those_of_tasks_that_start_later(
    contigs: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    early = tmp_path / "early"
    assert "while the run was planned" in predict(contigs, early)
    assert [process.returncode for process in started] == [0]
    monkeypatch.setattr(local, "_EARLY_BYTES", 1 << 30)
    later = tmp_path / "later"
    assert "while the run was planned" not in predict(contigs, later)
    assert len(started) == 1
    for name in WRITTEN:
        assert (early / name).read_bytes() == (later / name).read_bytes(), name
    # What was made already needs no task.
    monkeypatch.setattr(local, "_EARLY_BYTES", 1)
    predict(contigs, later)
    assert len(started) == 1


def test_they_end_where_nothing_can_be_planned(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    reads = tmp_path / "reads.fq"
    reads.write_text("@r\nACGT\n+\nII\n")
    result = call("predict", reads, "--out", tmp_path / "calls", "--cluster", "local", "--device", "cpu")
    assert result.exit_code == 1, result.output
    assert "reads.fq" in result.stderr
    assert [process.returncode is not None for process in started] == [True]
    assert not (tmp_path / "calls").exists()


def test_one_that_died_meanwhile_is_replaced(
    contigs: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = local._run_tasks

    def kill_first(*arguments: object) -> None:
        started[0].kill()
        started[0].wait()
        make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "_run_tasks", kill_first)
    assert "while the run was planned" not in predict(contigs, tmp_path / "calls")


def test_encoders_are_taken_if_the_run_asks_for_them(contigs: Path, tmp_path: Path) -> None:
    files = (InputFile(contigs),)
    asked = RunOptions(files, dna="sixframe", protein=None, device="cpu", precision="fp32")
    give = load_ahead(from_json(Request, to_json(draft(asked))))
    same = plan_run(tmp_path / "same", [contigs], dna="sixframe", protein=None, device="cpu", precision="fp32")
    taken = give(same)
    assert taken.dna is give(same).dna
    assert taken.seconds == 0
    smaller = plan_run(
        tmp_path / "smaller", [contigs], dna="sixframe", protein=None, device="cpu", precision="fp32", token_budget=9000
    )
    other = give(smaller)
    assert other.dna is not taken.dna
    assert other.dna.token_budget == 9000
