from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.commands import clean, measure

pytestmark = pytest.mark.usefixtures("one_thread")


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    options = ("--device", "cpu", "--family", "dnabert", "--precision", "fp32")
    done = measure("kernels", *options, "--longest", 90, "--out", out)
    assert done.exit_code == 0, clean(done)
    assert "all checks passed" in done.stdout
    stored = json.loads(out.read_text())
    assert stored["check"][0]["min_cosine"] > 0.999


def test_command_on_a_device_that_is_not_here() -> None:
    done = measure("kernels", "--device", "cuda:77")
    assert done.exit_code == 1
    assert "cuda:77" in clean(done)
