"""The steps of predict run one after the other without the network, and what they take and leave is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import measure_scale


def test_all_steps_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes of their own are for the figures.
    monkeypatch.setattr("benchmarks.scale.apart", lambda work, *given: work(*given))
    found = measure_scale(tmp_path, records=150, shards=2)
    assert list(found.steps) == ["plan", "task", "sealing", "call", "call again"]
    # A line of each table for each read, and what is called.
    assert found.results_bytes > 150 * 100
    assert found.run_bytes > 0
    assert list(tmp_path.iterdir()) == []
