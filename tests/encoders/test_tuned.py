from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from vnp.encoders.measured import TunedBudget, read_tuned, read_tuned_threads, tuned_path, write_tuned

GPU = "NVIDIA H100 80GB HBM3"


def budget(tokens: int) -> TunedBudget:
    return TunedBudget(tokens, 400_000.0, 6.4, "2026-11-23T09:00:00+00:00", "2.13.0")


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VNP_CONFIG", str(tmp_path / "settings"))
    return tmp_path / "settings"


def test_where_it_is(settings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tuned_path() == settings / "token_budgets.json"
    monkeypatch.delenv("VNP_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert tuned_path() == tmp_path / "vnp" / "token_budgets.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    assert tuned_path() == tmp_path / "ada" / ".config" / "vnp" / "token_budgets.json"


def test_budgets_stand_beside_one_another(settings: Path) -> None:
    assert read_tuned(GPU, "fastesm2_650", "fp16") is None
    assert write_tuned(GPU, "fastesm2_650", "fp16", budget(65_536)) == settings / "token_budgets.json"
    write_tuned(GPU, "fastesm2_650", "bf16", budget(32_768))
    write_tuned(GPU, "dnabert_s", "fp16", budget(131_072))
    write_tuned("Tesla T4", "fastesm2_650", "fp16", budget(8_192))
    write_tuned(GPU, "fastesm2_650", "fp16", budget(131_072))
    assert read_tuned(GPU, "fastesm2_650", "fp16") == 131_072
    assert read_tuned(GPU, "fastesm2_650", "bf16") == 32_768
    assert read_tuned(GPU, "dnabert_s", "fp16") == 131_072
    assert read_tuned("Tesla T4", "fastesm2_650", "fp16") == 8_192
    assert read_tuned("Tesla T4", "dnabert_s", "fp16") is None
    assert [path.name for path in settings.iterdir()] == ["token_budgets.json"]


def test_threads_of_a_task_are_those_of_the_latest_measurement() -> None:
    assert read_tuned_threads("a CPU", "esm2_3b", "auto") is None
    write_tuned("a CPU", "esm2_3b", "fp32", replace(budget(1024), threads=4))
    write_tuned("a CPU", "esm2_3b", "bf16", replace(budget(1024), threads=2, measured="2026-11-27T09:00:00+00:00"))
    write_tuned(GPU, "esm2_3b", "fp16", budget(65_536))
    found = [read_tuned_threads("a CPU", "esm2_3b", precision) for precision in ("fp32", "bf16", "auto")]
    assert [one and one.threads for one in found] == [4, 2, 2]
    assert read_tuned_threads(GPU, "esm2_3b", "auto") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        json.dumps({"schema": "other", "budgets": {}}),
        json.dumps({"schema": "vnp-token-budgets/1"}),
        json.dumps({"schema": "vnp-token-budgets/1", "budgets": {GPU: {"fastesm2_650": {"fp16": {"tokens": "many"}}}}}),
        json.dumps({"schema": "vnp-token-budgets/1", "budgets": {GPU: {"fastesm2_650": {"fp16": {"tokens": -5}}}}}),
        json.dumps({"schema": "vnp-token-budgets/1", "budgets": {GPU: {"fastesm2_650": 7}}}),
        "\udcff",
    ],
)
def test_a_damaged_file_is_ignored_with_a_warning(settings: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    settings.mkdir()
    (settings / "token_budgets.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert read_tuned(GPU, "fastesm2_650", "fp16") is None
    assert "token_budgets.json is ignored" in caplog.text
    write_tuned(GPU, "fastesm2_650", "fp16", budget(65_536))
    assert read_tuned(GPU, "fastesm2_650", "fp16") == 65_536
