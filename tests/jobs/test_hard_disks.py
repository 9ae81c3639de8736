"""Disks that refuse, folders that are gone, and interruptions: nothing good is lost, and one message says why."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs._cluster.chain import after_shards
from jobs._cluster.task import STOPPED
from tests.jobs.commands import REPOSITORY, call, clean, extract
from tests.runs.making import coding, plan_run, write_fasta
from vnp.errors import StorageError
from vnp.runs.done.status import run_status
from vnp.runs.request import Run

MEMBERS = ("receipts", "shards", "parts", "logs")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disks")
    fasta = write_fasta(folder / "a.fa", [(f"r{i}", coding(900, i)) for i in range(6)])
    assert extract(fasta, "--out", folder / "run", "--shards", 3).exit_code == 0
    return folder / "run"


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Iterator[Run]:
    """A finished run of three shards."""
    root = tmp_path / "run"
    shutil.copytree(template, root)
    yield Run.open(root)
    for folder in (root / name for name in MEMBERS):
        if folder.exists():
            folder.chmod(0o755)


def powerless(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command as a user whom permissions bind."""
    become = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv, with which root gives its powers away")
        become = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    words = [*become, sys.executable, "-m", f"jobs.{name}", *map(str, arguments)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def receipts(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.paths.receipts.iterdir())}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestPermissions:
    @pytest.mark.parametrize("cluster", ["inline", "local"])
    def test_shards_that_cannot_be_looked_at_keep_their_receipts(self, run: Run, cluster: str) -> None:
        before = receipts(run)
        run.paths.shards.chmod(0)
        done = powerless("rerun", run.paths.root, "--cluster", cluster)
        assert done.returncode == 3
        assert f"reading {run.paths.shard(0)}: permission denied" in done.stderr
        assert receipts(run) == before
        run.paths.shards.chmod(0o755)
        assert run_status(run).complete

    def test_status_tells_of_the_other_shards(self, run: Run) -> None:
        run.paths.receipt(1).chmod(0)
        run.paths.receipt(2).unlink()
        done = powerless("status", run.paths.root, "--json")
        assert done.returncode == 3, done.stderr
        found = json.loads(done.stdout)
        assert [shard["state"] for shard in found["shards"]] == ["done", "unknown", "missing"]
        assert found["shards"][1]["error"] == f"reading {run.paths.receipt(1)}: permission denied"
        shown = powerless("status", run.paths.root).stdout
        assert "3 shards: 1 done, 1 unknown, 1 missing" in shown
        assert "next: mend what keeps files from being read" in shown

    @pytest.mark.parametrize("name", ["receipts", "parts"])
    @pytest.mark.parametrize("command", ["status", "rerun"])
    def test_a_folder_of_another_user_is_no_empty_one(self, run: Run, name: str, command: str) -> None:
        folder = run.paths.root / name
        folder.chmod(0)
        done = powerless(command, run.paths.root)
        assert done.returncode == 1
        assert done.stderr == f"error: looking into {folder}: permission denied\n"
        assert done.stdout == ""

    def test_reduce_names_the_damaged_shard_whose_receipt_must_stay(self, run: Run) -> None:
        flip(run.paths.shard(1))
        run.paths.receipts.chmod(0o555)
        before = receipts(run)
        done = powerless("reduce", run.paths.root)
        assert done.returncode == 1
        assert f"{run.paths.shard(1)} is damaged" in done.stderr
        assert f"{run.paths.receipt(1)}: permission denied" in done.stderr
        assert str(run.paths.features) not in done.stderr
        assert receipts(run) == before
        run.paths.receipts.chmod(0o755)
        assert f"python -m jobs.rerun {run.paths.root}" in powerless("reduce", run.paths.root).stderr
        assert run_status(run).unfinished == [1]

    def test_reduce_names_the_shard_that_it_may_not_read(self, run: Run) -> None:
        run.paths.shard(1).chmod(0)
        before = receipts(run)
        done = powerless("reduce", run.paths.root)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"error: {run.paths.shard(1)}: permission denied"
        assert receipts(run) == before

    def test_reduce_names_its_own_file_where_that_is_what_fails(self, run: Run) -> None:
        run.paths.root.chmod(0o555)
        done = powerless("reduce", run.paths.root)
        run.paths.root.chmod(0o755)
        assert done.returncode == 1
        assert f"writing {run.paths.features}: permission denied" in done.stderr


