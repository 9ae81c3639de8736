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

from jobs import cancel, extract, status
from jobs._cluster import executor
from jobs._cluster.executor import Job, choose_executor
from jobs._cluster.grid_engine import GridEngine
from jobs._cluster.lsf import Lsf
from jobs._cluster.pbs import Pbs
from jobs._cluster.plain import Plain
from jobs._cluster.profile import Profile, Resources, load_profile
from jobs._cluster.scripts import name_foreign
from jobs._cluster.task import plan_task, run_task
from tests.jobs.fake_slurm import FakeSlurm
from vnp.errors import UsageError, VnpError

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


# What they answer. Grid Engine's are those of 8.1.9; of the others, those in their manuals.

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
REASONS = {
    "sge": ("Rq", "Dependency"),
    "pbs": ("Not Running: Insufficient amount of ncpus", "Dependency"),
    "lsf": ("The job array has reached its running element limit;", "Job dependency condition not satisfied;"),
}
GONE = {"sge": "", "pbs": "qstat: Unknown Job Id 41[].pbs1", "lsf": "No unfinished job found"}


def lay_out(cluster: str, root: Path) -> None:
    executor.note(root, IDS[cluster][0], "vnp-run-0-7", 0, [0, 2, 7], cluster)
    for number, name in (("42", "vnp-run-reduce"), ("43", "mine"), ("44", "vnp-run-reduce")):
        executor.note(root, number, name, 0, [], cluster)


