"""benchmark train, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.commands import clean, measure

QUICK = ("--device", "cpu", "--rows", 64, "--width", 16, "--batch", 32, "--loop-rows", 8, "--loop-workers", 0)


def test_figures_are_written_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new/figures.json"
    done = measure("train", *QUICK, "--out", out)
    assert (done.exit_code, "Traceback" in done.output) == (0, False), done.output
    before = out.read_bytes()
    assert json.loads(before)["rows"] == 64
    monkeypatch.setattr("benchmarks.train.measure_training", None)
    refused = measure("train", *QUICK, "--out", out)
    assert refused.exit_code == 2
    assert clean(refused) == f"error: {out} is there already: choose another --out, or move it away\n"
    assert out.read_bytes() == before
