"""Jobs that wait for each other: nothing is left waiting for ever, and only this run's jobs are cancelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import Site, require_same_features, until

pytestmark = pytest.mark.slurm


def test_pipeline_with_a_failed_shard(site: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(site, "failing")
    case.fault("1.1.exit")
    case.start("pipeline", 3)
    _, merging = case.jobs
    case.settle()
    said = case.log(merging)
    assert "1 of 3 shards are missing: shard-00001" in said
    assert f"python -m jobs.rerun {case.run}" in said
    # The queue forgets a job a moment before accounting hears how it ended.
    ended = f"{merging}|FAILED|3:0"
    until(lambda: ended in site.say("sacct", "-nPXj", merging, "-o", "JobID,State,ExitCode"), f"sacct says {ended}")
    assert not (case.run / "features.h5").exists()

    case.rerun("--then", "pipeline")
    assert [entry["shards"] for entry in case.submissions()[2:]] == [[1], []]
    case.settle()
    require_same_features(case.run / "features.h5", reference)
    case.require_same(reference)


def test_cancel_ends_the_jobs_of_one_run(site: Site, make_case: MakeCase, reference: Path) -> None:
    first, second = make_case(site, "same name", "parallelism = 2"), make_case(site, "same name", "parallelism = 2")
    for case in (first, second):
        case.fault("0.1.hold", "1.1.hold")
        case.start("pipeline", 3)
    for case in (first, second):
        case.held("0.1")
        case.held("1.1")
    assert len(first.queued()) == 4
    state = first.status(3)
    assert [shard["state"] for shard in state["shards"]] == ["running", "running", "queued"]
    assert "waits: JobArrayTaskLimit" in state["shards"][2]["error"]
    assert [job["reason"] for job in state["other_jobs"]] == ["Dependency"]
    said = site.vnp("cancel", first.run)
    assert "cancelled 4 tasks of 2 jobs (2 had started" in said
    first.settle()
    assert len(second.queued()) == 4
    # The batch scripts did not queue their tasks again.
    assert [first.states()[shard] for shard in (0, 1)] == ["failed", "failed"]
    assert "nothing to cancel" in site.vnp("cancel", first.run)

    # What has jobs in the queue is not begun anew under them.
    said = second.start("pipeline", 3, "--force", code=2)
    assert "has jobs in the queue" in said
    first.release("0.1", "1.1")
    second.release("0.1", "1.1")
    first.rerun("--then", "pipeline")
    for case in (first, second):
        case.settle()
        require_same_features(case.run / "features.h5", reference)


def test_planning_in_a_job(site: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(site, "planned")
    case.start("pipeline", 2, "--plan-job")
    assert len(case.jobs) == 3
    case.settle()
    require_same_features(case.run / "features.h5", reference)


def test_planning_that_fails_leaves_nothing_waiting(site: Site, make_case: MakeCase) -> None:
    case = make_case(site, "unplanned")
    case.input = case.folder / "twice.fasta"
    case.input.write_text(">a\nACGT\n>a\nACGT\n")
    case.start("pipeline", 2, "--plan-job")
    case.settle()
    said = site.vnp("status", case.run, code=3)
    assert "two records are called 'a'" in said
    assert "is not planned yet" in said


def test_slurm_refuses(site: Site, make_case: MakeCase) -> None:
    case = make_case(site, "refused", 'partition = "nowhere"')
    said = case.start("extract", 2, code=1)
    assert "Slurm refused the job vnp-refused-0-1" in said
    assert "invalid partition specified: nowhere" in said
    assert said.count("error:") == 1
    case = make_case(site, "greedy", 'extra = ["--gres=gpu:9"]')
    assert "Requested node configuration is not available" in case.start("extract", 2, code=1)


def test_dry_run_writes_nothing(site: Site, make_case: MakeCase) -> None:
    case = make_case(site, "dry")
    said = case.start("extract", 3, "--dry-run")
    assert "#SBATCH --array=0-2%3" in said
    assert not case.run.exists()
    assert not site.queue("%j %T") or "vnp-dry" not in "".join(site.queue("%j"))
