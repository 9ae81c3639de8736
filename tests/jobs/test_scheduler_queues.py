"""What Grid Engine, PBS and LSF say of a run's jobs, and which of them is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs import cancel, extract, status
from jobs._cluster import executor
from jobs._cluster.executor import choose_executor
from jobs._cluster.profile import load_profile
from tests.jobs.fake_slurm import FakeSlurm
from tests.jobs.schedulers import IDS, INSIDE, KINDS, QUEUE, cluster, fake, job, site
from vnp.errors import UsageError, VnpError

__all__ = ["cluster", "fake"]

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
