"""What is submitted: the batch script, the arrays, and what the run notes of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs._cluster import executor
from jobs._cluster.executor import Job
from jobs._cluster.profile import Profile, Resources
from jobs._cluster.scripts import name_foreign
from jobs._cluster.slurm import Slurm
from jobs._cluster.task import run_task
from tests.jobs.fake_slurm import FakeSlurm, slurm
from vnp.errors import UsageError, VnpError
from vnp.files.hashing import code_digest

__all__ = ["slurm"]

CONFIG = "Configuration data\nMaxArraySize            = {size}\nSchedulerParameters     = bf_interval=1{more}\n"


def job(tmp_path: Path, shards: tuple[int, ...] | None = (0, 1, 2)) -> Job:
    return Job(tmp_path / "run", "vnp-run-0-2", run_task, shards=shards)


def site(**resources: Any) -> Slurm:
    wanted = Resources(**resources)
    return Slurm(Profile(wanted, wanted, wanted))


def options(text: str) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE)
    return {name: value.strip("'") for name, value in lines}


def test_script_holds_what_the_profile_says(slurm: FakeSlurm, tmp_path: Path) -> None:
    text = site(
        partition="p", account="a", qos="q", constraint="a100|h100", gpus=1, cpus=3, mem="5G", time="1:30:00",
        parallelism=2, grace=45, setup=("module load cuda",), environment={"A": "it's $HOME"},
        extra=("--mail-type=FAIL", "--exclusive"),
    ).script(job(tmp_path))  # fmt: skip
    found = options(text)
    assert found["array"] == "0-2%2"
    assert found["partition"] == "p"
    assert found["account"] == "a"
    assert found["qos"] == "q"
    assert found["constraint"] == "a100|h100"
    assert found["gpus-per-node"] == "1"
    assert found["cpus-per-task"] == "3"
    assert found["mem"] == "5G"
    assert found["time"] == "90"
    assert found["signal"] == "USR2@45"
    assert found["open-mode"] == "append"
    assert found["mail-type"] == "FAIL"
    assert found["job-name"] == "vnp-run-0-2"
    assert found["output"] == f"{tmp_path}/run/logs/%A_%a_0_log.out"
    assert {"requeue", "exclusive"} <= set(found)
    assert "gres" not in found
    # Accounting keys of submitit's own would be refused where sites check them.
    assert "wckey" not in found
    assert "module load cuda" in text.splitlines()
    assert "export A='it'\"'\"'s $HOME'" in text
    assert "srun --unbuffered" in text
    assert "--cpus-per-task=3" in text.split("srun", 1)[1].splitlines()[0]


def test_gres_in_place_of_gpus(slurm: FakeSlurm, tmp_path: Path) -> None:
    found = options(site(gres="gpu:a100:2").script(job(tmp_path)))
    assert found["gres"] == "gpu:a100:2"
    assert "gpus-per-node" not in found


def test_nothing_is_asked_for_that_is_not_named(slurm: FakeSlurm, tmp_path: Path) -> None:
    found = options(site().script(job(tmp_path)))
    assert not {"partition", "account", "qos", "constraint", "gres", "gpus-per-node", "dependency"} & set(found)


def test_command_in_an_image(slurm: FakeSlurm, tmp_path: Path) -> None:
    wanted = site(image="/my images/vnp's.sif", binds=("/data:/d",), gpus=1)
    text = wanted.script(replace(job(tmp_path), binds=(tmp_path / "input dir",)))
    command = next(line for line in text.splitlines() if line.startswith("srun"))
    words = subprocess.run(
        ["bash", "-c", "srun() { printf '%s\\n' \"$@\"; }; " + command], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    start = words.index("apptainer")
    assert words[start : start + 3] == ["apptainer", "exec", "--nv"]
    assert "/my images/vnp's.sif" in words
    assert {str(tmp_path / "run"), str(tmp_path / "input dir"), "/data:/d"} <= set(words)
    assert words[words.index("/my images/vnp's.sif") + 1] == "python"


def test_elements_are_shards(slurm: FakeSlurm, tmp_path: Path) -> None:
    assert site().submit(job(tmp_path, (0, 1, 2, 3, 7, 12))) == ["41"]
    (text,) = slurm.scripts()
    assert options(text)["array"] == "0-3,7,12%6"
    (entry,) = executor.submitted(tmp_path / "run")
    assert (entry.job, entry.base, entry.shards) == ("41", 0, [0, 1, 2, 3, 7, 12])


def test_one_element_is_an_array_too(slurm: FakeSlurm, tmp_path: Path) -> None:
    site().submit(job(tmp_path, (5,)))
    assert options(slurm.scripts()[0])["array"] == "5%1"


def task(text: str, folder: Path, **variables: str) -> list[str]:
    """The words that srun is called with, once bash has read a script."""
    srun = folder / "slurm" / "srun"
    srun.write_text('#!/bin/sh\nprintf \'%s\\0\' "$VNP_LOG" "$@"\n')
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "41", **variables}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    "name", ["run", "a b", "it's", 'say "no"', "$HOME", "`id`", "-n", "$(id)", "a;id", "#x", "é", "*", "&|<>!~"]
)
def test_a_task_is_its_command_line(name: str, slurm: FakeSlurm, tmp_path: Path) -> None:
    """Nothing that lies in the run meanwhile, where others may write, decides what is run."""
    root = tmp_path / name
    site().submit(replace(job(tmp_path, (5, 6)), root=root, arguments=("it's", None, 3)))
    assert [path.name for path in (root / "logs").iterdir()] == ["jobs.jsonl"]
    log, *words = task(slurm.scripts()[0], tmp_path, SLURM_ARRAY_JOB_ID="41", SLURM_ARRAY_TASK_ID="6")
    assert log == f"{root}/logs/41_6_0_log.err"
    start = words.index(sys.executable)
    assert "--export=ALL" in words[:start]
    *called, arguments, shard = words[start + 1 :]
    assert called == ["-P", "-u", "-m", "jobs._cluster.worker", code_digest(), "jobs._cluster.task:run_task"]
    assert (json.loads(arguments), shard) == ([str(root / "run.json"), "it's", None, 3], "6")


def test_a_plain_job_has_no_shard(slurm: FakeSlurm, tmp_path: Path) -> None:
    site().submit(job(tmp_path, None))
    log, *words = task(slurm.scripts()[0], tmp_path)
    assert log == f"{tmp_path}/run/logs/41_0_log.err"
    assert json.loads(words[-1]) == [str(tmp_path / "run" / "run.json")]


@pytest.mark.parametrize("place", ["root", "name", "bind", "variable"])
@pytest.mark.parametrize("evil", ["a\nb", "a\rb", "\x1b[31m", "a\x7f"])
def test_control_characters_reach_no_script(
    place: str, evil: str, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, asked = site(), job(tmp_path)
    if place == "root":
        asked = replace(asked, root=tmp_path / evil)
    elif place == "name":
        asked = replace(asked, name=evil)
    elif place == "bind":
        wanted, asked = site(image="/x.sif"), replace(asked, binds=(tmp_path / evil,))
    else:
        monkeypatch.setenv("VNP_WEIGHTS", evil)
    with pytest.raises(UsageError, match="control character"):
        wanted.script(asked)
    monkeypatch.setattr("jobs._cluster.scripts.check_place", lambda *_: None)
    with pytest.raises(UsageError, match="control character"):
        wanted.submit(asked)
    assert slurm.calls("sbatch") == []


@pytest.mark.parametrize(
    ("size", "more", "arrays"),
    [
        (1001, "", [(0, "0-2,1000%4"), (1001, "0-1%2")]),
        (1000, "", [(0, "0-2%3"), (1000, "0-2%3")]),
        (100_000, ",max_array_tasks=1001", [(0, "0-2,1000%4"), (1001, "0-1%2")]),
        (100_000, "", [(0, "0-2,1000-1002%6")]),
    ],
)
def test_arrays_end_at_max_array_size(
    size: int, more: str, arrays: list[tuple[int, str]], slurm: FakeSlurm, tmp_path: Path
) -> None:
    slurm.answer("scontrol", CONFIG.format(size=size, more=more))
    ids = site().submit(job(tmp_path, (0, 1, 2, 1000, 1001, 1002)))
    assert ids == ["41", "42"][: len(arrays)]
    noted = executor.submitted(tmp_path / "run")
    assert [(entry.base, options(text)["array"]) for entry, text in zip(noted, slurm.scripts(), strict=True)] == arrays
    assert [shard for entry in noted for shard in entry.shards] == [0, 1, 2, 1000, 1001, 1002]


@pytest.mark.parametrize("answer", ["", "garbage", "MaxArraySize = many"])
def test_max_array_size_where_slurm_does_not_say(answer: str, slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", answer)
    assert Slurm().max_array_size() == 1001
    slurm.answer("scontrol", error="slurm_load_ctl_conf error", code=1)
    assert Slurm().max_array_size() == 1001


def test_refusal_is_told_in_the_words_of_slurm(
    slurm: FakeSlurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm.answer(
        "sbatch",
        error="sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Nope\n",
        code=1,
    )
    with pytest.raises(VnpError) as caught:
        site().submit(job(tmp_path))
    assert str(caught.value) == (
        "Slurm refused the job vnp-run-0-2: invalid partition specified: x; Batch job submission failed: Nope\n"
        "Without Slurm, on this machine alone: --cluster local"
    )
    assert capfd.readouterr().err == ""
    assert executor.submitted(tmp_path / "run") == []


def test_refusal_of_a_later_array_names_the_earlier_ones(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.answer("scontrol", CONFIG.format(size=2, more=""))
    sbatch = slurm.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("#!/bin/sh", f"#!/bin/sh\n[ -f '{slurm.folder}/script0' ] && exit 1"))
    with pytest.raises(VnpError, match=r"(?s)jobs 41 before it were submitted.*jobs\.rerun"):
        site().submit(job(tmp_path))
    assert [entry.shards for entry in executor.submitted(tmp_path / "run")] == [[0, 1]]


@pytest.mark.parametrize("name", ["50%a", "a\\b"])
def test_placeholders_in_the_run_directory_are_refused(name: str, slurm: FakeSlurm, tmp_path: Path) -> None:
    for use in (site().submit, site().script):
        with pytest.raises(UsageError, match="placeholder; choose another --out"):
            use(replace(job(tmp_path), root=tmp_path / name))


def test_variables_of_a_job_are_not_handed_on(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = slurm.folder / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("#!/bin/sh", f"#!/bin/sh\nenv > '{tmp_path}/seen'"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    site().submit(job(tmp_path))
    seen = (tmp_path / "seen").read_text()
    assert "SLURM_MEM_PER_NODE" not in seen
    assert "SLURM_CONF=/etc/slurm.conf" in seen
    assert os.environ["SLURM_MEM_PER_NODE"] == "100"


def test_options_of_slurm_in_the_environment_are_left_aside(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They would go before what the script says, and filter what the queue shows."""
    for name in ("sbatch", "squeue", "scancel", "sacct"):
        path = slurm.folder / name
        path.write_text(path.read_text().replace("#!/bin/sh", f"#!/bin/sh\nenv >> '{tmp_path}/seen'"))
    foreign = ["SBATCH_EXPORT", "SBATCH_PARTITION", "SBATCH_WAIT"]
    for name in (*foreign, "SLURM_EXPORT_ENV", "SQUEUE_STATES", "SCANCEL_STATE", "SACCT_FORMAT", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "1")
    name_foreign.cache_clear()
    for _ in range(2):
        site().submit(job(tmp_path))
    site().state(tmp_path / "run")
    site().ended(["41"])
    site().cancel(["41"])
    assert not re.search("^(SBATCH|SLURM|SQUEUE|SCANCEL|SACCT)_", (tmp_path / "seen").read_text(), re.MULTILINE)
    assert capfd.readouterr().err == (
        f"{', '.join(foreign)} of your environment left aside: what a job asks for is in the profile\n"
    )


