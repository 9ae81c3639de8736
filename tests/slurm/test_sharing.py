"""Tasks that share the shards of a run on a real Slurm: one is killed, one is told to stop, others join."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import Site, until

pytestmark = pytest.mark.slurm

HELD, KILLED = 0, 3


def test_tasks_share_the_shards_and_others_join(site: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(site, "shared")
    case.fault(f"{HELD}.1.hold", f"{KILLED}.1.kill")
    said = case.start("extract", 6, "--tasks", "2")
    assert "submitted vnp-shared-tasks: job" in said
    assert "2 tasks for 6 shards" in said
    (job,) = case.jobs
    case.held(f"{HELD}.1")
    # One is held; the other makes the rest, though it is killed and queued again on the way.
    until(lambda: case.states().count("done") >= 4, "the other task has made what is left")
    (held,) = [shard for shard in case.status(3)["shards"] if shard["shard"] == HELD]
    assert held["state"] == "running"
    assert held["job"].startswith(f"{job}_")
    assert held["host"]
    assert "left to " in case.rerun()
    assert case.jobs == [job]
    assert "1 task for " in case.rerun("--tasks", "1")
    assert len(case.jobs) == 2
    # Who holds the shard is told to stop, and another goes on behind its blocks.
    site.say("scancel", "--signal=USR2", held["job"])
    until(lambda: "USR2: ending after this block" in case.log(held["job"]), "the task has noted the signal")
    case.release(f"{HELD}.1")
    case.settle()
    assert set(case.states(0)) == {"done"}
    assert next(one["outcome"] for one in case.receipt(HELD)["attempts"]) in ("stopped", "done")
    assert len(case.receipt(KILLED)["attempts"]) >= 2
    assert [entry["tasks"] for entry in case.submissions()] == [2, 1]
    assert [entry["shards"] for entry in case.submissions()] == [[], []]
    case.require_same(reference)
