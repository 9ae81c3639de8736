"""Fake programs of Grid Engine, PBS and LSF, and jobs for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jobs._cluster.executor import Job
from jobs._cluster.grid_engine import GridEngine
from jobs._cluster.lsf import Lsf
from jobs._cluster.pbs import Pbs
from jobs._cluster.plain import Plain
from jobs._cluster.profile import Profile, Resources
from jobs._cluster.task import run_task
from tests.jobs.fake_slurm import FakeSlurm

KINDS: dict[str, type[Plain]] = {"sge": GridEngine, "pbs": Pbs, "lsf": Lsf}


PROGRAMS = {
    "sge": (("qsub", "qstat", "qdel", "qacct", "qconf"), 'Your job-array %s.1-3:1 ("n") has been submitted'),
    "pbs": (("qsub", "qstat", "qdel", "pbsnodes"), "%s[].pbs1.example.org"),
    "lsf": (("bsub", "bjobs", "bkill", "bparams"), "Job <%s> is submitted to default queue <normal>."),
}


# The id of the first array, and of its third element.
IDS = {"sge": ("41", "41.3"), "pbs": ("41[]", "41[3]"), "lsf": ("41", "41[3]")}


INSIDE = {
    "sge": {"JOB_ID": "41", "SGE_TASK_ID": "3"},
    "pbs": {"PBS_JOBID": "41[3].pbs1.example.org", "PBS_ARRAY_INDEX": "3"},
    "lsf": {"LSB_JOBID": "41", "LSB_JOBINDEX": "3"},
}


@pytest.fixture(params=list(KINDS))
def cluster(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def fake(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return make_fake(cluster, tmp_path, monkeypatch)


def make_fake(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    names, taken = PROGRAMS[cluster]
    found = FakeSlurm(tmp_path / "programs", names, taken)
    for name in os.environ:
        if name.startswith(("SGE_", "PBS_", "LSB_", "VNP_PROFILE", "JOB_ID")):
            monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    for name in ("bash", "cat", "cp", "date", "env", "grep", "ls", "sh", "timeout"):
        path = next(folder / name for folder in (Path("/usr/bin"), Path("/bin")) if (folder / name).exists())
        (tmp_path / "bin" / name).symlink_to(path)
    monkeypatch.setenv("PATH", f"{found.folder}:{tmp_path / 'bin'}")
    return found


def job(tmp_path: Path, shards: tuple[int, ...] | None = (0, 2, 7), **more: Any) -> Job:
    return Job(tmp_path / "run", "vnp-run-0-7", run_task, shards=shards, **more)


def site(cluster: str, **resources: Any) -> Plain:
    wanted = Resources(**resources)
    return KINDS[cluster](Profile(wanted, wanted, wanted))


QUEUE = {
    "sge": (
        "qstat",
        "<?xml version='1.0'?>\n<job_info><queue_info>"
        + "".join(
            f"<job_list state='x'><JB_job_number>{number}</JB_job_number><JB_name>{name}</JB_name>"
            f"<JB_owner>root</JB_owner><state>{state}</state>{f'<tasks>{index}</tasks>' if index else ''}</job_list>"
            for number, index, state, name in (
                (41, 1, "r", "vnp-run-0-7"), (41, 2, "Rq", "vnp-run-0-7"), (41, 3, "dr", "vnp-run-0-7"),
                (42, "", "hqw", "vnp-run-reduce"), (41, 1, "r", "of-somebody-else"), (99, 1, "r", "vnp-run-0-7"),
            )
        )
        + "</queue_info></job_info>",
    ),
    "pbs": (
        "qstat",
        "".join(
            f"Job Id: {number}.pbs1\n    Job_Name = {name}\n    job_state = {state}\n    queue = workq\n{more}\n"
            for number, state, name, more in (
                ("41[]", "B", "vnp-run-0-7", ""), ("41[1]", "R", "vnp-run-0-7", ""),
                ("41[2]", "Q", "vnp-run-0-7", "    comment = Not Running: Insufficient amount of\n\t ncpus\n"),
                ("41[3]", "E", "vnp-run-0-7", ""), ("42", "H", "vnp-run-reduce", ""),
                ("43", "R", "of-somebody-else", "    Variable_List = A=1,\n\tB=2\n"),
                ("44", "F", "vnp-run-reduce", ""),
            )
        ),
    ),
    "lsf": (
        "bjobs",
        "41|1|RUN|-|vnp-run-0-7[1]\n41|2|PEND|The job array has reached its running element limit;|vnp-run-0-7[2]\n"
        "42|0|PEND|Job dependency condition not satisfied;|vnp-run-reduce\n41|3|EXIT|-|vnp-run-0-7[3]\n"
        "43|0|RUN|-|of-somebody-else\n99|1|RUN|-|vnp-run-0-7[1]\ngarbage\n",
    ),
}  # fmt: skip
