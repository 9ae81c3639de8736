"""Where a command is given: names, folders and environments that would turn tasks into something else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import ENCODING, Site
from vnp.files.hashing import code_digest

pytestmark = pytest.mark.slurm

FOREIGN = {
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_TIMELIMIT": "0",
    "SBATCH_OUTPUT": "/dev/null",
    "SBATCH_WAIT": "1",
    "SBATCH_EXPORT": "NONE",
    "SLURM_NTASKS": "3",
    "SQUEUE_STATES": "COMPLETED",
}


# A PYTHONPATH that means the working directory would be that of this Python too.
_COMMAND = (
    "import os, sys; os.environ['PYTHONPATH'] = os.environ.get('OF_TASKS', ''); sys.argv[0] = 'vnp'; "
    "from jobs.__main__ import main; main()"
)


@pytest.mark.parametrize(
    ("name", "profile", "variables"),
    [
        ('it\'s a "run" of $HOME and `id` & <é>', 'extra = ["--export=NONE"]', {**FOREIGN, "OF_TASKS": ":."}),
        ("-n '#SBATCH $(id)", '[cpu.environment]\nSLURM_EXPORT_ENV = "NONE"', {"SLURM_EXPORT_ENV": "NONE"}),
    ],
)
def test_tasks_are_what_was_asked_for(
    name: str, profile: str, variables: dict[str, str], site: Site, make_case: MakeCase, tmp_path: Path
) -> None:
    case = make_case(site, name, *filter(None, [profile]))
    for module in ("random", "queue", "submitit/__init__", "vnp/__init__", "jobs/__init__"):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / f"{module}.py").write_text("raise SystemExit('the working directory was run')\n")
    asked = ["extract", case.input, "--out", case.run, "--shards", "2", *ENCODING, *case.options]
    said = site.run([sys.executable, "-P", "-c", _COMMAND, *map(str, asked)], tmp_path, variables)
    assert ("SBATCH_WAIT" in said) == ("SBATCH_WAIT" in variables)
    assert case.submissions()[0]["shards"] == [0, 1]
    case.settle()
    assert case.states(0) == ["done", "done"], [case.log(f"{case.jobs[0]}_{shard}") for shard in (0, 1)]
    for shard in (0, 1):
        assert case.receipt(shard)["versions"]["code"] == code_digest()
        assert "Starting with" in (case.run / "logs" / f"{case.jobs[0]}_{shard}_0_log.out").read_text()
    assert not [path for path in (case.run / "logs").iterdir() if path.suffix in {".pkl", ".sh"}]


@pytest.mark.parametrize(("name", "why"), [("a\\b", "placeholder"), ("50%", "placeholder"), ("a\nid", "control")])
def test_names_that_cannot_be_are_refused(name: str, why: str, site: Site, make_case: MakeCase) -> None:
    case = make_case(site, name)
    for more in ([], ["--dry-run"], ["--plan-job"]):
        assert why in case.start("extract", 2, *more, code=2)
    assert not case.run.exists() or not (case.run / "logs/jobs.jsonl").exists()


def test_inside_a_job_auto_is_this_job(site: Site, make_case: MakeCase, reference: Path) -> None:
    case = make_case(site, "inside")
    words = ["-m", "jobs.pipeline", case.input, "--out", case.run, "--shards", "3", *ENCODING, "--no-train"]
    said = site.say("srun", "-n1", "--mem=400M", f"--chdir={case.folder}", sys.executable, *map(str, words))
    assert "made 3 shards" in said or "features.h5" in said
    assert not (case.run / "logs/jobs.jsonl").exists()
    case.require_same(reference)
