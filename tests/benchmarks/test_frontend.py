from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.frontend import STAGES, FrontFigures, Part
from tests.encoders.test_bpe import trained
from tests.jobs.commands import clean, measure


def test_the_table_and_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(trained(1, 100))
    given = ("frontend", "--reads", 300, "--workers", 1, "--tokenizer", path)
    result = measure(*given, "--json")
    assert "timing 1 process(es)" in clean(result)
    figures = json.loads(result.stdout)
    assert figures["reads"] == 300
    assert figures["open frames"] == sum(part["rows"] for part in figures["parts"])
    assert figures["reads/s"] > 0
    part = Part(1_000, 800, 9, 9, dict.fromkeys(STAGES, 0.25), 2.0, 10**8)
    monkeypatch.setattr("benchmarks.frontend.measure_front", lambda *_, **__: FrontFigures(150, 300, 0.5, [part] * 2))
    shown = [line.rpartition("  ")[::2] for line in measure(*given).stdout.splitlines()]
    table = {name.strip(): value.strip() for name, value in shown}
    assert table["reads/s"] == "4,000"
    assert table["frames per processor second"] == "400"
    assert table["million reads, s"] == "250.0"
    assert table["DNA tokens, s, all processes"] == "0.5"


def test_without_weights_one_message(tmp_path: Path) -> None:
    result = measure("frontend", "--reads", 300, "--weights", tmp_path)
    assert result.exit_code == 1
    assert "python -m jobs.fetch dnabert_s" in clean(result)
