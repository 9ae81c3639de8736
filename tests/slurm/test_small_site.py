"""A site without accounting, with small arrays, that forgets its jobs soon; and shards by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.slurm.conftest import MakeCase
from tests.slurm.site import ENCODING, Site, until

pytestmark = pytest.mark.slurm


def test_more_shards_than_an_array_may_have(
    small_site: Site, make_case: MakeCase, reference: Path, tmp_path: Path
) -> None:
    case = make_case(small_site, "split")
    case.fault("2.1.kill.always", "5.1.exit")
    case.start("extract", 6, "--retries", "0")
    assert [(entry["base"], entry["shards"]) for entry in case.submissions()] == [(0, [0, 1, 2, 3]), (4, [4, 5])]
    case.settle()
    assert case.states() == ["done", "done", "failed", "done", "done", "failed"]
    before = case.status(3)
    assert "Slurm:" not in before["shards"][5]["error"]
    assert case.status(3, PATH=_path_without("sacct", tmp_path)) == before

    # Long after: Slurm has forgotten the jobs, and squeue would refuse to answer for them.
    for job in case.jobs:
        until(partial(_is_forgotten, small_site, job), f"job {job} is forgotten")
    assert case.status(3) == before
    nowhere = {"SLURM_CONF": str(tmp_path / "no-such-file")}
    assert [shard["state"] for shard in case.status(3, **nowhere)["shards"]] == case.states()

    (case.faults / "2.1.kill.always").unlink()
    case.rerun()
    assert [(entry["base"], entry["shards"]) for entry in case.submissions()[2:]] == [(0, [2]), (4, [5])]
    case.settle()
    case.require_same(reference)


def test_shards_by_hand(small_site: Site, make_case: MakeCase, fasta: Path, reference: Path) -> None:
    from click.testing import CliRunner

    from jobs import extract
    from jobs._cluster.executor import submitted

    case = make_case(small_site, "by-hand")
    words = [str(fasta), "--out", str(case.run), "--shards", "3", *ENCODING, "--cluster", "inline"]
    assert CliRunner().invoke(extract.main, words, catch_exceptions=False).exit_code == 0
    for shard in (0, 2):
        (case.run / "receipts" / f"shard-{shard:05d}.json").unlink()
        (case.run / "shards" / f"shard-{shard:05d}.h5").unlink()
    case.fault("2.1.hold")
    environment = {**small_site.environment, "VNP_PYTHON": sys.executable, "FAULTS": str(case.faults)}
    environment["PYTHONPATH"] = str(Path(__file__).parent / "faults")
    job = subprocess.run(
        ["sbatch", "--parsable", "--array=0,2", "--gpus-per-node=0", "--cpus-per-task=2", "--mem=300M",
         "--output=/dev/null", "slurm/extract.sbatch", str(case.run)],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    case.held("2.1")
    # The tasks have told the run of their job.
    assert {*case.jobs} == {job}
    assert [entry.job for entry in submitted(case.run)] == [job]
    assert case.states()[2] == "running"
    small_site.say("scancel", "--signal=USR2", f"{job}_2")
    until(lambda: "USR2" in case.log(f"{job}_2"), "the task has noted the signal")
    case.release("2.1")
    case.settle()
    assert case.receipt(2)["attempt"] == 2
    case.require_same(reference)


def test_cluster_ends_with_who_uses_it(tmp_path: Path) -> None:
    """The keeper takes everything down when the one who started it is killed."""
    script = (
        "import tempfile, time\n"
        "from pathlib import Path\n"
        "from tests.slurm.configuration import Wishes\n"
        "from tests.slurm.site import Site\n"
        "root = Path(tempfile.mkdtemp(prefix='vnp-slurm-'))\n"
        "root.chmod(0o755)\n"
        "site = Site.start(Wishes(str(root), nodes=1, accounting=False, clean=True))\n"
        "site.say('sbatch', '--output=/dev/null', '--wrap=sleep 600')\n"
        "print(root, flush=True)\n"
        "time.sleep(600)\n"
    )
    user = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    root = user.stdout.readline().strip()
    assert root
    until(lambda: _users_of(root), "its daemons are there")
    os.kill(user.pid, signal.SIGKILL)
    user.wait()
    user.stdout.close()
    until(lambda: not _users_of(root) and not Path(root).exists(), "nothing is left")


def _users_of(root: str) -> list[str]:
    """Processes that belong to a cluster."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"SLURM_CONF={root}/slurm.conf".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder.name)
        except OSError:
            continue
    return found


def _is_forgotten(site: Site, job: str) -> bool:
    done = subprocess.run(["scontrol", "show", "job", job], env=site.environment, capture_output=True, text=True)
    return "Invalid job id" in done.stderr


def _path_without(name: str, folder: Path) -> str:
    """A PATH with everything but one program."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for part in reversed(os.environ["PATH"].split(":")):
        for program in Path(part).glob("*"):
            link = bin_folder / program.name
            if program.name != name and program.is_file():
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(bin_folder)
