from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.benchmark import main as benchmark
from tests.prediction.tiny import embed
from vnp.classifier.recipe import ADAMW, RECIPES
from vnp.sequences.identity import Relatives

pytest.importorskip("pyskani")
LETTERS = np.frombuffer(b"ACGT", np.uint8)


def mutated(bases: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    changed: np.ndarray = np.where(random.random(len(bases)) < share, random.choice(LETTERS, len(bases)), bases)
    return changed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genomes to train on, and for the test some at 0, 4 % and 9 % from one of them, and strangers."""
    folder = tmp_path_factory.mktemp("distance")
    random = np.random.default_rng(5)
    parts, rows = ["group\tpart"], ["path,label,group"]
    for label, share in (("viral", 0.2), ("host", 0.14)):
        chances = [share, 0.5 - share, 0.5 - share, share]
        made: list[tuple[str, str, np.ndarray]] = []
        for number in range(6):
            bases = random.choice(LETTERS, 6000, p=chances)
            made.append((f"{label}{number}", "train" if number < 4 else "validation", bases))
        first = made[0][2]
        # Of the letters that are drawn, one in four is the one that was there.
        for name, far in (("same", 0.0), ("near", 0.055), ("far", 0.12)):
            made.append((f"{label}_{name}", "test", mutated(first, far, random)))
        made.append((f"{label}_strange", "test", random.choice(LETTERS, 6000, p=chances)))
        for name, part, bases in made:
            (folder / f"{name}.fna").write_bytes(b">r_%s\n%s\n" % (name.encode(), bases.tobytes()))
            rows.append(f"{name}.fna,{label},{name}")
            parts.append(f"{name}\t{part}")
    (folder / "sheet.csv").write_text("\n".join(rows) + "\n")
    (folder / "split.tsv").write_text("\n".join(parts) + "\n")
    embed([folder / "sheet.csv"], folder / "run")
    return folder


def accuracy(*words: object) -> tuple[int, str]:
    extra = ["--replicates", "20", "--recipe", "adamw", "--device", "cpu"]
    done = CliRunner().invoke(benchmark, ["accuracy", *map(str, words), *extra])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done.exit_code, done.output


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "adamw", replace(ADAMW, batch=32, epochs=3))
    monkeypatch.setattr("vnp.classifier.train.write_training_plots", lambda *_: [])
    monkeypatch.setattr("vnp.comparison.page.comparison_plots", lambda *_: [])


def test_records_are_sorted_by_the_nearest_genome_trained_on(run: Path, tmp_path: Path) -> None:
    code, said = accuracy(run / "run", "--split", run / "split.tsv", "--distance", "--out", tmp_path / "out")
    assert code == 0, said
    found = json.loads((tmp_path / "out/accuracy.json").read_text())["distance"]
    assert [(one["class"], one["nearest"], one["records"]) for one in found] == [
        (label, nearest, 1)
        for label in ("viral", "host")
        for nearest in ("99 to 100 %", "95 to 99 %", "90 to 95 %", "farther, or none")
    ]
    for one in found:
        assert one["interval"][0] <= one["right"] <= one["interval"][1]
        assert 0 <= one["roc_auc"] <= 1
    page = (tmp_path / "out/accuracy.html").read_text()
    assert "By identity to the nearest genome trained on" in page
    assert page.count("<svg") == 1
    assert "90 to 95 %" in said


def test_what_it_cannot_do(run: Path, tmp_path: Path) -> None:
    code, said = accuracy(run / "run", "--split", "random", "--distance", "--out", tmp_path / "out")
    assert (code, "keeps groups together" in said) == (2, True)
    file = run / "viral_far.fna"
    before = file.read_bytes()
    file.write_bytes(before.rstrip() + b"ACGT\n")
    try:
        code, said = accuracy(run / "run", "--split", run / "split.tsv", "--distance", "--out", tmp_path / "two")
    finally:
        file.write_bytes(before)
    assert (code, "has changed since" in said) == (1, True)


def test_the_nearest_of_several() -> None:
    random = np.random.default_rng(1)
    bases = random.choice(LETTERS, 20_000)
    relatives = Relatives("--distance")
    assert relatives.identity(bases.tobytes()) is None
    for share in (0.2, 0.04):
        relatives.add(mutated(bases, share, random).tobytes())
    relatives.add(b"ACGT")
    found = relatives.identity(bases.tobytes())
    assert found == pytest.approx(0.97, abs=0.01)
    assert relatives.identity(random.choice(LETTERS, 20_000).tobytes()) is None
    assert relatives.identity(b"ACGT") is None
