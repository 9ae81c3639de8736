"""The script that answers which encoder is best, from genomes to the page, with small random weights."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.migration.measure import write_genomes
from tests.jobs.commands import clean, measure
from vnp.classifier.checkpoint import Checkpoint

NAMES = ["random_650m", "random_3b", "random_650m_tuned"]


def test_whole_road_and_again(tmp_path: Path) -> None:
    done = measure("migration", "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 0, clean(done)
    answer = tmp_path / "made/answer"
    found = json.loads((answer / "accuracy.json").read_text())
    assert [one["name"] for one in found["contestants"]] == NAMES
    page = (answer / "accuracy.html").read_text()
    assert all(f"{name}, fp32" in page for name in NAMES)
    assert "Embedding, as the receipts of the runs tell" in page
    assert any("its encoder was fine-tuned" in note for note in found["notes"])
    rows = {one["contestant"]: one["rows"] for one in found["speed"]}
    assert list(rows) == NAMES
    assert len(set(rows.values())) == 1
    tuned = Checkpoint.load(tmp_path / "made/runs/random_650m_tuned/model/model.pth").encoders["protein"]
    base = Checkpoint.load(tmp_path / "made/runs/random_650m/model/model.pth").encoders["protein"]
    assert tuned["weights"] != base["weights"]
    assert ("trained_on" in tuned, "trained_on" in base) == (True, False)
    times = (tmp_path / "made/times.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in times] == [
        "step",
        *("fetch weights", "fetch genomes", "dataset", f"{NAMES[0]}: extract, reduce, train"),
        *(f"{NAMES[1]}: extract, reduce, train", "finetune", f"{NAMES[2]}: extract, reduce, train", "accuracy"),
    ]

    made = [path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".h5", ".pth", ".safetensors", ".html")]
    before = [path.stat().st_mtime_ns for path in made]
    assert len(made) > 12
    done = measure("migration", "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 0, clean(done)
    assert [path.stat().st_mtime_ns for path in made] == before


def test_genomes_are_there_with_their_annotations(tmp_path: Path) -> None:
    lines = write_genomes(tmp_path).read_text().splitlines()
    assert len(lines) == 20
    assert all(Path(part).is_file() for line in lines[1:] for part in line.split(",")[::4])
