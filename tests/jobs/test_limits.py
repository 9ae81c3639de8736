"""Real limits on processes, as an ordinary user has them: one message that says which, no traceback."""

from __future__ import annotations

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
_OTHER = ("setpriv", "--reuid", "54321", "--clear-groups", "--inh-caps", _MAY_READ, "--ambient-caps", _MAY_READ)


@pytest.mark.parametrize(
    ("most", "where"),
    # The last is enough for tasks to start, and not for what they start.
    [(1, "inline"), (1, "local"), (4, "local")],
)
def test_one_message(tmp_path: Path, most: int, where: str) -> None:
    command = [sys.executable, "-m", "jobs", *EXTRACT, "--cluster", where]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("no setpriv, with which root becomes another user")
        command = [*_OTHER, *command]
    tmp_path.chmod(0o777)
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (most, most)),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
    )  # fmt: skip
    if "Operation not permitted" in done.stderr and not re.search("^error:", done.stderr, re.MULTILINE):
        pytest.skip("may not become another user here")
    assert done.returncode in (1, 3), done.stderr
    assert "ulimit -u" in done.stderr
    assert len(re.findall("^error:", done.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in done.stderr
    assert "RuntimeError" not in done.stderr
