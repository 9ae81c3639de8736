from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_no_flip_of_any_file_is_used() -> None:
    """A small version of the measurement; every file is flipped at least where one flip in four would be noticed."""
    # In a process of its own: the measurement forks, which a process whose libraries have threads must not do.
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks", "flips", "--flips", "6", "--seed", "1", "--json"],
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    seen = json.loads(found.stdout)
    named = {"features.h5", "model.pth", "training state", "plan.h5", "predictions.tsv", "export, pt", "dataset.md"}
    assert named <= seen.keys()
    for name, counts in seen.items():
        assert counts["detected"] + counts["harmless"] == 6, (name, counts)
        assert counts["detected"] > 0, name
