"""Slurm and the image together, from a login node that has Click and submitit and nothing else."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from jobs import extract, reduce
from tests.conftest import REPOSITORY
from tests.containers.box import Box
from tests.light_host import make_light_host
from tests.slurm.conftest import started
from tests.slurm.site import ENCODING, FAULTS, Case, Site, until

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer, pytest.mark.xdist_group("slurm")]


@dataclass
class LoginNode(Site):
    """A cluster as it is used from a node whose Python has no libraries.

    Args:
        python: that Python.
    """

    python: Path = Path("python")

    def vnp(self, command: str, *words: object, code: int = 0, **environment: str) -> str:
        """Run a command of vnp with the login node's Python."""
        done = subprocess.run(
            [self.python, "-m", f"jobs.{command}", *map(str, words)],
            cwd=REPOSITORY,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def login_node(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    python = make_light_host(tmp_path_factory.mktemp("login") / "host")
    apptainer: dict[str, str] = {
        name: box.environment[name] for name in ("PATH", "APPTAINER_DROP_CAPS") if name in box.environment
    }
    for site in started(accounting=False):
        yield LoginNode(site.wishes, {**site.environment, **apptainer}, site.keeper, python)


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reads") / "reads.fa"
    letters = random.Random(6)
    path.write_text("".join(f">read{i}\n{''.join(letters.choices('ACGT', k=2000 + 90 * i))}\n" for i in range(24)))
    return path


def merged(path: Path) -> tuple[list[bytes], np.ndarray]:
    with h5py.File(path) as file:
        return file["ids"][:].tolist(), file["features"][:]


def made_outside(reads: Path, folder: Path) -> Path:
    for command, words in (
        (extract.main, [str(reads), "--out", str(folder), "--shards", "4", *ENCODING, "--cluster", "inline"]),
        (reduce.main, [str(folder)]),
    ):
        result = CliRunner().invoke(command, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder / "features.h5"


def test_array_with_a_killed_and_a_failed_task(login_node: LoginNode, box: Box, reads: Path, tmp_path: Path) -> None:
    """Shard 1 is killed and queued again by the batch script; shard 3 fails and is made by rerun."""
    box.exec("sh", "-c", "command -v scontrol || command -v sbatch", code=127)
    profile = [f"image = '{box.path}'", f"binds = ['{FAULTS}']"]
    case = Case(login_node, tmp_path / "case", reads, "run", profile)
    case.fault("1.1.kill", "3.1.exit")
    script = case.start("extract", 4, "--dry-run")
    said = case.start("extract", 4)
    assert "4 tasks" in said
    assert "apptainer exec --bind " in script
    assert f" --bind {case.run} " in script

    until(lambda: not case.queued(), "the queue is empty")
    site = {"VNP_PROFILE": str(case.folder / "profile.toml")}
    states = case.status(3, **site)["shards"]
    assert [shard["state"] for shard in states] == ["done", "done", "done", "failed"]
    assert [shard["attempts"] for shard in states] == [1, 2, 1, 1]
    logs = "".join(path.read_text() for path in (case.run / "logs").glob("*_1_*log*"))
    assert "about to be killed at 1.1" in logs
    assert "queued again" in logs

    said = case.rerun()
    assert "1 task" in said
    until(lambda: not case.queued(), "the queue is empty")
    assert [shard["state"] for shard in case.status(0, **site)["shards"]] == ["done"] * 4
    box.apptainer("run", "reduce", case.run, options=["--bind", str(tmp_path)])

    ids, features = merged(case.run / "features.h5")
    expected_ids, expected = merged(made_outside(reads, tmp_path / "outside"))
    assert ids == expected_ids
    assert len(ids) > 50
    np.testing.assert_array_equal(features, expected)
