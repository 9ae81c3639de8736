"""What is seen of a mixture is counted by what its records are called, and compared with what predict said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.mixtures import look_at
from tests.jobs.commands import measure

SUMMARY = {"viral_share": 0.4, "expected_false_calls": 0.5, "prevalence": {"low": 0.3, "high": 0.6}}


def test_calls_are_compared_with_the_names(tmp_path: Path) -> None:
    lines = [
        "name\tcall\tfdr",
        "virus_0\tviral\t0.01",
        "virus_1\tviral\t0.04",
        "host_2\tviral\t0.15",
        "virus_3\thost\t0.3",
        "host_4\thost\t0.6",
        "host_5\t\t",
    ]
    (tmp_path / "predictions.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "predictions.json").write_text(json.dumps(SUMMARY))
    found = look_at(tmp_path, 0.5)
    assert (found.viruses, found.hosts, found.calls, found.wrong) == (3, 3, 3, 1)
    assert (found.said, found.low, found.high, found.expected) == (0.4, 0.3, 0.6, 0.5)
    assert found.found == pytest.approx(2 / 3)
    assert [(one.rate, one.records) for one in found.rates] == [(0.01, 1), (0.05, 2), (0.1, 2), (0.2, 3)]
    assert [one.wrong for one in found.rates] == pytest.approx([0, 0, 0, 1 / 3])


def test_lengths_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    (tmp_path / "genomes.npz").write_bytes(b"")
    result = measure("mixtures", tmp_path / "genomes.npz", "--shortest", 900, "--longest", 800)
    assert result.exit_code == 2
    assert "--shortest 900 is above --longest 800" in result.stderr
