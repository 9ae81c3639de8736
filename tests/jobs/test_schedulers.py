"""Grid Engine, PBS and LSF: what they get, and what is made of their answers. ``tests/grid_engine`` runs the first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs import extract
from jobs._cluster import executor
from jobs._cluster.profile import Profile, Resources
from jobs._cluster.scripts import name_foreign
from jobs._cluster.task import plan_task
from tests.jobs.fake_slurm import FakeSlurm
from tests.jobs.schedulers import IDS, INSIDE, KINDS, PROGRAMS, QUEUE, cluster, fake, job, make_fake, site
from vnp.errors import UsageError, VnpError

__all__ = ["cluster", "fake"]

COMPLEXES = """\
#name               shortcut   type      relop requestable consumable default  urgency
#--------------------------------------------------------------------------------------
gpu                 gpu        INT       <=    YES         JOB        0        0
gpu_of_slot         gs         INT       <=    YES         YES        0        0
h_vmem              h_vmem     MEMORY    <=    YES         YES        0        0
m_mem_free          mfree      MEMORY    <=    YES         JOB        0        0
mem_free            mf         MEMORY    <=    YES         NO         0        0
# >#< starts a comment but comments are not saved across edits --------
"""


def options(text: str) -> list[str]:
    return [line.partition(" ")[2] for line in text.splitlines()[1:] if re.match("#[$PB]", line)]


WANTED: dict[str, Any] = {
    "partition": "p", "account": "a", "constraint": "fast", "gpus": 1, "cpus": 4, "mem": "5G", "time": "1:30:00",
    "parallelism": 2,
}  # fmt: skip


ASKED = {
    "sge": [
        "-S /bin/bash", "-N vnp-run-0-7", "-wd /tmp", "-o /dev/null", "-e /dev/null", "-r y", "-notify",
        "-l h_rt=5400", "-l mem_free=5120M", "-l gpu=1", "-pe smp 4", "-l fast", "-q p", "-P a", "-t 1-3", "-tc 2",
        "-hold_jid 8,9",
    ],
    "pbs": [
        "-N vnp-run-0-7", "-S /bin/bash", "-o /dev/null", "-e /dev/null", "-r y",
        "-l select=1:ncpus=4:mem=5120mb:ngpus=1:fast", "-l walltime=1:30:00", "-q p", "-A a", "-J 1-3%2",
        "-W depend=afterok:8:9",
    ],
    "lsf": [
        '-J "vnp-run-0-7[1-3]%2"', "-cwd /tmp", "-o /dev/null", "-e /dev/null", "-r", '-Q "75"', "-n 4",
        '-R "span[hosts=1] rusage[mem=5120MB]"', "-M 5120MB", "-W 90", '-gpu "num=1"', '-R "select[fast]"', "-q p",
        "-P a", '-w "done(8) && done(9)"', "-ti",
    ],
}  # fmt: skip


ANYHOW = {"sge": "-hold_jid 8", "pbs": "-W depend=afterany:8", "lsf": '-w "ended(8)"'}


def test_script_holds_what_the_profile_says(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    if cluster == "sge":
        fake.answer("qconf", COMPLEXES)
    text = site(
        cluster, **WANTED, extra=("-m n",), setup=("module load\tcuda",), environment={"A": "it's $HOME"}
    ).script(job(tmp_path, after=("8", "9")))
    assert options(text) == [*ASKED[cluster], "-m n"]
    assert "\nmodule load\tcuda\n" in text
    assert "export A='it'\"'\"'s $HOME'" in text
    # What one that waits for an end, not for success, has instead; and what one task has, or none of a shard.
    text = site(cluster).script(job(tmp_path, (5,), after=("8",), anyhow=True))
    assert ANYHOW[cluster] in options(text)
    assert not [option for option in options(text) if option.startswith(("-t ", "-J 1", '-J "vnp-run-0-7['))]


def test_what_a_site_of_grid_engine_counts_by_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_fake("sge", tmp_path, monkeypatch).answer("qconf", COMPLEXES)

    def asked(**wanted: Any) -> list[str]:
        return [one for one in options(site("sge", **wanted).script(job(tmp_path))) if re.match("-[lw] (?!h_rt)", one)]

    assert asked(cpus=4, mem="5G") == ["-l mem_free=5120M"]
    # What nodes do not report by and by can be looked at before.
    assert asked(cpus=4, mem="5G", memory_resource="h_vmem") == ["-l h_vmem=1280M", "-w e"]
    assert asked(cpus=4, mem="5G", memory_resource="m_mem_free") == ["-l m_mem_free=5120M", "-w e"]
    assert asked(cpus=3, mem="10", memory_resource="s_rss") == ["-l s_rss=4M", "-w e"]
    assert asked(memory_resource="") == ["-w e"]
    assert asked(cpus=2, gpus=2, memory_resource="", gpu_resource="gpu_of_slot") == ["-w e", "-l gpu_of_slot=1"]
    with pytest.raises(UsageError, match="gpu_of_slot is counted by slot here"):
        asked(cpus=4, gpus=1, gpu_resource="gpu_of_slot")


def test_lsf_that_reserves_memory_by_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_fake("lsf", tmp_path, monkeypatch).answer("bparams", "    RESOURCE_RESERVE_PER_TASK = Y\n")
    assert '-R "span[hosts=1] rusage[mem=1280MB]"' in options(site("lsf", cpus=4, mem="5G").script(job(tmp_path)))


LEFT_OUT = {"sge": "-l hostname=!(n1|n2)", "lsf": '-R "select[hname!=n1 && hname!=n2]"'}


def test_nodes_are_left_out(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    here = site(cluster, exclude=("n1", "n2"))
    if cluster in LEFT_OUT:
        assert LEFT_OUT[cluster] in options(here.script(job(tmp_path)))
        return
    # Nor is that asked of it when tasks have failed.
    assert here.node_count(Resources()) == 0
    with pytest.raises(UsageError, match="exclude in the profile means nothing to PBS"):
        here.script(job(tmp_path))


def test_submission_is_noted_and_told_by_shard(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    here, (array, third) = site(cluster), IDS[cluster]
    assert here.submit(job(tmp_path)) == [array]
    (entry,) = executor.submitted(tmp_path / "run")
    assert (entry.shards, entry.cluster, entry.name) == ([0, 2, 7], cluster, "vnp-run-0-7")
    assert type(executor.scheduler(tmp_path / "run")) is KINDS[cluster]
    assert [here.index(entry, shard) for shard in (0, 2, 7)] == [1, 2, 3]
    assert here.task_id(array, 3) == third
    assert here.job_of(third) == array
    assert here.log(array, 3) == "41_3_0_log.err"
    assert len(fake.scripts()) == 1


def test_tasks_that_share_shards(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    here = site(cluster)
    here.submit(job(tmp_path, (0, 2, 7), tasks=2))
    (entry,) = executor.submitted(tmp_path / "run")
    assert (entry.shards, entry.tasks) == ([], 2)
    assert "\nshards=(0 1)\n" in fake.scripts()[0]
    fake.answer(QUEUE[cluster][0], QUEUE[cluster][1])
    found = here.state(tmp_path / "run") or []
    assert {(one.shard, one.shares) for one in found} == {(None, True)}


LIMITS = {
    "sge": ("qconf", "max_u_jobs                   0\nmax_aj_tasks                 2\n"),
    "pbs": ("qstat", "Server: pbs1\n    server_state = Active\n    max_array_size = 2\n    total_jobs = 0\n"),
    "lsf": ("bparams", "    MAX_JOB_ARRAY_SIZE = 2\n"),
}


WITHOUT = {"sge": 75_000, "pbs": 10_000, "lsf": 1000}


def test_arrays_end_at_the_limit_of_the_site(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    here, (program, answer) = site(cluster), LIMITS[cluster]
    assert here.max_array_size() == WITHOUT[cluster]
    fake.answer(program, answer)
    assert len(here.submit(job(tmp_path, (1, 5, 9)))) == 2
    assert [entry.shards for entry in executor.submitted(tmp_path / "run")] == [[1, 5], [9]]
    with pytest.raises(UsageError, match="3 tasks are more than an array of"):
        here.script(job(tmp_path, (1, 5, 9)), whole=True)
    fake.answer(program, code=1)
    assert here.max_array_size() == WITHOUT[cluster]


REFUSED = {
    "sge": (
        'Unable to run job: Job was rejected because job requests unknown queue "x"\nExiting.\n',
        'Job was rejected because job requests unknown queue "x"',
    ),
    "pbs": ("qsub: Unknown queue\n", "Unknown queue"),
    "lsf": ("x: No such queue. Job not submitted.\n", "x: No such queue. Job not submitted."),
}


def test_refusal_is_told_in_its_words(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    said, words = REFUSED[cluster]
    fake.answer(PROGRAMS[cluster][0][0], error=said, code=1)
    with pytest.raises(VnpError) as caught:
        site(cluster).submit(job(tmp_path))
    title = KINDS[cluster].title
    assert str(caught.value) == (
        f"{title} refused the job vnp-run-0-7: {words}\nWithout {title}, on this machine alone: --cluster local"
    )
    assert executor.submitted(tmp_path / "run") == []


FOREIGN = {
    "sge": {"SGE_TASK_ID": False, "SGE_ROOT": True, "SGE_LONG_QNAMES": False},
    "pbs": {"PBS_DPREFIX": False, "PBS_DEFAULT": True, "PBS_JOBID": False},
    "lsf": {"BSUB_BLOCK": False, "LSB_DEFAULTQUEUE": False, "LSF_ENVDIR": True, "LSB_JOBID": False},
}


def test_variables_that_change_what_is_asked_are_left_aside(
    cluster: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in FOREIGN[cluster]:
        monkeypatch.setenv(name, "7")
    submits = fake.folder / PROGRAMS[cluster][0][0]
    submits.write_text(submits.read_text().replace("#!/bin/sh", f"#!/bin/sh\nenv > '{tmp_path}/seen'"))
    name_foreign.cache_clear()
    site(cluster).submit(job(tmp_path))
    seen = (tmp_path / "seen").read_text()
    assert {name: f"{name}=7" in seen.splitlines() for name in FOREIGN[cluster]} == FOREIGN[cluster]
    said = capfd.readouterr().err
    assert ("of your environment left aside" in said) == (cluster != "sge")


def task(tmp_path: Path, codes: str) -> Path:
    """A Python of a test: it notes the number that it was given, and ends with the first code that is left."""
    path, left = tmp_path / "python", tmp_path / "codes"
    left.write_text("".join(f"{code}\n" for code in codes.split()))
    path.write_text(
        f"#!/bin/bash\nfor last; do :; done\necho \"$last $VNP_JOB\" >> '{tmp_path}/made'\n"
        f"{{ read -r code; rest=$(cat); }} < '{left}'\nprintf '%s\\n' \"$rest\" > '{left}'\n"
        '[ "$code" = kill ] && kill -KILL $$\n[ "$code" = told ] && { trap "exit 75" USR2; /bin/sleep 9 & wait; }\n'
        'exit "$code"\n'
    )
    path.chmod(0o755)
    return path


AGAIN = {"sge": 99, "pbs": None, "lsf": 75}


@pytest.mark.parametrize("codes", ["0", "1", "3", "70", "75", "kill"])
def test_script_lets_what_may_go_better_be_done_again(
    codes: str, cluster: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grid Engine and LSF queue a task again that ends with a certain code; for PBS the script tries it again."""
    monkeypatch.setattr(sys, "executable", str(task(tmp_path, codes + " 0")))
    text = site(cluster, retries=1).script(job(tmp_path))
    (tmp_path / "run/logs").mkdir(parents=True)

    def ends() -> int:
        return subprocess.run(["bash", "-c", text], env={**os.environ, **INSIDE[cluster]}, timeout=30).returncode

    code, again = 137 if codes == "kill" else int(codes), codes in ("70", "75", "kill")
    log = tmp_path / "run/logs/41_3_0_log.err"
    if AGAIN[cluster] is None:
        tried = again and codes != "75"
        assert ends() == (0 if tried else code)
        assert (tmp_path / "made").read_text() == f"7 {IDS[cluster][1]}\n" * (1 + tried)
        assert ("tried again" in log.read_text()) == tried
        return
    assert ends() == (AGAIN[cluster] if again else code)
    assert (tmp_path / "made").read_text() == f"7 {IDS[cluster][1]}\n"
    assert ("queued again" in log.read_text()) == again
    # Its next life is its last one.
    if again:
        task(tmp_path, codes)
        assert ends() == code
        assert "given up" in log.read_text()