class TestGone:
    @pytest.mark.parametrize("cluster", ["inline", "local"])
    def test_folders_are_made_again(self, run: Run, cluster: str) -> None:
        for name in MEMBERS:
            shutil.rmtree(run.paths.root / name)
        result = call("rerun", run.paths.root, "--cluster", cluster)
        assert result.exit_code == 0, clean(result)
        assert run_status(run).complete
        assert call("reduce", run.paths.root).exit_code == 0

    def test_chosen_shards(self, run: Run) -> None:
        for name in ("shards", "receipts"):
            shutil.rmtree(run.paths.root / name)
        assert call("extract", "--out", run.paths.root, "--only", "1").exit_code == 0
        assert run_status(run).unfinished == [0, 2]

    def test_a_file_in_place_of_a_folder(self, run: Run) -> None:
        shutil.rmtree(run.paths.shards)
        run.paths.shards.touch()
        result = call("rerun", run.paths.root, "--cluster", "inline")
        assert result.exit_code == 1
        assert f"making {run.paths.shards}: " in clean(result)


class TestLocal:
    def test_a_full_disk_names_the_folder(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(subprocess, "Popen", full)
        run.paths.receipt(0).unlink()
        result = call("rerun", run.paths.root, "--cluster", "local")
        assert result.exit_code == 1
        assert clean(result).endswith(
            f"error: starting a task, with its log below {run.paths.logs}: no space left on the disk\n"
        )

    def test_a_look_that_fails_ends_no_task(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from vnp.runs.done import status as state

        names, asked = state._names, []

        def stale(folder: Path) -> set[str]:
            if folder == run.paths.receipts:
                asked.append(folder)
                # The look before tasks start, and the one at the end, go well.
                if len(asked) == 3:
                    raise StorageError(f"looking into {folder}: stale file handle")
            return names(folder)

        monkeypatch.setattr(state, "_names", stale)
        run.paths.receipt(0).unlink()
        result = call("rerun", run.paths.root, "--cluster", "local")
        assert result.exit_code == 0, clean(result)
        assert len(asked) > 3

    def test_a_task_that_is_interrupted_twice_ends_in_peace(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", [("a", coding(1500, 1))])], 1)
        code = (
            "import os, signal, sys, time\n"
            "from jobs._cluster.task import run_task\n"
            "from vnp.runs.making.encoders import RunEncoders\n"
            "import vnp.runs.making.pipeline\n"
            "def embed(*_):\n"
            "    try:\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n"
            "        time.sleep(600)\n"
            "    finally:\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n"
            "        time.sleep(0)\n"
            "RunEncoders.embed = embed\n"
            "run_task(sys.argv[1], [0])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(run.paths.request)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == STOPPED, done.stderr
        assert done.stderr == "SIGINT: ending now\n"
        (found,) = run_status(run).shards
        assert (found.state, found.error) == ("stopped", None)
        assert "stopped" in call("status", run.paths.root).stdout
        assert extract(tmp_path / "a.fa", "--out", run.paths.root, "--shards", 1).exit_code == 0


class TestCommandsThatComeNext:
    @pytest.fixture
    def spaced(self, run: Run, tmp_path: Path) -> Path:
        return run.paths.root.rename(tmp_path / "a r u n")

    def follow(self, said: str, name: str) -> list[str]:
        """The words of the command that was printed, as a shell reads them."""
        (line,) = [line for line in said.splitlines() if f"python -m jobs.{name} " in line]
        return shlex.split(line.partition(f"python -m jobs.{name} ")[2].replace(", ", " "))

    def test_paths_with_spaces_are_quoted(self, spaced: Path) -> None:
        root = str(spaced)
        assert self.follow(call("status", spaced).stdout, "reduce") == [root]
        assert self.follow(call("reduce", spaced).stdout, "export")[0] == root
        run = Run.open(spaced)
        run.paths.receipt(0).unlink()
        assert self.follow(call("status", spaced).stdout, "rerun") == [root]
        run.paths.blocks(0).touch()
        assert self.follow(clean(call("rerun", spaced, "--cluster", "inline")), "rerun") == [root]

    def test_after_a_prediction(self, spaced: Path) -> None:
        (spaced / "predict.json").touch()
        assert self.follow(after_shards(Run.open(spaced), spaced), "predict") == ["--from", str(spaced)]
        (spaced / "report.html").touch()
        assert after_shards(Run.open(spaced), spaced) == f"look at {spaced / 'report.html'}"

    def test_frames(self, tmp_path: Path) -> None:
        fasta = write_fasta(tmp_path / "my genome.fa", [("a", coding(900, 1))])
        said = call("frames", fasta, "--out", tmp_path / "out").stdout
        assert self.follow(said, "extract")[:3] == [str(fasta), "--out", "RUN"]
