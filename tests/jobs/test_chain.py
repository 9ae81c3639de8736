"""Which jobs a run becomes, and what they wait for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs import cancel, extract, pipeline, rerun, status
from jobs._cli.command import Command
from jobs._cluster import executor
from jobs._cluster.executor import choose_executor
from tests.jobs.fake_slurm import FakeSlurm, slurm

__all__ = ["slurm"]

KMER = ["--dna", "kmer", "--protein", "kmer", "--cluster", "slurm"]


def invoke(command: Command, *words: object, code: int = 0) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def option(script: str, name: str) -> str | None:
    found = re.search(rf"^#SBATCH --{name}=(.*)$", script, re.MULTILINE)
    return found and found[1].strip("'")


def names(run: Path) -> list[str]:
    return [entry.name for entry in executor.submitted(run)]


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(8)))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_extract_submits_one_array(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    said = invoke(extract.main, fasta, "--out", run, "--shards", 4, *KMER, "--parallelism", 2)
    assert "submitted vnp-run-0-3: job 41, 4 tasks" in said
    (script,) = slurm.scripts()
    assert option(script, "array") == "0-3%2"
    assert option(script, "gpus-per-node") is None
    assert option(script, "dependency") is None


def test_extract_again_leaves_what_is_queued(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 4, *KMER)
    slurm.answer("squeue", "".join(f"41|{index}|PENDING|Priority|vnp-run-0-3\n" for index in (0, 2, 3)))
    invoke(extract.main, fasta, "--out", run, "--shards", 4, *KMER)
    assert [option(script, "array") for script in slurm.scripts()] == ["0-3%4", "1%1"]


def test_pipeline_chains_the_merging(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(pipeline.main, fasta, "--out", run, "--shards", 4, *KMER, "--layout", "full")
    array, merging = slurm.scripts()
    assert names(run) == ["vnp-run-0-3", "vnp-run-reduce"]
    assert option(merging, "dependency") == "afterany:41"
    assert option(merging, "array") is None
    # Were its dependency never to hold, it would be cancelled and not wait for ever.
    assert option(merging, "kill-on-invalid-dep") == "yes"
    assert option(array, "dependency") is None


def labelled(folder: Path, fasta: Path) -> Path:
    host = folder / "host.fasta"
    host.write_text(fasta.read_text().replace(">r", ">h"))
    sheet = folder / "sheet.csv"
    sheet.write_text(f"path,label,group\n{fasta.name},viral,\n{host.name},host,\n")
    return sheet


def test_pipeline_of_labelled_inputs_goes_on_to_a_classifier(
    slurm: FakeSlurm, fasta: Path, run: Path, tmp_path: Path
) -> None:
    sheet = labelled(tmp_path, fasta)
    invoke(pipeline.main, sheet, "--out", run, "--shards", 4, *KMER)
    assert names(run) == ["vnp-run-0-3", "vnp-run-reduce", "vnp-run-train", "vnp-run-benchmark"]
    _, _, training, measuring = slurm.scripts()
    assert [option(script, "dependency") for script in (training, measuring)] == ["afterok:42", "afterok:43"]
    # Behind a merging that fails they are cancelled, and do not wait for ever.
    assert [option(script, "kill-on-invalid-dep") for script in (training, measuring)] == ["yes", "yes"]

    invoke(rerun.main, run, "--then", "pipeline", "--cluster", "slurm")
    assert names(run)[-3:] == ["vnp-run-reduce", "vnp-run-train", "vnp-run-benchmark"]


def test_pipeline_trains_nothing_where_it_is_told_so(slurm: FakeSlurm, fasta: Path, run: Path, tmp_path: Path) -> None:
    invoke(pipeline.main, labelled(tmp_path, fasta), "--out", run, "--shards", 4, "--no-train", *KMER)
    assert names(run) == ["vnp-run-0-3", "vnp-run-reduce"]


def test_pipeline_of_several_arrays_waits_for_all(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    slurm.answer("scontrol", "MaxArraySize = 2\n")
    invoke(pipeline.main, fasta, "--out", run, "--shards", 4, *KMER)
    assert option(slurm.scripts()[2], "dependency") == "afterany:41:42"


def test_pipeline_waits_for_shards_that_are_queued_already(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 4, *KMER)
    slurm.answer("squeue", "".join(f"41|{index}|RUNNING|None|vnp-run-0-3\n" for index in range(4)))
    invoke(pipeline.main, fasta, "--out", run, "--shards", 4, *KMER)
    assert names(run) == ["vnp-run-0-3", "vnp-run-reduce"]
    assert option(slurm.scripts()[1], "dependency") == "afterany:41"


def test_rerun_replaces_a_merging_that_waits(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(pipeline.main, fasta, "--out", run, "--shards", 4, *KMER)
    slurm.answer("squeue", "41|0|RUNNING|None|vnp-run-0-3\n42|N/A|PENDING|Dependency|vnp-run-reduce\n")
    invoke(rerun.main, run, "--cluster", "slurm", "--then", "pipeline")
    scripts = slurm.scripts()
    assert option(scripts[2], "array") == "1-3%3"
    assert option(scripts[3], "dependency") == "afterany:41:43"
    assert slurm.calls("scancel") == ["42"]


def test_rerun_force_submits_what_is_queued(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER)
    slurm.answer("squeue", "41|0|PENDING|Priority|vnp-run-0-1\n41|1|PENDING|Priority|vnp-run-0-1\n")
    said = invoke(rerun.main, run, "--cluster", "slurm")
    assert "2 shards are in the queue already" in said
    assert len(slurm.scripts()) == 1
    invoke(rerun.main, run, "--cluster", "slurm", "--force")
    assert option(slurm.scripts()[1], "array") == "0-1%2"


def test_rerun_does_not_trust_a_job_that_is_ending(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 1, *KMER)
    slurm.answer("squeue", "41|0|COMPLETING|None|vnp-run-0-0\n")
    invoke(rerun.main, run, "--cluster", "slurm")
    assert len(slurm.scripts()) == 2


def test_rerun_where_the_queue_cannot_be_read(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 1, *KMER)
    slurm.answer("squeue", code=1)
    assert "queue could not be read" in invoke(rerun.main, run, "--cluster", "slurm")
    assert len(slurm.scripts()) == 2


def test_plan_job_comes_first(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(pipeline.main, fasta, "--out", run, "--shards", 3, *KMER, "--plan-job")
    plan, array, merging = slurm.scripts()
    assert names(run) == ["vnp-run-plan", "vnp-run-0-2", "vnp-run-reduce"]
    assert option(plan, "dependency") is None
    assert option(array, "dependency") == "afterok:41"
    assert option(array, "kill-on-invalid-dep") == "yes"
    assert option(merging, "dependency") == "afterany:42"
    assert not (run / "run.json").exists()

    slurm.answer("squeue", "41|N/A|PENDING|Priority|vnp-run-plan\n")
    said = invoke(status.main, run, code=3)
    assert "not planned yet: its planning, job 41, waits: Priority" in said
    # While it waits it is neither submitted again, nor begun anew over it.
    assert "has jobs in the queue (41)" in invoke(
        pipeline.main, fasta, "--out", run, "--shards", 3, *KMER, "--plan-job", code=2
    )
    assert "cancelled 1 task of 1 job" in invoke(cancel.main, run)
    assert slurm.calls("scancel") == ["41"]
    slurm.answer("squeue")
    slurm.answer("sacct", "41|CANCELLED by 0|0:0\n")
    assert "ended: no word (Slurm: CANCELLED by 0)" in invoke(status.main, run, code=3)


def test_plan_job_of_what_is_planned(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER)
    said = invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER, "--plan-job")
    assert "found" in said
    assert names(run) == ["vnp-run-0-1", "vnp-run-0-1"]


def test_force_under_living_jobs_is_refused(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER)
    slurm.answer("squeue", "41|0|RUNNING|None|vnp-run-0-1\n")
    for command in (extract.main, pipeline.main):
        assert "python -m jobs.cancel" in invoke(command, fasta, "--out", run, "--shards", 3, *KMER, "--force", code=2)
    slurm.answer("squeue")
    invoke(extract.main, fasta, "--out", run, "--shards", 3, *KMER, "--force")


@pytest.mark.parametrize("name", ["a run|of many", "genome (1)", "é", "x" * 300])
def test_job_names_are_plain(name: str, slurm: FakeSlurm, fasta: Path, tmp_path: Path) -> None:
    run = tmp_path / name[:200]
    invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER)
    (found,) = names(run)
    assert re.fullmatch(r"vnp-[A-Za-z0-9_.+-]{1,60}-0-1", found)


def test_dry_run_prints_the_script(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    said = invoke(extract.main, fasta, "--out", run, "--shards", 3, *KMER, "--dry-run")
    assert "#SBATCH --array=0-2%3" in said
    assert " -P -u -m jobs._cluster.worker " in said
    assert not run.exists()
    assert slurm.scripts() == []


def test_without_slurm_its_options_are_refused(
    fasta: Path, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no sbatch on PATH" in invoke(extract.main, fasta, "--out", run, *KMER, code=2)
    for command in (extract.main, pipeline.main):
        words = [fasta, "--out", run, "--dna", "kmer", "--protein", "kmer", "--plan-job"]
        assert "--plan-job needs a scheduler" in invoke(command, *words, code=2)


def test_profile_mistakes_are_told_before_anything_is_planned(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    profile = run.parent / "site.toml"
    profile.write_text("partitoin = 'x'")
    assert "unknown key 'partitoin'" in invoke(extract.main, fasta, "--out", run, *KMER, "--profile", profile, code=2)
    assert "--retries must be at least 0" in invoke(extract.main, fasta, "--out", run, *KMER, "--retries", -1, code=2)
    assert not run.exists()


@pytest.mark.parametrize("inside", [False, True])
def test_auto_is_this_machine_inside_of_a_job(
    inside: bool, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if inside:
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert choose_executor("auto").name == ("local" if inside else "slurm")
    said = capsys.readouterr().err
    assert said == ("inside Slurm's job 7: done in it; --cluster slurm submits new jobs\n" if inside else "")
    assert choose_executor("slurm").name == "slurm"
    monkeypatch.setenv("PATH", "/nowhere")
    assert choose_executor("auto").name == "local"
    assert capsys.readouterr().err == ""


def test_a_run_remembers_its_cluster(slurm: FakeSlurm, fasta: Path, run: Path) -> None:
    invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER, "--cluster", "inline")
    lost = run / "receipts" / "shard-00001.json"
    lost.unlink()
    said = invoke(rerun.main, run)
    assert "made 1 shard in " in said
    assert lost.exists()
    assert slurm.scripts() == []
    lost.unlink()
    invoke(rerun.main, run, "--cluster", "slurm")
    assert len(slurm.scripts()) == 1
    # The same request from elsewhere: what was said last counts.
    invoke(extract.main, fasta, "--out", run, "--shards", 2, *KMER)
    invoke(rerun.main, run, "--force")
    assert len(slurm.scripts()) == 3