def test_a_task_is_told_before_its_time_is_up(
    cluster: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(task(tmp_path, "told")))
    (tmp_path / "run/logs").mkdir(parents=True)
    text = site(cluster, time=1, grace=60).script(job(tmp_path))
    done = subprocess.run(
        ["bash", "-c", text], env={**os.environ, **INSIDE[cluster], "PATH": "/usr/bin:/bin"}, timeout=30
    )
    assert done.returncode == (AGAIN[cluster] or 75)
    assert "ended with 75" in (tmp_path / "run/logs/41_3_0_log.err").read_text()


@pytest.mark.parametrize(("code", "goes_on"), [("0", True), ("3", False)])
def test_grid_engine_looks_how_the_job_before_ended(
    code: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fake("sge", tmp_path, monkeypatch)
    (tmp_path / "run/logs").mkdir(parents=True)
    here, alone = site("sge"), {**os.environ, "SGE_TASK_ID": "undefined"}
    monkeypatch.setattr(sys, "executable", str(task(tmp_path, f"{code} 0")))
    first = replace(job(tmp_path, None), function=plan_task)
    assert subprocess.run(["bash", "-c", here.script(first)], env={**alone, "JOB_ID": "8"}).returncode == int(code)
    second = here.script(job(tmp_path, after=("8",)))
    done = subprocess.run(["bash", "-c", second], env={**os.environ, **INSIDE["sge"]})
    assert done.returncode == (0 if goes_on else 1)
    assert ("job 8, which this one waited for" in (tmp_path / "run/logs/41_3_0_log.err").read_text()) != goes_on


@pytest.mark.parametrize("name", ["slurm", "sge", "pbs", "lsf", "shell"])
def test_a_printed_script_is_all_of_the_output(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fasta, root = tmp_path / "in.fasta", tmp_path / "a run"
    fasta.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(8)))
    words = [str(fasta), "--out", str(root), "--shards", "4", "--dna", "kmer", "--protein", "kmer"]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    result = CliRunner().invoke(extract.main, [*words, "--print-script", name], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("#!/bin/bash\n")
    assert "planned" in result.stderr
    assert subprocess.run(["bash", "-n"], input=result.stdout, text=True).returncode == 0
    assert not (root / "logs/jobs.jsonl").exists()
    if name == "shell":
        done = subprocess.run(["bash", "-s", "1", "3"], input=result.stdout, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in (root / "receipts").iterdir()) == ["shard-00001.json", "shard-00003.json"]


def test_a_plain_script_tries_again_and_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs._cluster.plain import Shell

    monkeypatch.setattr(sys, "executable", str(task(tmp_path, "kill 0 3 0")))
    wanted = Resources(retries=1)
    text = Shell(Profile(wanted, wanted, wanted)).script(job(tmp_path))
    assert subprocess.run(["bash", "-c", text]).returncode == 3
    assert (tmp_path / "made").read_text().split() == ["0", "0", "2", "7"]
