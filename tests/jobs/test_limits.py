"""Real limits on processes and on memory, as an ordinary user has them: one message that says which, no traceback."""

from __future__ import annotations

import gzip
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.commands import REPOSITORY, SAMPLE

EXTRACT = ("extract", str(SAMPLE), "--dna", "kmer", "--protein", "kmer", "--shards", "2", "--out", "run")
# Root is not counted; another user here may read what root may, as Python's own files below its home.
_MAY_READ = "+dac_override,+dac_read_search"
_OTHER = ("setpriv", "--clear-groups", "--inh-caps", _MAY_READ, "--ambient-caps", _MAY_READ)


# With four, tasks start, but not what they start.
@pytest.mark.parametrize(("most", "where"), [(1, "inline"), (1, "local"), (4, "local")])
def test_processes(tmp_path: Path, most: int, where: str) -> None:
    command = [sys.executable, "-m", "jobs", *EXTRACT, "--cluster", where]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv, with which root becomes another user")
        # A user a test: processes of another test that runs beside this one would count.
        user = 54321 + 100 * most + len(where)
        command = [*_OTHER, "--reuid", str(user), *command]
    tmp_path.chmod(0o777)
    require_one_message(command, tmp_path, resource.RLIMIT_NPROC, most, "ulimit -u")


@pytest.mark.parametrize("start", ["@", ">"])
def test_memory(tmp_path: Path, start: str) -> None:
    """A record that does not fit; where libraries get none while they are loaded, Python and they can wait for ever."""
    with gzip.open(tmp_path / "long.gz", "wb", 1) as file:
        file.write(f"{start}long\n".encode())
        for _ in range(300):
            file.write(b"ACGT" * 250_000)
    command = [sys.executable, "-m", "jobs", "frames", "long.gz", "--out", "frames.fna"]
    said = "not enough memory: the record of line 1 has more than"
    require_one_message(command, tmp_path, resource.RLIMIT_AS, 600 << 20, said)


def require_one_message(command: list[str], folder: Path, limit: int, most: int, said: str) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (most, most)),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": str(folder)},
    )  # fmt: skip
    if "Operation not permitted" in done.stderr and not re.search("^error:", done.stderr, re.MULTILINE):
        pytest.skip("may not become another user here")
    assert done.returncode in (1, 3), done.stderr
    assert said in done.stderr
    assert len(re.findall("^error:", done.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in done.stderr
    assert "RuntimeError" not in done.stderr
