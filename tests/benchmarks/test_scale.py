"""The steps of predict run one after the other without the network, and what they take and leave is told."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scale import measure_scale


def test_all_steps_are_measured(tmp_path: Path) -> None:
    found = measure_scale(tmp_path, records=150, shards=2)
    assert list(found.steps) == ["plan", "task", "call", "call again"]
    assert all(step.cpu_seconds > 0 and 50e6 < step.peak_bytes < 2e9 for step in found.steps.values())
    # A line of each table for each read, and what is called.
    assert found.results_bytes > 150 * 100
    assert found.run_bytes > 0
    assert list(tmp_path.iterdir()) == []
