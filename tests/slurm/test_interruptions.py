"""Tasks that Slurm ends for reasons of its own: time limits, nodes that fail, jobs that matter more."""

from __future__ import annotations

import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import Case, Site, until

pytestmark = pytest.mark.slurm

IN_TIME, TOO_LATE = 0, 1


@pytest.fixture(scope="module")
def limited(site: Site, make_case: MakeCase, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two shards with a limit of one minute: it is started first and looked at last, since that minute takes its time.

    Its tasks run in an image, by an apptainer of the test's own that has nothing of Slurm on its PATH, as images have.
    """
    folder = tmp_path_factory.mktemp("bin")
    apptainer = folder / "apptainer"
    # Everything up to the word "python" is for Apptainer.
    apptainer.write_text(
        "#!/bin/bash\n"
        'while [ "$1" != python ]; do shift; done\n'
        "shift\n"
        f"mkdir -p '{folder}/inside'\n"
        f"PATH='{folder}/inside' exec '{sys.executable}' \"$@\"\n"
    )
    apptainer.chmod(apptainer.stat().st_mode | stat.S_IXUSR)
    # There must be an image; what is in it is looked at only where the submitting host has an apptainer too.
    (folder / "vnp.sif").touch()
    case = make_case(
        site,
        "limited",
        # A busy machine takes half a minute to start a task, which has to be at work when it is told.
        "time = 2",
        "grace = 40",
        f"image = '{folder / 'vnp.sif'}'",
        f"setup = ['export PATH={folder}:$PATH']",
        'extra = ["--nodelist=n2"]',
    )
    case.fault(f"{IN_TIME}.1.told", f"{TOO_LATE}.0.hold")
    case.start("extract", 2)
    return case


def test_two_jobs_that_are_preempted(limited: Case, site: Site, make_case: MakeCase, reference: Path) -> None:
    """One has time to end its block, the other is killed at once; both go on when the other job has ended."""
    patient = make_case(site, "patient", 'partition = "low"', 'extra = ["--nodelist=n1"]')
    hasty = make_case(site, "hasty", 'partition = "main"', 'extra = ["--nodelist=n1"]')
    for case in (patient, hasty):
        case.fault("0.1.hold")
        case.start("extract", 1)
    for case in (patient, hasty):
        case.held("0.1")
    important = site.say(
        "sbatch", "--parsable", "--partition=high", "--nodelist=n1", "--exclusive", "--output=/dev/null",
        "--wrap=sleep 600",
    )  # fmt: skip
    (element,) = patient.queued()
    log = element.split()[0]
    until(lambda: "SIGTERM: ending after this block" in patient.log(log), "the task has noted that it must go")
    assert patient.attempts(0)[0]["outcome"] == "running"
    patient.release("0.1")
    until(lambda: f"{important}_N/A RUNNING" in site.queue(), "the important job runs")
    for case in (patient, hasty):
        until(partial(_is_queued, case), "the preempted task is queued again")
    assert patient.attempts(0)[0]["outcome"] == "stopped"
    blocks = [case.status(3)["shards"][0]["blocks"] for case in (patient, hasty)]
    # The third was embedded while the second was being written, and is safe too.
    assert blocks == [3, 1]
    hasty.release("0.1")
    site.say("scancel", important)
    for case in (patient, hasty):
        case.settle()
        case.require_same(reference)
        assert case.receipt(0)["attempt"] == 2


def test_node_that_goes_down(limited: Case, site: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(site, "down", 'extra = ["--gres=gpu:1"]')
    case.fault(*(f"{shard}.1.hold" for shard in range(4)))
    # Tasks of the node that stays up wait for the end of the test, those of the other are lost with it.
    case.start("extract", 4, "--parallelism", "4")
    gpus = {shard: case.held(f"{shard}.1") for shard in range(4)}
    words = [line.split() for line in site.queue("%F %K %N")]
    nodes = {element[1]: element[2] for element in words if element[0] == case.jobs[0]}
    seen = {(nodes[str(shard)], gpu) for shard, gpu in gpus.items()}
    assert len(seen) == 4, f"tasks share GPUs: {seen}"
    site.say("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    try:
        for shard in range(4):
            case.release(f"{shard}.1")
        case.settle()
    finally:
        # It comes back by itself: ReturnToService=2.
        until(lambda: "n1 down" not in site.say("sinfo", "-hN", "-o", "%N %t"), "the node is back")
    lost = [shard for shard in range(4) if nodes[str(shard)] == "n1"]
    assert lost
    case.require_same(reference)
    assert [shard for shard in range(4) if case.receipt(shard)["attempt"] > 1] == lost


def test_time_limit(limited: Case, site: Site, reference: Path) -> None:
    case = limited
    case.settle()
    # On a slow machine the second attempt can meet the limit too.
    assert case.receipt(IN_TIME)["attempt"] >= 2
    assert "USR2: ending after this block" in case.log(f"{case.jobs[0]}_{IN_TIME}")
    # The other had no block in the time that it had, and was given more.
    first, *_, last = case.receipt(TOO_LATE)["attempts"]
    assert first["error"].startswith(
        "its time was up in the middle of a block; no block was made in 2 min: asked again"
    )
    assert first["asked"]["seconds"] <= 120 < last["asked"]["seconds"]
    case.require_same(reference)


def _is_queued(case: Case) -> bool:
    return case.states() == ["queued"]