def test_the_script_says_what_a_task_needs(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sites or users have it that jobs begin with an empty environment."""
    monkeypatch.setenv("VNP_WEIGHTS", "/we ights")
    monkeypatch.setenv("VNP_LOG", "/another/task's")
    monkeypatch.setenv("PYTHONPATH", f":lib:{tmp_path}")
    text = site(environment={"VNP_CONFIG": "/c"}).script(job(tmp_path))
    said = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
    assert said["VNP_WEIGHTS"] == "'/we ights'"
    assert said["VNP_CONFIG"] == "/c"
    assert said["PYTHONSAFEPATH"] == "1"
    assert said["PYTHONPATH"] == str(tmp_path)
    assert "another" not in said["VNP_LOG"]
    text = site(environment={"PYTHONPATH": "/own:"}).script(job(tmp_path))
    assert "export PYTHONPATH=/own\n" in text


@pytest.mark.parametrize(
    ("code", "restarts", "state", "requeued"),
    [
        (0, 0, "RUNNING", False), (1, 0, "RUNNING", False), (3, 0, "RUNNING", False), (70, 0, "RUNNING", True),
        (75, 0, "RUNNING", True), (137, 0, "RUNNING", True), (75, 1, "RUNNING", True), (75, 2, "RUNNING", False),
        (75, 0, "CANCELLED", False), (143, 0, "COMPLETING", False), (75, 0, "PENDING", False),
    ],
)  # fmt: skip
def test_batch_script_queues_again(
    code: int, restarts: int, state: str, requeued: bool, slurm: FakeSlurm, tmp_path: Path
) -> None:
    text = site(retries=2).script(job(tmp_path))
    srun = slurm.folder / "srun"
    srun.write_text(f"#!/bin/sh\nexit {code}\n")
    slurm.answer("scontrol", f"JobId=41 JobState={state} Reason=None")
    # The first element of an array has the array's own id.
    environment = {"SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "41"}
    done = subprocess.run(
        ["bash", "-c", text],
        env={"PATH": os.environ["PATH"], **environment, "SLURM_RESTART_COUNT": str(restarts)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert ("requeue 41_2" in slurm.calls("scontrol")) == requeued
    assert ("given up" in done.stderr) == (restarts == 2)
    assert not [call for call in slurm.calls("scontrol") if call.endswith(" 41")]


def test_note_after_a_torn_line(tmp_path: Path) -> None:
    executor.note(tmp_path, "1", "first", 0, [0, 1])
    path = executor.jobs_file(tmp_path)
    path.write_text(path.read_text() + '{"job": "2", "na')
    assert [entry.job for entry in executor.submitted(tmp_path)] == ["1"]
    executor.note(tmp_path, "3", "third", 0, [])
    assert [entry.job for entry in executor.submitted(tmp_path)] == ["1", "3"]
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n[]\n" + json.dumps({"job": "4"}).encode())
    assert [entry.job for entry in executor.submitted(tmp_path)] == ["1", "3"]
    assert executor.submitted(tmp_path / "nowhere") == []


def test_hand_made_job_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    executor.note_own_job(tmp_path)
    assert executor.submitted(tmp_path) == []
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
    monkeypatch.setenv("SLURM_JOB_NAME", "mine")
    executor.note_own_job(tmp_path)
    executor.note_own_job(tmp_path)
    assert [(entry.job, entry.name) for entry in executor.submitted(tmp_path)] == [("9", "mine")]