def test_queue_is_told_by_shard(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    here = site(cluster)
    assert here.state(tmp_path) == []
    lay_out(cluster, tmp_path)
    program, answer = QUEUE[cluster]
    fake.answer(program, answer)
    found = here.state(tmp_path)
    assert found is not None
    told = [(one.shard, one.waiting, one.ending) for one in found]
    expected = [(0, False, False), (2, True, False), (7, False, True), (None, True, False)]
    assert told == [one for one in expected if cluster != "lsf" or not one[2]]
    assert [one.reason for one in found if one.waiting] == list(REASONS[cluster])
    assert found[0].log == "41_1_0_log.err"
    assert found[0].job == IDS[cluster][0]


def test_no_answer_is_not_an_empty_queue(
    cluster: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(cluster, tmp_path)
    program = QUEUE[cluster][0]
    here = site(cluster)
    fake.answer(program, error="cannot reach the master", code=1)
    assert here.state(tmp_path) is None
    if GONE[cluster]:
        fake.answer(program, error=GONE[cluster] + "\n", code=35)
        assert here.state(tmp_path) == []
    else:
        fake.answer(program, "<job_info")
        assert here.state(tmp_path) is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert here.state(tmp_path) is None


ENDED = {
    "sge": (
        "qacct",
        "".join(
            f"{'=' * 62}\nqname        all.q               \njobnumber    41                  \n"
            f"taskid       {index:<20}\nfailed       {failed}\nexit_status  {code:<20}\n"
            for index, failed, code in (
                (1, "25  : rescheduling", 99), (2, "0    ", 0), (3, "25  : rescheduling", 99),
                (1, "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", 137),
            )
        ),
        {"41.1": "exit status 137, failed 37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"},
    ),
    "pbs": (
        "qstat",
        "Job Id: 41[1].pbs1\n    job_state = X\n    Exit_status = 271\n\nJob Id: 41[2].pbs1\n    Exit_status = 0\n",
        {"41[1]": "exit status 271"},
    ),
    "lsf": (
        "bjobs",
        "41|1|EXIT|137|TERM_MEMLIMIT: job killed after reaching LSF memory usage limit\n41|2|DONE|-|-\n",
        {"41[1]": "exit code 137, TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"},
    ),
}  # fmt: skip


def test_how_tasks_ended(cluster: str, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    here, (program, answer, words) = site(cluster), ENDED[cluster]
    tasks = [here.task_id(IDS[cluster][0], index) for index in (1, 2, 3)]
    fake.answer(program, answer)
    assert here.ended(tasks) == words
    assert here.ended([]) == {}
    fake.answer(program, code=1)
    assert here.ended(tasks) == {}
    monkeypatch.setenv("PATH", "/nowhere")
    assert here.ended(tasks) == {}


ALREADY = {
    "sge": 'denied: job "41" does not exist\n',
    "pbs": "qdel: Unknown Job Id 41[].pbs1\n",
    "lsf": "Job <41>: Job has already finished\n",
}


def test_cancel(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    here, program = site(cluster), KINDS[cluster].tools[1]
    here.cancel([IDS[cluster][0], "42"])
    assert fake.calls(program) == [f"{IDS[cluster][0]} 42"]
    fake.answer(program, error=ALREADY[cluster], code=1)
    here.cancel([IDS[cluster][0]])
    fake.answer(program, error="nobody may", code=1)
    with pytest.raises(VnpError, match="nobody may"):
        here.cancel([IDS[cluster][0]])


def test_commands_on_it(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    fasta, root = tmp_path / "in.fasta", tmp_path / "run"
    fasta.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(8)))

    def invoke(command: Any, *words: object, code: int = 0) -> str:
        result = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.output

    words = [fasta, "--out", root, "--shards", 8, "--dna", "kmer", "--protein", "kmer"]
    (tmp_path / "site.toml").write_text(f'scheduler = "{cluster}"\n')
    assert f"job {IDS[cluster][0]}, 8 tasks" in invoke(extract.main, *words, "--profile", tmp_path / "site.toml")
    program, answer = QUEUE[cluster]
    fake.answer(program, answer.replace("vnp-run-reduce", "another"))
    said = invoke(status.main, root, code=3)
    assert f"waits: {REASONS[cluster][0]}" in said
    assert "starting" in said
    said = invoke(cancel.main, root)
    assert re.match("cancelled [23] tasks of 1 job ", said)
    assert fake.calls(KINDS[cluster].tools[1]) == [IDS[cluster][0]]


# Which one it is.


def test_auto_is_the_one_that_is_here(cluster: str, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_executor("auto").name == cluster
    assert choose_executor("local").name == "local"
    for name, value in INSIDE[cluster].items():
        monkeypatch.setenv(name, value)
    assert KINDS[cluster].own_job() == IDS[cluster][0]
    assert choose_executor("auto").name == "local"
    others = [name for name in KINDS if name != cluster]
    for other in others:
        with pytest.raises(UsageError, match=f"--cluster {other}: there is no"):
            choose_executor(other)


def test_programs_without_a_cluster_are_passed_over(
    cluster: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answer(KINDS[cluster].probe[0], code=1)
    assert choose_executor("auto").name == "local"
    title = KINDS[cluster].title
    assert capsys.readouterr().err == f"{title}'s programs are here, and no cluster is set up for them: passed over\n"
    assert choose_executor(cluster).name == cluster
    # One that is set up, and does not answer now, is no reason for hours on this machine.
    variable, _, rest = KINDS[cluster].settings[0][1:].partition("/")
    monkeypatch.setenv("SGE_CELL", "cell")
    place = tmp_path / "site" / rest.replace("$SGE_CELL", "cell")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "site") if rest else str(place))
    assert choose_executor("auto").name == cluster


def test_a_profile_says_what_it_is_for(
    cluster: str, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'scheduler = "{cluster}"\nextra = ["-M me@site"]\n')
    assert load_profile(str(path)).of("gpu").extra == ("-M me@site",)
    assert choose_executor("auto", str(path)).name == cluster
    path.write_text('scheduler = "slurm"\n')
    assert choose_executor("auto", str(path)).name == "local"
    with pytest.raises(UsageError, match=f"--cluster {cluster}: the profile is for slurm"):
        choose_executor(cluster, str(path))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('scheduler = "sge"\nextra = ["mail"]', "extra holds options of sge"),
        ('extra = ["-M me"]', "extra holds options of sbatch"),
        ('[gpu]\nscheduler = "sge"', "belongs on the top level"),
        ('mem = "all of it"', ""),
    ],
)
def test_profiles_that_are_wrong(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why or "mem must be a size such as 48G"):
        _ = load_profile(str(path)).of("cpu").megabytes


def test_what_a_scheduler_has_no_word_for(cluster: str, fake: FakeSlurm, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="qos in the profile means nothing to"):
        site(cluster, qos="high").script(job(tmp_path))


# Scripts for a hand.


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
