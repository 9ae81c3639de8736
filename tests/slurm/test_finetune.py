"""``finetune.sbatch``: runs finetune with its arguments, and queues again what a signal ended, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.encoders._folders import write_folder
from tests.runs.datasets import made_up, write_dataset
from tests.slurm.site import Site, until
from vnp.finetune.pace import STATE

SCRIPT = REPOSITORY / "slurm" / "finetune.sbatch"


def batch(folder: Path, code: int, *, state: str = "RUNNING", restarts: int = 0) -> tuple[int, str, list[str]]:
    """Run the script with stand-ins for Slurm and Python; gives its code, Python's words, scontrol's calls."""
    for name, text in {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "python": f'printf "%s|" "$@" > {folder}/asked; exit {code}',
        "scontrol": f'echo "$*" >> {folder}/calls; echo JobState={state}',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2",
        "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    words = ["a set", "--encoder", "mine", "--out", "tuned"]
    done = subprocess.run(["bash", SCRIPT, *words], env=environment, capture_output=True, text=True)
    calls = folder / "calls"
    return done.returncode, (folder / "asked").read_text(), calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(
    ("code", "more", "again"),
    [
        (143, {}, True),
        (137, {"restarts": 19}, True),
        (0, {}, False),
        (1, {}, False),
        (143, {"restarts": 20}, False),
        (143, {"state": "CANCELLED"}, False),
    ],
)
def test_what_a_signal_ended_is_queued_again(tmp_path: Path, code: int, more: dict[str, object], again: bool) -> None:
    ended, asked, calls = batch(tmp_path, code, **more)  # type: ignore[arg-type]
    assert ended == code
    assert asked == "-P|-u|-m|jobs.finetune|a set|--encoder|mine|--out|tuned|"
    assert ("requeue 7" in calls) is again


def test_without_arguments_it_says_how(tmp_path: Path) -> None:
    done = subprocess.run(["bash", SCRIPT], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith("usage: sbatch slurm/finetune.sbatch SET")) == (2, True)


@pytest.mark.slurm
def test_job_that_is_told_to_end_goes_on_to_the_same_weights(small_site: Site, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", made_up(), lengths=(90,))
    base = write_folder(tmp_path / "base")
    words = [str(dataset), "--encoder", str(base), "--steps", "120", "--tokens", "400", "--save-every", "4"]
    words += ["--watch-every", "40", "--device", "cpu"]
    environment = {**small_site.environment, "VNP_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    sizes = ("--gpus-per-node=0", "--cpus-per-task=1", "--mem=1000M")
    submit = partial(subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    def job(name: str, *more: str) -> str:
        out = ("--out", str(tmp_path / name), f"--output={tmp_path / name}.log")
        return submit(["sbatch", "--parsable", *sizes, *more, out[2], str(SCRIPT), *words, *out[:2]]).stdout.strip()

    ended = job("ended")
    until((tmp_path / "ended" / STATE).exists, "the training has kept a state")
    small_site.say("scancel", "--signal=TERM", ended)
    until(lambda: "asked to end" in (tmp_path / "ended.log").read_text(), "it was told")
    whole = job("whole", f"--dependency=afterany:{ended}")
    until((tmp_path / "whole" / "weights.lock.json").exists, f"job {whole} has ended")
    told, _, after = (tmp_path / "ended.log").read_text().partition("asked to end")
    assert "wrote" in after
    assert "wrote" not in told
    for name in ("model.safetensors", "split.tsv"):
        assert (tmp_path / "ended" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
