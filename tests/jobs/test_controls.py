from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.commands import SAMPLE, call, clean
from tests.prediction.tiny import embed, train

HOST = SAMPLE.parent / "host"
VIRAL = SAMPLE.parent / "viral"


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sheet") / "controls.csv"
    virus = sorted(VIRAL.glob("*.gz"))[0]
    path.write_text(f"path,label,control\n{HOST}/streptomyces.fna.gz,host,\n{HOST}/homo_sapiens.fna.gz,host,vectors\n"
                    f"{virus},viral,\n")  # fmt: skip
    return path


def test_the_native_model_is_measured(sheet: Path, tmp_path: Path) -> None:
    words = ("controls", sheet, "--out", tmp_path / "out", "--lengths", "500,200", "--windows", 2)
    done = call("benchmark", *words)
    assert (clean(done), done.exit_code)[1] == 0
    assert "shuffled viruses" in done.stdout
    assert "note: plasmids: no material" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:8])) <= 80
    found = json.loads((tmp_path / "out/controls.json").read_text())
    assert (found["checkpoint"], found["default"], found["lengths"]) == ("native", "default", [200, 500])
    lines = {(line["control"], line["length"]): line for line in found["controls"]}
    assert lines["vectors", 500]["windows"] == lines["low complexity", 200]["windows"] == 2
    assert set(lines["vectors", 500]["calls"]) == {"half", "relaxed", "default", "conservative"}
    table = (tmp_path / "out/controls.tsv").read_text().splitlines()
    assert len(table) == 1 + len(lines)
    assert (tmp_path / "out/controls.md").read_text().startswith("## Negative controls\n")
    again = call("benchmark", *words)
    assert again.exit_code == 2
    assert "--force" in clean(again)
    forced = call("benchmark", *words, "--force", "--json")
    assert json.loads(forced.stdout) == found


def test_a_trained_checkpoint_without_presets_is_measured(sheet: Path, tmp_path: Path) -> None:
    train(embed([SAMPLE], tmp_path / "run"), tmp_path / "model.pth", steps=5)
    words = ("--checkpoint", tmp_path / "model.pth", "--lengths", "600", "--windows", 2, "--json")
    done = call("benchmark", "controls", sheet, "--out", tmp_path / "out", *words)
    assert (clean(done), done.exit_code)[1] == 0
    found = json.loads(done.stdout)
    assert found["default"] == "threshold"
    assert {line["windows"] for line in found["controls"] if line["control"] == "vectors"} == {2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lengths", "500,x"), "whole numbers from 100"),
        (("--lengths", "20"), "whole numbers from 100"),
        (("--checkpoint", "none.pth"), "none.pth"),
    ],
)
def test_what_cannot_be(words: tuple[str, ...], said: str, sheet: Path, tmp_path: Path) -> None:
    done = call("benchmark", "controls", sheet, "--out", tmp_path / "out", *words)
    assert done.exit_code in (1, 2)
    assert said in clean(done)
    assert not (tmp_path / "out").exists()
