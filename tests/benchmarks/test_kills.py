"""Commands that are ended at random moments and given again end in the same bytes; more of it in the measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: the measurement forks, which a process whose libraries have threads must not do.
_TRIALS = """
import json, random, sys
from pathlib import Path
import torch
from benchmarks.kills import Bench, make_world, trials

torch.set_num_threads(1)
world = Path(sys.argv[1])
make_world(world)
seen = {}
for name in ("reduce", "export pt", "convert"):
    seen[name] = [outcome for _, outcome in trials(Bench(world, name), (3, 1, 1), random.Random(name))]
bench = Bench(world, "export npz")
(world / "run/features.h5").unlink()
seen["without its input"] = [next(trials(bench, (1, 0, 0), random.Random(1)))[1]]
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", _TRIALS, str(tmp_path_factory.mktemp("kills"))],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    outcomes: dict[str, list[str]] = json.loads(found.stdout.splitlines()[-1])
    return outcomes


@pytest.mark.parametrize("name", ["reduce", "export pt", "convert"])
def test_the_same_bytes_in_the_end(seen: dict[str, list[str]], name: str) -> None:
    assert len(seen[name]) == 5
    assert set(seen[name]) <= {"same", "left over"}


def test_what_is_different_is_found(seen: dict[str, list[str]]) -> None:
    """Else nothing of this could fail."""
    assert seen["without its input"][0] in ("refused", "different")
