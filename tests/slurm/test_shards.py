"""One array in which each shard is disturbed in its own way; then what it takes to complete it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import Case, Site, until

pytestmark = pytest.mark.slurm

PLAIN, RAISES, EXITS, KILLED, STOPPED, ALWAYS_KILLED, REQUEUED, CANCELLED = range(8)


@dataclass
class Disturbed:
    case: Case
    status: dict[str, Any]
    text: str

    def shard(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.status["shards"][number]
        return found

    def log(self, number: int) -> str:
        return self.case.log(f"{self.case.jobs[0]}_{number}")


@pytest.fixture(scope="module")
def disturbed(site: Site, make_case: MakeCase) -> Disturbed:
    case = make_case(site, "a run|of many", "parallelism = 7")
    case.fault(
        f"{RAISES}.1.raise",
        f"{EXITS}.1.exit",
        f"{KILLED}.1.kill",
        f"{STOPPED}.1.hold",
        f"{ALWAYS_KILLED}.1.kill.always",
        f"{REQUEUED}.1.hold",
    )
    case.start("extract", 8)
    job = case.jobs[0]
    # Seven may run at once, and none of them can have ended yet.
    assert f"{job}_{CANCELLED} PENDING" in site.queue()
    site.say("scancel", f"{job}_{CANCELLED}")
    case.held(f"{REQUEUED}.1")
    case.held(f"{STOPPED}.1")
    # What Slurm sends before the time limit.
    site.say("scancel", "--signal=USR2", f"{job}_{STOPPED}")
    until(lambda: "USR2: ending after this block" in case.log(f"{job}_{STOPPED}"), "the task has noted the signal")
    case.release(f"{STOPPED}.1")
    site.say("scontrol", "requeue", f"{job}_{REQUEUED}")
    case.release(f"{REQUEUED}.1")
    case.settle()
    return Disturbed(case, case.status(3), site.vnp("status", case.run, code=3))


def test_undisturbed_shard_is_done(disturbed: Disturbed) -> None:
    assert disturbed.shard(PLAIN)["state"] == "done"
    assert disturbed.shard(PLAIN)["attempts"] == 1


def test_job_name_says_run_and_shards(disturbed: Disturbed) -> None:
    assert disturbed.case.submissions()[0]["name"] == "vnp-a_run_of_many-0-7"


def test_fault_in_python_is_tried_again(disturbed: Disturbed) -> None:
    assert disturbed.shard(RAISES)["state"] == "done"
    assert disturbed.shard(RAISES)["attempts"] == 2
    assert f"RuntimeError: a fault at {RAISES}.1" in disturbed.log(RAISES)


def test_exit_without_a_word_is_failed(disturbed: Disturbed) -> None:
    shard = disturbed.shard(EXITS)
    assert shard["state"] == "failed"
    assert shard["attempts"] == 1
    assert shard["blocks"] == 1
    assert "Slurm: FAILED" in shard["error"]


def test_killed_task_is_queued_again_and_goes_on(disturbed: Disturbed) -> None:
    assert disturbed.shard(KILLED)["state"] == "done"
    assert disturbed.shard(KILLED)["attempts"] == 2
    assert f"shard {KILLED}: 1 of " in disturbed.log(KILLED).replace("queued again", "") + _out(disturbed, KILLED)


def test_task_that_was_asked_to_stop_goes_on_after_its_block(disturbed: Disturbed) -> None:
    shard = disturbed.shard(STOPPED)
    assert shard["state"] == "done"
    assert shard["attempts"] == 2
    log = disturbed.log(STOPPED)
    assert "ended with 75" in log
    # The second life begins with the three blocks of the first: one was written and one embedded when it was asked.
    assert f"shard {STOPPED}: 3 of {shard['blocks']} blocks" in _out(disturbed, STOPPED).split("Starting with")[-1]


def test_shard_that_always_dies_is_given_up_with_its_last_words(disturbed: Disturbed) -> None:
    shard = disturbed.shard(ALWAYS_KILLED)
    assert shard["state"] == "failed"
    assert shard["attempts"] == 3
    assert "given up" in shard["error"]
    assert f"| about to be killed at {ALWAYS_KILLED}.1" in disturbed.text


def test_requeued_task_goes_on(disturbed: Disturbed) -> None:
    assert disturbed.shard(REQUEUED)["state"] == "done"
    assert disturbed.shard(REQUEUED)["attempts"] == 2


def test_shard_cancelled_while_pending_is_missing(disturbed: Disturbed) -> None:
    shard = disturbed.shard(CANCELLED)
    assert shard["state"] == "missing"
    assert "cancelled" in shard["error"].lower()


def test_reduce_names_what_is_missing(disturbed: Disturbed) -> None:
    said = disturbed.case.site.vnp("reduce", disturbed.case.run, code=3)
    assert "shard-00002, shard-00005, shard-00007" in said
    assert "jobs.rerun" in said


def test_rerun_submits_what_is_missing_once_and_completes(disturbed: Disturbed, reference: Path) -> None:
    case = disturbed.case
    (case.faults / f"{ALWAYS_KILLED}.1.kill.always").unlink()
    # A place where the faults of the first array were not.
    case.fault(f"{EXITS}.2.hold")
    case.rerun()
    assert [entry["shards"] for entry in case.submissions()[1:]] == [[EXITS, ALWAYS_KILLED, CANCELLED]]
    case.held(f"{EXITS}.2")
    assert "in the queue already" in case.rerun()
    assert len(case.submissions()) == 2
    assert case.states()[EXITS] == "running"

    # An impatient user: two tasks on one shard.
    case.rerun("--force")
    second = case.submissions()[2]
    assert EXITS in second["shards"]
    out = case.run / "logs" / f"{second['job']}_{EXITS}_0_log.out"
    until(lambda: out.exists() and f"shard {EXITS}:" in out.read_text(), "the second task is at work")
    case.release(f"{EXITS}.2")
    case.settle()
    case.require_same(reference)


def _out(disturbed: Disturbed, number: int) -> str:
    case = disturbed.case
    return (case.run / "logs" / f"{case.jobs[0]}_{number}_0_log.out").read_text()
