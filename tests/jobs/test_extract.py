"""extract, status, rerun and reduce on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs._cluster.local import slots
from jobs.extract import shard_numbers
from tests.jobs.commands import KMER, SAMPLE, call, clean, extract, start
from tests.runs.making import coding, column_bytes, plan_run, write_fasta
from vnp.encoders.measured import TunedBudget, write_tuned
from vnp.errors import UsageError
from vnp.files.machine import processor_name
from vnp.runs.done.status import run_status
from vnp.runs.request import Request, Run


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fa", [(f"r{i}", coding(900, i)) for i in range(8)])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class TestOnly:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [("3", [3]), ("3,7", [3, 7]), ("0-4", [0, 1, 2, 3, 4]), ("7, 1-2,1", [1, 2, 7]), ("9-9", [9])],
    )
    def test_numbers(self, text: str, expected: list[int]) -> None:
        assert shard_numbers(text, 10) == expected

    @pytest.mark.parametrize(
        "text", ["", "x", "1,", "-1", "1-", "1--2", "10", "0-10", "0-99999999999999", "4-2", "1.5"]
    )
    def test_what_is_no_list_of_shards(self, text: str) -> None:
        with pytest.raises(UsageError, match="--only"):
            shard_numbers(text, 10)

    def test_makes_just_these_and_makes_them_once(self, tmp_path: Path, fasta: Path) -> None:
        out = tmp_path / "run"
        plan_run(out, [fasta], 4)
        result = call("extract", "--out", out, "--only", "1,3")
        assert result.exit_code == 0, clean(result)
        assert run_status(Run.open(out)).unfinished == [0, 2]
        before = tree(out)
        assert "shard 1: already" in call("extract", "--out", out, "--only", "1").stdout
        assert tree(out) == before

    @pytest.mark.parametrize("option", ["--dry-run", "--force", "--plan-job"])
    def test_goes_with_nothing_that_plans(self, option: str, tmp_path: Path, fasta: Path) -> None:
        out = tmp_path / "run"
        plan_run(out, [fasta], 4)
        before = tree(out)
        result = call("extract", "--out", out, "--only", "1", option)
        assert result.exit_code == 2
        assert "--only makes shards of a planned run" in clean(result)
        assert tree(out) == before

    def test_needs_a_plan(self, tmp_path: Path, fasta: Path) -> None:
        for arguments in ((fasta,), ()):
            result = call("extract", *arguments, "--out", tmp_path / "run", "--only", "0")
            assert result.exit_code == 2
            clean(result)
        assert not (tmp_path / "run").exists()


def test_dry_run_writes_nothing(tmp_path: Path, fasta: Path) -> None:
    result = extract(fasta, "--out", tmp_path / "run", "--shards", 3, "--dry-run")
    assert result.exit_code == 0
    assert "8 records, 7,200 bases" in result.stdout
    assert "3 shards of" in result.stdout
    assert "nothing was written" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.fa"]
    extract(fasta, "--out", tmp_path / "run")
    before = tree(tmp_path)
    assert extract(fasta, "--out", tmp_path / "run", "--shards", 3, "--dry-run").exit_code == 0
    assert tree(tmp_path) == before


def test_fewer_chunks_than_shards(tmp_path: Path, fasta: Path) -> None:
    result = extract(fasta, "--out", tmp_path / "run", "--shards", 900)
    assert result.exit_code == 0
    assert "900 shards were asked for; there are only 24 chunks" in result.stdout


class TestStatus:
    def test_table_and_json(self, tmp_path: Path, fasta: Path) -> None:
        out = tmp_path / "run"
        plan_run(out, [fasta], 4)
        call("extract", "--out", out, "--only", "1,2")
        (out / "receipts/shard-00002.json").write_text("{}")
        result = call("status", out)
        assert result.exit_code == 3
        lines = {line.split()[0]: line for line in result.stdout.splitlines() if line[:5].strip().isdigit()}
        assert set(lines) >= {"0", "2", "3"}
        assert "missing" in lines["0"]
        assert "damaged" in lines["2"]
        assert f"python -m jobs.rerun {out}" in result.stdout
        found = json.loads(call("status", out, "--json").stdout)
        assert not found["complete"]
        assert [shard["state"] for shard in found["shards"]] == ["missing", "done", "damaged", "missing"]
        assert found["rows_planned"] == sum(shard["rows_planned"] for shard in found["shards"])
        assert call("rerun", out, "--cluster", "inline").exit_code == 0
        result = call("status", out)
        assert result.exit_code == 0
        assert f"python -m jobs.reduce {out}" in result.stdout
        assert json.loads(call("status", out, "--json").stdout)["complete"]
        assert len([line for line in call("status", out, "--all").stdout.splitlines() if " done " in line]) == 4

    def test_a_failed_shard_shows_its_error(self, tmp_path: Path, fasta: Path) -> None:
        out = tmp_path / "run"
        plan_run(out, [fasta], 2)
        fasta.write_text(fasta.read_text() + ">more\nACGT\n")
        result = call("rerun", out, "--cluster", "inline")
        assert result.exit_code == 3
        assert "has changed since the run was planned" in clean(result)
        assert "has changed since the run was planned" in " ".join(call("status", out).stdout.split())


class TestReduce:
    def test_says_what_it_made(self, tmp_path: Path, fasta: Path) -> None:
        out = tmp_path / "run"
        extract(fasta, "--out", out)
        result = call("reduce", out)
        assert result.exit_code == 0
        assert f"{out / 'features.h5'}: " in result.stdout
        assert "1664 = dna 384 (kmer 768 by srdct384-v1) + protein 1280 (kmer)" in result.stdout
        assert "was there already" in call("reduce", out).stdout
        assert call("reduce", out, "--layout", "full").exit_code == 2
        assert call("reduce", out, "--layout", "full", "--force").exit_code == 0

    def test_without_any_row(self, tmp_path: Path) -> None:
        path = write_fasta(tmp_path / "n.fa", [("n", "N" * 500), ("e", ""), ("short", "A")])
        assert extract(path, "--out", tmp_path / "run", "--shards", 2).exit_code == 0
        result = call("reduce", tmp_path / "run")
        assert result.exit_code == 0, clean(result)
        assert len((tmp_path / "run/skipped.tsv").read_text().splitlines()) == 5
        assert call("status", tmp_path / "run").exit_code == 0


class TestLocal:
    def test_as_many_tasks_as_cores_for_encoders_without_weights(self, tmp_path: Path, fasta: Path) -> None:
        found = slots(plan_run(tmp_path / "run", [fasta]).request)
        assert len(found) == len(os.sched_getaffinity(0))
        assert {slot.threads for slot in found} == {1}

    def test_windows_are_read_by_several_tasks_for_each_gpu(
        self, tmp_path: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobs._cluster.local.visible_gpus", lambda: ["0", "3"])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
        windows = plan_run(tmp_path / "run", [fasta], dna="sixframe", protein=None).request
        assert windows.reads_windows
        assert [(slot.gpu, slot.threads) for slot in slots(windows)] == [("0", 8), ("3", 8)] * 3
        # As do others, but one each.
        monkeypatch.setattr(Request, "reads_windows", False)
        assert [(slot.gpu, slot.threads) for slot in slots(windows)] == [("0", 8), ("3", 8)]

    def test_a_cpu_is_shared_out_as_was_measured(
        self, tmp_path: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VNP_CONFIG", str(tmp_path / "settings"))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(12)))
        request = plan_run(tmp_path / "run", [fasta], dna="sixframe", protein=None).request
        request = replace(request, device="cpu")
        assert [(slot.threads, slot.why) for slot in slots(request)] == [
            (12, "1 x 12 threads, as where nothing was measured")
        ]
        budget = TunedBudget(1024, 9.0, None, "2026-11-27T09:00:00+00:00", "2.13.0", threads=3)
        write_tuned(processor_name(), "sixframe", "fp32", budget)
        found = [(slot.threads, slot.why) for slot in slots(request)]
        assert found == [(3, "4 x 3 threads, measured on 2026-11-27")] * 4

    def test_a_shard_that_fails_does_not_stop_the_others(self, tmp_path: Path) -> None:
        files = [write_fasta(tmp_path / f"{i}.fa", [(f"r{i}", coding(1500, i))]) for i in range(3)]
        out = tmp_path / "run"
        run = plan_run(out, files, 3)
        content = files[1].read_text()
        files[1].write_text(content.replace("C", "G", 1))
        process = start("rerun", out, "--cluster", "local")
        said, err = process.communicate()
        assert process.returncode == 3, err
        assert "Traceback" not in err
        assert "shard-00001 failed" in err
        assert "1.fa: has changed" in err
        assert "log: " in err
        assert run_status(run).unfinished == [1]
        files[1].write_text(content)
        process = start("rerun", out, "--cluster", "local")
        said, err = process.communicate()
        assert process.returncode == 0, err
        assert "made 1 shard in " in said
        assert run_status(run).complete
        assert list(run.paths.logs.glob("*.err"))
        process = start("rerun", out, "--cluster", "local")
        assert "nothing to do" in process.communicate()[0]

    @pytest.mark.parametrize(
        ("cluster", "whom", "number"),
        [
            ("local", "the process", signal.SIGINT),
            ("local", "its group", signal.SIGINT),
            ("local", "the process", signal.SIGTERM),
            ("inline", "the process", signal.SIGINT),
        ],
    )
    def test_ctrl_c_leaves_a_run_that_goes_on(self, tmp_path: Path, cluster: str, whom: str, number: int) -> None:
        out = tmp_path / "run"
        process = held_at_work(tmp_path, "extract", "--out", out, "--shards", 6, *KMER, "--cluster", cluster)
        try:
            if whom == "its group":
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            os.killpg(process.pid, signal.SIGCONT)
            _, err = process.communicate(timeout=120)
            assert members(process.pid) == []
        finally:
            for pid in members(process.pid):
                os.kill(pid, signal.SIGKILL)
        assert process.returncode == 3, err
        assert "Traceback" not in err
        assert f"python -m jobs.rerun {out}" in err
        run = Run.open(out)
        state = run_status(run)
        # Tasks in processes of their own may be faster than the signal on its way.
        assert cluster == "local" or not state.complete
        assert "running" not in state.counts
        shown = call("status", out).stdout
        assert "KeyboardInterrupt" not in shown
        assert "Traceback" not in shown
        assert call("rerun", out, "--cluster", "inline").exit_code == 0
        assert run_status(run).complete
        assert call("reduce", out).exit_code == 0

    def test_the_same_features_as_inline(self, tmp_path: Path) -> None:
        found = []
        sheet = tmp_path / "sheet.csv"
        rows = SAMPLE.read_text().splitlines()
        sheet.write_text("\n".join([rows[0], *(f"{SAMPLE.parent}/{row}" for row in rows[1:4])]) + "\n")
        for cluster in ("local", "inline"):
            out = tmp_path / cluster
            process = start("extract", sheet, "--out", out, "--shards", 2, *KMER, "--cluster", cluster)
            _, err = process.communicate()
            assert process.returncode == 0, err
            assert call("reduce", out).exit_code == 0
            found.append(column_bytes(out / "features.h5"))
        assert found[0] == found[1]


def held_at_work(folder: Path, name: str, *arguments: object) -> subprocess.Popen[str]:
    """A command that has begun to make shards and is stopped (SIGSTOP) with some still to be begun.

    On a machine where it was through before it could be stopped, it is tried with a longer input.
    """
    bases = 20_000
    while True:
        path = write_fasta(folder / "big.fa", [(f"r{i}", coding(bases, i)) for i in range(12)])
        process = start(name, path, *arguments, "--force", start_new_session=True)
        run = folder / "run"
        while not list(run.glob("parts/*/attempt-*.json")) and process.poll() is None:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGSTOP)
        state = run_status(Run.open(run))
        if process.poll() is None and state.counts.get("missing", 0) > 1:
            return process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        bases *= 2


def members(group: int) -> list[int]:
    """Processes of a process group that still live."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]
