"""Everything on a real Grid Engine: an array of disturbed shards, chains, cancelling, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import Case, Site, require_same_features, until

pytestmark = pytest.mark.grid_engine

PLAIN, RAISES, EXITS, KILLED, ALWAYS_KILLED, RESCHEDULED, CANCELLED = range(7)


def out(case: Case, job: str, shard: int) -> str:
    return (case.run / "logs" / f"{job}_{shard + 1}_0_log.out").read_text()


def test_an_array_of_disturbed_shards(cell: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(cell, 'it\'s a "run" of $HOME & <é>', 'scheduler = "sge"', "parallelism = 2")
    case.fault(
        f"{RAISES}.1.raise", f"{EXITS}.1.exit", f"{KILLED}.1.kill", f"{ALWAYS_KILLED}.1.kill.always",
        f"{RESCHEDULED}.1.told", f"{PLAIN}.1.hold",
    )  # fmt: skip
    case.start("extract", 7, "--retries", "1")
    (job,) = case.jobs
    # Two may run at once, and both hold before the last is begun.
    cell.say("qdel", f"{job}.{CANCELLED + 1}")
    case.held(f"{PLAIN}.1")
    case.held(f"{RESCHEDULED}.1")
    assert [case.states()[shard] for shard in (PLAIN, RESCHEDULED)] == ["running", "running"]
    # Told to stop, it ends at once: its next life would be taken for the old one if that were still there.
    cell.say("qmod", "-rj", f"{job}.{RESCHEDULED + 1}")
    case.release(f"{PLAIN}.1")
    case.settle()
    found = case.status(3)["shards"]
    expected = ["done", "done", "failed", "done", "failed", "done", "missing"]
    assert [one["state"] for one in found] == expected, found
    assert [one["attempts"] for one in found] == [1, 2, 1, 2, 2, 2, 0]
    assert found[EXITS]["job"] == f"{job}.{EXITS + 1}"
    # Its accounting is written a moment later.
    until(lambda: "Grid Engine: exit status 1" in case.status(3)["shards"][EXITS]["error"], "qacct tells it")
    assert "given up" in found[ALWAYS_KILLED]["error"]
    assert "cancelled" in found[CANCELLED]["error"]
    assert f"shard {KILLED}: 1 of " in out(case, job, KILLED).split("Starting with")[2]

    said = cell.vnp("reduce", case.run, code=3)
    assert "shard-00002, shard-00004, shard-00006" in said
    (case.faults / f"{ALWAYS_KILLED}.1.kill.always").unlink()
    case.rerun()
    assert case.submissions()[1]["shards"] == [EXITS, ALWAYS_KILLED, CANCELLED]
    assert "in the queue already" in case.rerun()
    case.settle()
    case.require_same(reference)


def test_a_chain_is_cancelled_and_completed(cell: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(cell, "chain", "parallelism = 2")
    case.fault("0.1.hold", "1.1.hold")
    case.start("pipeline", 3)
    case.held("0.1")
    case.held("1.1")
    state = case.status(3)
    assert [shard["state"] for shard in state["shards"]] == ["running", "running", "queued"]
    assert [job["reason"] for job in state["other_jobs"]] == ["Dependency"]
    assert "cancelled 4 tasks of 2 jobs (2 had started" in cell.vnp("cancel", case.run)
    case.settle()
    assert "nothing to cancel" in cell.vnp("cancel", case.run)
    # What was cancelled was not queued again.
    assert [case.states()[shard] for shard in (0, 1)] == ["failed", "failed"]
    case.release("0.1", "1.1")
    case.rerun("--then", "pipeline")
    case.settle()
    require_same_features(case.run / "features.h5", reference)


def test_several_runs_at_once(cell: Site, make_case: MakeCase, reference: Path) -> None:
    """A task near its time limit; planning as a job, and one that fails; a prediction by tasks that share its shards,
    with GPUs as far as Grid Engine knows.
    """
    short, planned = make_case(cell, "short", "time = 1", "grace = 50"), make_case(cell, "planned")
    bad, calls = make_case(cell, "unplanned"), make_case(cell, "calls")
    short.fault("0.1.told")
    short.start("extract", 1, "--retries", "5")
    planned.start("pipeline", 2, "--plan-job")
    bad.input = bad.folder / "twice.fasta"
    bad.input.write_text(">a\nACGT\n>a\nACGT\n")
    bad.start("pipeline", 2, "--plan-job")
    cell.vnp("predict", calls.input, "--out", calls.run, "--shards", "3", "--tasks", "2", *calls.options)
    for case in (short, planned, bad, calls):
        case.settle()
    log = short.log(short.jobs[0])
    assert "USR2: ending after this block" in log
    assert "ended with 75" in log
    lives = (short.run / "logs" / f"{short.jobs[0]}_0_log.out").read_text().split("Starting with")
    assert len(lives) > 2
    short.require_same(reference)
    require_same_features(planned.run / "features.h5", reference)
    said = cell.vnp("status", bad.run, code=3)
    assert "two records are called 'a'" in said
    assert "is not planned yet" in said
    assert "which this one waited for, did not succeed" in bad.log(f"{bad.jobs[1]}_1")
    assert (calls.run / "report.html").exists()
    assert [(entry["shards"], entry.get("tasks")) for entry in calls.submissions()] == [([], 2), ([], None)]
    assert "gpu=1" in cell.say("qacct", "-j", calls.jobs[0])


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ("partition = 'nowhere'", 'Job was rejected because job requests unknown queue "nowhere"'),
        ("scheduler = 'sge'\nmemory_resource = ''\nextra = ['-l mem_total=900T']", "no suitable queues"),
        ("parallel_environment = 'nope'", 'the requested parallel environment "nope" does not exist'),
    ],
)
def test_refusals_are_one_line(profile: str, why: str, cell: Site, make_case: MakeCase) -> None:
    case = make_case(cell, "refused", profile)
    said = case.start("extract", 2, code=1)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: Grid Engine refused the job vnp-refused-0-1: ")
    assert why in line
    assert not (case.run / "logs/jobs.jsonl").exists()
