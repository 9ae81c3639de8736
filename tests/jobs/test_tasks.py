"""--tasks: what is submitted, what joins a run, and what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs._cluster import executor
from jobs._cluster.executor import Job
from jobs._cluster.local import Slot, places_of
from jobs._cluster.plain import Shell
from jobs._cluster.slurm import Slurm
from jobs._cluster.task import share_task
from tests.jobs.commands import KMER, REPOSITORY, call, clean
from tests.jobs.fake_slurm import FakeSlurm, slurm
from tests.runs.making import coding, plan_run, write_fasta
from vnp.runs.done.receipts import Announced
from vnp.runs.done.status import run_status
from vnp.runs.request import Run

__all__ = ["slurm"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    source = write_fasta(tmp_path / "a.fa", [(f"r{number}", coding(900, number)) for number in range(8)])
    return plan_run(tmp_path / "run", [source], 4)


@pytest.fixture
def job(run: Run) -> Job:
    return Job(run.paths.root, "vnp-run-tasks", share_task, shards=(1, 2, 3), tasks=2, arguments=("abc",))


def test_an_array_has_as_many_elements_as_tasks_and_no_more_than_shards(slurm: FakeSlurm, job: Job) -> None:
    assert Slurm().submit(job) == [re.findall(r"\d+", job.root.joinpath("logs/jobs.jsonl").read_text())[0]]
    (text,) = slurm.scripts()
    assert "#SBATCH --array=0-1%2" in text
    assert "jobs._cluster.task:share_task" in text
    assert "abc" in text
    (entry,) = executor.submitted(job.root)
    assert (entry.tasks, entry.shards) == (2, [])
    assert replace(job, tasks=400).elements == (0, 1, 2)
    assert replace(job, tasks=None).elements == (1, 2, 3)


def test_the_queue_tells_of_tasks_and_not_of_shards(slurm: FakeSlurm, job: Job) -> None:
    (number,) = Slurm().submit(job)
    lines = [f"{number}|0|RUNNING|None", f"{number}|1|PENDING|Priority"]
    slurm.answer("squeue", "".join(f"{line}|{job.name}\n" for line in lines))
    found = Slurm().state(job.root)
    assert found is not None
    assert [(one.shard, one.shares, one.waiting) for one in found] == [(None, True, False), (None, True, True)]
    text = call("status", job.root).stdout
    assert f"job {number} ({job.name}) waits: Priority" in text
    assert "no task has taken it yet" in text
    result = call("rerun", job.root, "--cluster", "slurm")
    assert result.exit_code == 0, clean(result)
    assert "left to 2 tasks in the queue" in result.stdout
    assert len(executor.submitted(job.root)) == 1
    result = call("rerun", job.root, "--cluster", "slurm", "--tasks", "3")
    assert "3 tasks for 4 shards" in result.stdout
    assert [entry.tasks for entry in executor.submitted(job.root)] == [2, 3]


def test_a_printed_script_runs_the_tasks(job: Job) -> None:
    text = Shell().script(job, whole=True)
    assert "set -- 0 1" in text
    done = subprocess.run(["bash"], input=text, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert run_status(Run.open(job.root)).complete


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--tasks", "0"), "--tasks must be at least 1, not 0"),
        (("--tasks", "2"), "--tasks 2: --cluster inline is one task"),
    ],
)
def test_numbers_of_tasks_that_cannot_be(run: Run, words: tuple[str, ...], why: str) -> None:
    result = call("rerun", run.paths.root, "--cluster", "inline", *words)
    assert result.exit_code == 2
    assert why in clean(result)


def test_one_joins_in_this_process_and_leaves_to_others_what_they_work_on(run: Run) -> None:
    other = Announced(run.paths.blocks(2), None)
    result = call("rerun", run.paths.root, "--cluster", "inline", "--tasks", "1")
    assert result.exit_code == 0, clean(result)
    assert "1 shards are left to other tasks, which work on them" in result.stdout
    assert run_status(run).unfinished == [2]
    other.end("stopped")
    assert call("rerun", run.paths.root, "--cluster", "inline", "--tasks", "1").exit_code == 0
    assert run_status(run).complete


def test_local_tasks_share_slots() -> None:
    gpus = [Slot("0", 8), Slot("1", 8)]
    assert places_of(gpus, None) == gpus
    assert places_of(gpus, 1) == [Slot("0", 8)]
    assert places_of(gpus, 3) == [Slot("0", 4), Slot("1", 4), Slot("0", 4)]


def test_extract_shares_among_local_tasks(tmp_path: Path, run: Run) -> None:
    source = tmp_path / "a.fa"
    result = call(
        "extract", source, "--out", tmp_path / "new", "--shards", 3, "--tasks", 2, *KMER, "--cluster", "local"
    )
    assert result.exit_code == 0, clean(result)
    new = Run.open(tmp_path / "new")
    assert run_status(new).complete
    assert len({receipt.job for found in run_status(new).shards if (receipt := found.receipt)}) <= 2


def test_killed_tasks_lose_nothing_and_make_nothing_twice() -> None:
    words = [sys.executable, "-m", "benchmarks", "kills", "--shared", "4", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] + found["suspended"] == 4
    assert found["attempts"] >= found["shards"] > 0
    assert found["lost"] == found["different"] == found["made twice"] == 0


def test_the_simulation_knows_what_it_should() -> None:
    from benchmarks.elastic.simulation import World, makespan

    def always(seconds: float) -> Callable[[object], float]:
        return lambda _chance: seconds

    # Ten shards of an hour on five GPUs, with nothing in the way.
    calm = World(10, 5, always(3600.0), always(0.0), 1e-9, 0.0, 0.0)
    for way in ("array", "lists", "shared"):
        assert makespan(calm, way, 0) == pytest.approx(2.0)
    # Loaded once a shard, or once a task.
    loading = replace(calm, load=always(360.0))
    assert makespan(loading, "array", 0) == pytest.approx(2.2)
    assert makespan(loading, "shared", 0) == pytest.approx(2.1)
    # Uneven GPUs: who shares is never behind a list.
    uneven = replace(calm, shards=200, spread=0.6, taken=0.5)
    assert makespan(uneven, "shared", 1) < makespan(uneven, "lists", 1)
