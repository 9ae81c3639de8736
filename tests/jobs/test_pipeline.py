from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from jobs import pipeline, rerun, status
from vnp.classifier.checkpoint import Checkpoint

WORDS = ["--shards", "2", "--dna", "kmer", "--protein", "kmer", "--cluster", "inline"]

pytestmark = pytest.mark.usefixtures("without_plots")


def make_fasta(folder: Path) -> Path:
    path = folder / "in.fasta"
    path.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(4)))
    return path


def test_pipeline_in_this_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [str(make_fasta(tmp_path)), "--out", str(run), *WORDS]
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with h5py.File(run / "features.h5") as file:
        assert file["features"].shape[1] == 1664
        before = (run / "features.h5").stat().st_mtime_ns
    assert CliRunner().invoke(status.main, [str(run)]).exit_code == 0

    # Again: nothing is made twice.
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "was there already" in result.output
    assert (run / "features.h5").stat().st_mtime_ns == before


def test_pipeline_trains_and_measures_where_inputs_are_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vnp.toml").write_text("[train]\nepochs = 3\n[benchmark.accuracy]\nreplicates = 20\n")
    rng = np.random.default_rng(0)
    for name, letters in (("viral", "ACG"), ("host", "CGT")):
        sequences = ["".join(rng.choice(list(letters), 300)) for _ in range(20)]
        text = "".join(f">{name}{i}\n{sequence}\n" for i, sequence in enumerate(sequences))
        (tmp_path / f"{name}.fasta").write_text(text)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("path,label,group\nviral.fasta,viral,\nhost.fasta,host,\n")
    run = tmp_path / "run"
    words = [str(sheet), "--out", str(run), *WORDS]
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert Checkpoint.load(run / "model" / "model.pth").layout.width == 1664
    compared = json.loads((run / "accuracy" / "accuracy.json").read_text())
    assert compared
    # What is done anyway is not asked for.
    assert "jobs.train" not in result.output
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "model.pth is there already" in result.output
    assert "accuracy is there already" in result.output

    # Named, the usual place is that of this run all the same.
    named = [*words, "--out-model", str(run / "model" / "model.pth")]
    result = CliRunner().invoke(pipeline.main, named, catch_exceptions=False)
    assert (result.exit_code, "model.pth is there already" in result.output) == (0, True), result.output

    # By another recipe, and to another place: the run remembers it, and what is somebody else's stays.
    other = tmp_path / "models/mine.pth"
    asked = [*words, "--recipe", "adamw", "--out-model", str(other)]
    result = CliRunner().invoke(pipeline.main, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert Checkpoint.load(other).training["recipe"]["name"] == "adamw"
    result = CliRunner().invoke(rerun.main, [str(run), "--then", "pipeline"], catch_exceptions=False)
    assert "mine.pth is there already" in result.output
    (tmp_path / "models/other.pth").write_text("mine")
    result = CliRunner().invoke(pipeline.main, [*words, "--out-model", str(tmp_path / "models/other.pth")])
    assert (result.exit_code, (tmp_path / "models/other.pth").read_text()) == (2, "mine")

    # Begun anew with other chunks: no classifier and no table of the old features is left.
    before = Checkpoint.load(run / "model" / "model.pth").training["data"]
    result = CliRunner().invoke(pipeline.main, [*words, "--chunk", "150", "--force"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "model.pth was trained on other features" in result.output
    checkpoint = Checkpoint.load(run / "model" / "model.pth")
    assert checkpoint.chunk == 150
    assert checkpoint.training["data"] != before
    compared = json.loads((run / "accuracy" / "accuracy.json").read_text())
    assert [one["chunk"] for one in compared["contestants"]] == [150]


def test_pipeline_stops_where_shards_fail(tmp_path: Path) -> None:
    fasta = make_fasta(tmp_path)
    run = tmp_path / "run"
    words = [str(fasta), "--out", str(run), *WORDS]
    assert CliRunner().invoke(pipeline.main, words, catch_exceptions=False).exit_code == 0
    for path in (run / "features.h5", run / "receipts" / "shard-00001.json"):
        path.unlink()
    plan = run / "plan.h5"
    plan.write_bytes(plan.read_bytes()[:-1])
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 1
    assert "is not the plan that run.json names" in result.output
    assert not (run / "features.h5").exists()


def test_help_says_what_the_chain_holds() -> None:
    said = " ".join(CliRunner().invoke(pipeline.main, ["--help"]).output.split())
    assert "an array that makes the shards" in said
    assert "the merging" in said
    assert "rerun RUN --then pipeline" in said
