"""``migration.sh`` with stand-ins for vnp and Slurm: what it asks for, in which order, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "slurm" / "migration.sh"
# Makes what the script looks for; each pipeline's last job has a number of its own.
_VNP = """
echo "$*" >> $FAKE/vnp.calls
case "$*" in
  *--check*) [ -e $FAKE/weights.there ] ;;
  pipeline*) for word; do [ "$before" = --out ] && out=$word; before=$word; done
    mkdir -p $out/model; touch $out/model/model.pth
    number=$(grep -c ^pipeline $FAKE/vnp.calls)
    echo "submitted vnp-x-reduce: job 5$number, 1 task"; echo "submitted vnp-x-benchmark: job 6$number, 1 task" ;;
  *accuracy*) mkdir -p $OUT/answer; touch $OUT/answer/accuracy.json ;;
esac
"""
_SBATCH = """
echo "$*" >> $FAKE/sbatch.calls
case "$*" in *afterok*) [ ! -e $FAKE/fails ] ;; *finetune.sbatch*) mkdir -p $OUT/tuned/mine_tuned
  touch $OUT/tuned/mine_tuned/weights.lock.json ;; *--wrap*) for last; do :; done; sh -c "$last" ;; esac
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in {"vnp": _VNP, "sbatch": _SBATCH}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": f"{place}:{os.environ['PATH']}", "FAKE": str(place), "OUT": str(place / "out"), "DNA": "kmer"}
    return subprocess.run(
        ["bash", SCRIPT, *words], env={**own, "NEW": "/w/mine", "OLD": "esm2_3b", **variables}, capture_output=True,
        text=True,
    )  # fmt: skip


def calls(place: Path, name: str) -> list[str]:
    path = place / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


def test_dry_run_prints_and_does_nothing(place: Path) -> None:
    done = run(place, "--dry-run", CLUSTER="local", SHEET="my genomes.csv")
    assert done.returncode == 0, done.stderr
    out = place / "out"
    assert "+ vnp fetch esm2_3b --weights" in done.stdout
    assert "+ vnp dataset my\\ genomes.csv --out" in done.stdout
    assert (
        f"+ vnp finetune {out}/set --encoder /w/mine --weights {out}/weights --out {out}/tuned/mine_tuned"
        in done.stdout
    )
    assert f"--protein {out}/tuned/mine_tuned" in done.stdout
    assert (calls(place, "vnp"), out.exists()) == ([], False)


def test_here_each_step_follows_the_one_before(place: Path) -> None:
    done = run(place, CLUSTER="local")
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls(place, "vnp")] == [
        *("fetch", "fetch", "fetch", "dataset", "pipeline", "pipeline", "finetune", "pipeline", "benchmark"),
    ]
    last = calls(place, "vnp")[-1]
    assert [word.split("=")[0] for word in last.split() if "@" in word] == ["mine", "esm2_3b", "mine_tuned"]
    assert "--speed" in last
    assert calls(place, "sbatch") == []
    lines = (place / "out/times.tsv").read_text().splitlines()
    assert (len(lines), lines[0]) == (9, "step\tseconds")


def test_on_slurm_the_comparison_waits_for_the_last_jobs(place: Path) -> None:
    done = run(place, PROFILE="hopper", JOB_OPTIONS="--partition=gpu")
    assert done.returncode == 0, done.stderr
    jobs = calls(place, "sbatch")
    assert [next(word for word in job.split() if "name" in word or "finetune" in word) for job in jobs][0::2] == [
        "--job-name=vnp-dataset", "--job-name=vnp-wait",
    ]  # fmt: skip
    assert "finetune.sbatch" in jobs[1]
    assert "--dependency=afterok:61:62:63 " in jobs[2]
    assert all("--wait" in job and "--partition=gpu" in job for job in jobs)
    assert all("--cluster slurm --profile hopper" in one for one in calls(place, "vnp") if one.startswith("pipeline"))


def test_what_is_there_is_left_alone(place: Path) -> None:
    (place / "weights.there").touch()
    (place / "out/genomes").mkdir(parents=True)
    (place / "out/genomes/refseq.csv").touch()
    assert run(place).returncode == 0
    (place / "vnp.calls").unlink()
    (place / "sbatch.calls").unlink()
    (place / "out/answer/accuracy.json").touch()
    for model in (place / "out/runs").glob("*/model/model.pth"):
        os.utime(model, (1, 1))
    (place / "vnp").write_text((place / "vnp").read_text().replace("touch $out/model/model.pth", "true"))
    done = run(place)
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls(place, "vnp")] == ["fetch", "dataset", "pipeline", "pipeline", "pipeline"]
    assert "finetune" not in " ".join(calls(place, "sbatch"))
    assert done.stdout.count("there already") == 4


def test_failed_job_ends_it(place: Path) -> None:
    (place / "fails").touch()
    done = run(place)
    assert done.returncode == 3
    assert "a job failed" in done.stderr
    assert not (place / "out/answer").exists()


def test_names_that_would_meet_are_refused(place: Path) -> None:
    done = run(place, OLD="/other/mine")
    assert (done.returncode, "three names" in done.stderr) == (2, True)
    assert run(place, "--what").returncode == 2
