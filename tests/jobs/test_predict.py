from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs._cluster.executor import Job
from jobs._cluster.slurm import Slurm
from jobs.rerun import main as rerun
from jobs.status import main as status
from tests.jobs.commands import table
from tests.jobs.predicting import WRITTEN, call, done, odd
from tests.prediction.conftest import INPUTS, checkpoint, features
from tests.prediction.tiny import embed, train
from tests.report.unpacking import packed_in
from vnp.classifier.checkpoint import Checkpoint
from vnp.features.read import Features
from vnp.metrics.presets import Preset
from vnp.sequences.reading import read_records

__all__ = ["checkpoint", "done", "features", "odd"]


def test_chunks_without_an_open_frame_are_scored_by_native(
    odd: Path, done: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.fna").write_text(f">shut\n{'TAATTAATTAA' * 12}\n")
    words = [odd, tmp_path / "more.fna", INPUTS[3], "--checkpoint", checkpoint, "--cluster", "inline"]
    words += ["--virnucpro-output", "--device", "cpu"]
    for shards in (1, 3):
        result = call(*words, "--out", tmp_path / f"{shards}", "--shards", shards)
        assert result.exit_code == 0, result.output
    out = tmp_path / "1"
    for name in (*sorted(WRITTEN - {"report.html"}), "prediction_results.txt"):
        assert (out / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name
    before = {row["name"]: row for row in table(done / "predictions.tsv")}
    for row in table(out / "predictions.tsv"):
        if row["scored_by"] == "checkpoint":
            # Its own frames decide, and they alone.
            same = ("score", "probability", "call", "agreement")
            assert [row[name] for name in same] == [before[row["name"]][name] for name in same]
    found = {row["name"]: row for row in table(out / "predictions.tsv")}
    assert found["shut"]["scored_by"] == "native"
    assert found["shut"]["call"] in ("viral", "host")
    assert found["shut"]["kind"]
    assert found["closed"]["reason"] == "no open frame"
    assert found["unknown"]["reason"] == "only ambiguous bases"
    chunks = table(out / "chunks.tsv")
    assert {(row["scored_by"], row["n_frames"] == "0") for row in chunks} == {("checkpoint", False), ("native", True)}
    assert all(row["frame"] for row in table(out / "frames.tsv"))
    assert len(table(out / "frames.tsv")) == len((out / "prediction_results.txt").read_text().splitlines()) - 1


def test_every_record_has_one_line(done: Path, odd: Path) -> None:
    found = table(done / "predictions.tsv")
    expected = [record for path in (odd, INPUTS[1], INPUTS[3]) for record in read_records(path)]
    assert [row["name"] for row in found] == [record.name for record in expected]
    by_name = {row["name"]: row for row in found}
    for name, reason in (
        ("closed", "no open frame"),
        ("unknown", "only ambiguous bases"),
        ("tiny", "shorter than 3 bases"),
        ("empty", "the record is empty"),
    ):
        row = by_name[name]
        assert row["reason"] == reason
        assert row["n_scored"] == "0"
        assert row["probability"] == row["score"] == row["call"] == row["fdr"] == row["reliability"] == ""
    assert by_name["protein"]["reason"].startswith("looks like protein")
    assert by_name["whole"]["call"] == "viral"
    assert by_name["whole"]["reason"] == ""
    assert {path.name for path in done.iterdir()} >= WRITTEN | {"predictions.json", "run.json"}


def test_the_report_lists_the_numbers_of_the_tables(done: Path) -> None:
    page = (done / "report.html").read_text()
    packed, tracks = packed_in(page, "records"), packed_in(page, "tracks")
    rows, calls = packed["rows"], {"viral": 1, "host": 0, "": -1}
    found = {row["name"]: row for row in table(done / "predictions.tsv")}
    names = rows["name"].split("\n")
    assert sorted(names) == sorted(found)
    probability, fdr = (np.cumsum(rows[column]).tolist() for column in ("probability", "fdr"))
    for at, name in enumerate(names):
        row = found[name]
        assert rows["length"][at] == int(row["length"])
        assert rows["call"][at] == calls[row["call"]]
        assert packed["samples"][rows["sample"][at]] == (row["sample"] or row["source"])
        assert ({2: "high", 1: "medium", 0: "low", -1: ""}[rows["reliability"][at]]) == row["reliability"]
        for value, scale, text in (
            (probability[at], 10_000, row["probability"]),
            (fdr[at], 10_000, row["fdr"]),
            (rows["agreement"][at], 100, row["agreement"]),
            (rows["novelty"][at], 1, row["novelty"]),
        ):
            assert value == -1 if not text else value / scale == pytest.approx(float(text), abs=0.501 / scale)
        reason = rows["reasons"][rows["reason"][at]] if rows["reason"][at] >= 0 else ""
        assert reason == row["reason"].partition(" at ")[0]
    chunks = table(done / "chunks.tsv")
    assert tracks["rows"]
    for row, points in zip(tracks["rows"], tracks["points"], strict=True):
        of_chunk = {int(one["chunk"]): one["probability"] for one in chunks if one["record"] == names[row]}
        assert len(points) == int(found[names[row]]["n_chunks"])
        for number, point in enumerate(points, start=1):
            stored = of_chunk.get(number)
            assert point == -1 if stored is None else point / 100 == pytest.approx(float(stored), abs=0.0051)


def test_tables_tell_the_same_story(done: Path) -> None:
    frames, chunks, records = (table(done / f"{name}.tsv") for name in ("frames", "chunks", "predictions"))
    best: dict[tuple[str, str], float] = {}
    for row in frames:
        assert row["frame_id"] == f"{row['record']}_chunk_{row['chunk']}{row['frame']}"
        key, p = (row["record"], row["chunk"]), float(row["probability"])
        if key not in best or abs(p - 0.5) > abs(best[key] - 0.5):
            best[key] = p
    assert {(row["record"], row["chunk"]): float(row["probability"]) for row in chunks} == best
    surest: dict[str, float] = {}
    for (name, _), p in best.items():
        surest[name] = p if abs(p - 0.5) > abs(surest.get(name, 0.5) - 0.5) else surest[name]
    called = {row["name"]: row for row in records if row["probability"]}
    assert {name: float(row["probability"]) for name, row in called.items()} == surest
    for name, row in called.items():
        assert int(row["n_scored"]) == sum(record == name for record, _ in best)
        assert row["call"] == ("viral" if surest[name] >= 0.5 else "host")
    for row in chunks:
        inside = [f for f in frames if (f["record"], f["chunk"]) == (row["record"], row["chunk"])]
        assert int(row["n_frames"]) == len(inside)
        assert all(int(row["start"]) <= int(f["start"]) < int(f["end"]) <= int(row["end"]) for f in inside)
        assert int(row["end"]) - int(row["start"]) <= 300


def test_called_sequences_and_summary(done: Path) -> None:
    viral = [row["name"] for row in table(done / "predictions.tsv") if row["call"] == "viral"]
    assert [record.name for record in read_records(done / "viral.fna")] == viral
    summary = json.loads((done / "predictions.json").read_text())
    assert summary["counts"]["viral"] == len(viral)
    assert summary["counts"]["records"] == sum(summary["counts"][name] for name in ("viral", "host", "no_call"))
    assert summary["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in ((name, (done / name).read_bytes()) for name in WRITTEN)
    }


def test_status_and_rerun_know_a_prediction(done: Path) -> None:
    shown = call(done, command=status)
    assert shown.exit_code == 0, shown.output
    assert f"next: look at {done}/report.html" in shown.output
    again = call(done, "--cluster", "inline", command=rerun)
    assert again.exit_code == 0
    assert f"next: look at {done}/report.html" in again.output


def test_length_weighted_from_frames(done: Path, tmp_path: Path) -> None:
    assert call("--from", done, "--out", tmp_path / "mean", "--rule", "length-weighted", "--no-fasta").exit_code == 0
    assert not (tmp_path / "mean" / "viral.fna").exists()
    frames = table(tmp_path / "mean" / "frames.tsv")
    for row in table(tmp_path / "mean" / "predictions.tsv"):
        inside = [f for f in frames if f["record"] == row["name"]]
        if inside:
            weights = [int(f["end"]) - int(f["start"]) for f in inside]
            mean = np.average([float(f["probability"]) for f in inside], weights=weights)
            assert float(row["probability"]) == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_any_number_of_shards_gives_the_same_bytes(
    done: Path, odd: Path, checkpoint: Path, tmp_path: Path, shards: int
) -> None:
    words = ["--checkpoint", checkpoint, "--out", tmp_path / "calls", "--shards", shards]
    assert call(odd, INPUTS[1], INPUTS[3], *words).exit_code == 0
    for name in WRITTEN - {"report.html"}:
        assert (tmp_path / "calls" / name).read_bytes() == (done / name).read_bytes(), name


def test_presets_are_thresholds_by_length(done: Path, checkpoint: Path, tmp_path: Path) -> None:
    refused = call("--from", done, "--out", tmp_path / "out", "--preset", "relaxed")
    assert refused.exit_code == 2
    assert "--preset relaxed is not in" in refused.output
    both = call("--from", done, "--out", tmp_path / "out", "--preset", "relaxed", "--threshold", 0.5)
    assert both.exit_code == 2
    presets = {"default": Preset((1000,), (1.0, 0.5), 0.99), "relaxed": Preset((), (0.0,), 0.95)}
    replace(Checkpoint.load(checkpoint), presets=presets).write(tmp_path / "with.pth")
    result = call(INPUTS[1], INPUTS[3], "--checkpoint", tmp_path / "with.pth", "--out", tmp_path / "calls")
    assert result.exit_code == 0, result.output
    assert "(now preset default)" in result.output
    for row in table(tmp_path / "calls" / "predictions.tsv"):
        least = 1.0 if int(row["length"]) < 1000 else 0.5
        assert row["call"] == ("" if not row["score"] else "viral" if float(row["probability"]) >= least else "host")
    assert call("--from", tmp_path / "calls", "--out", tmp_path / "all", "--preset", "relaxed").exit_code == 0
    assert {row["call"] for row in table(tmp_path / "all" / "predictions.tsv") if row["score"]} == {"viral"}


def test_not_one_open_frame(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "none.fna").write_text(">a\nTAATTAATTAATTAATTAA\n>b\nNNNNNN\n>c\nAC\n")
    out = tmp_path / "out"
    words = ["--virnucpro-output", "--parquet", "--max-fdr", 0.1]
    result = call(tmp_path / "none.fna", "--checkpoint", checkpoint, "--out", out, *words)
    assert result.exit_code == 0, result.output
    assert [row["reason"] for row in table(out / "predictions.tsv")] == [
        "no open frame",
        "only ambiguous bases",
        "shorter than 3 bases",
    ]
    assert table(out / "frames.tsv") == table(out / "chunks.tsv") == []
    assert (out / "viral.fna").read_bytes() == b""
    assert "No record has a score" in (out / "report.html").read_text()
    assert {path.name for path in out.iterdir()} >= WRITTEN
    assert call("--from", out, "--out", tmp_path / "again", "--threshold", 0.9).exit_code == 0


def test_an_empty_input_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.fna").write_text("")
    result = call(tmp_path / "empty.fna", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "empty.fna" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threshold", "1.5"], "--threshold"),
        (["--threshold", "nan"], "--threshold"),
        (["--max-fdr", "-0.1"], "--max-fdr"),
        (["--min-length", "-1"], "--min-length"),
        (["--shards", "0"], "--shards"),
    ],
)
def test_numbers_out_of_range(words: list[str], said: str, checkpoint: Path, tmp_path: Path) -> None:
    result = call(INPUTS[0], "--checkpoint", checkpoint, "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out").exists()


def test_wrong_use(done: Path, checkpoint: Path, features: Features, tmp_path: Path) -> None:
    for words in (
        [INPUTS[0]],
        [INPUTS[0], "--checkpoint", checkpoint],
        ["--checkpoint", checkpoint, "--out", tmp_path / "out"],
        [INPUTS[0], "--from", done],
        ["--from", tmp_path],
        ["--from", features.path.parent],
    ):
        result = call(*words)
        assert result.exit_code == 2, (words, result.output)
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_kind_is_refused_with_both_sides(features: Features, checkpoint: Path, tmp_path: Path) -> None:
    loaded = Checkpoint.load(checkpoint)
    replace(loaded, chunk=500).write(tmp_path / "500.pth")
    rows = features.path.parent
    result = call("--from", rows, "--checkpoint", tmp_path / "500.pth", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "500" in result.output
    assert "300" in result.output
    assert not (tmp_path / "out").exists()
    encoders = {**loaded.encoders, "dna": {**loaded.encoders["dna"], "algorithm": "kmer-dna-9"}}
    replace(loaded, encoders=encoders).write(tmp_path / "newer.pth")
    # Said before anything is embedded.
    result = call(INPUTS[0], "--checkpoint", tmp_path / "newer.pth", "--out", tmp_path / "new")
    assert result.exit_code == 1
    assert "kmer-dna-9" in result.output
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04 not really")
    result = call(INPUTS[0], "--checkpoint", tmp_path / "model.pth", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "model.pth" in result.output
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_protein_alone(features: Features, tmp_path: Path) -> None:
    train(features.only("protein"), tmp_path / "protein.pth", steps=20)
    fresh = call(INPUTS[1], "--checkpoint", tmp_path / "protein.pth", "--out", tmp_path / "fresh")
    assert fresh.exit_code == 0, fresh.output
    rows = features.path.parent
    assert call("--from", rows, "--checkpoint", tmp_path / "protein.pth", "--out", tmp_path / "from").exit_code == 0
    scores = {row["frame_id"]: row["score"] for row in table(tmp_path / "from" / "frames.tsv")}
    for row in table(tmp_path / "fresh" / "frames.tsv"):
        # Rows of another width are multiplied in another order, so last digits depend on the CPU.
        assert float(row["score"]) == pytest.approx(float(scores[row["frame_id"]]), abs=1e-5)


def test_on_slurm_the_calling_waits_for_the_shards(checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    submitted: list[Job] = []

    def submit(_slurm: Slurm, job: Job) -> list[str]:
        submitted.append(job)
        return [str(100 + len(submitted))]

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(Slurm, "submit", submit)
    out = tmp_path / "calls"
    words = ["--checkpoint", checkpoint, "--out", out, "--shards", 2, "--cluster", "slurm", "--rule", "length-weighted"]
    result = call(INPUTS[0], INPUTS[1], *words)
    assert result.exit_code == 0, result.output
    array, calling = submitted
    assert array.shards == (0, 1)
    assert (calling.after, calling.anyhow) == (("101",), True)
    assert checkpoint in calling.binds
    assert checkpoint in array.binds
    run = str(out / "run.json")
    array.function(run, [1])
    with pytest.raises(SystemExit) as ended:
        calling.function(run)
    assert ended.value.code == 3
    array.function(run, [0])
    assert "called viral" in calling.function(run, *calling.arguments)
    assert json.loads((out / "predictions.json").read_text())["settings"]["rule"] == "length-weighted"


def test_rows_of_chunks_from_extract_to_calls(features: Features, tmp_path: Path) -> None:
    chunks = embed([INPUTS[0], INPUTS[3]], tmp_path / "run", layout="full", protein="none")
    assert chunks.width == 768
    labelled = tmp_path / "sheet.csv"
    labelled.write_text(f"path,label,group\n{INPUTS[0]},viral,\n{INPUTS[3]},host,\n")
    train(embed([labelled], tmp_path / "labelled", layout="full", protein="none"), tmp_path / "chunks.pth")
    short = tmp_path / "short.fna"
    short.write_text(f">all\n{'N' * 400}\n>one\n{'ACG' * 70}\n")
    out = tmp_path / "calls"
    result = call(INPUTS[0], short, "--checkpoint", tmp_path / "chunks.pth", "--out", out, "--shards", 2)
    assert result.exit_code == 0, result.output
    assert not (out / "frames.tsv").exists()
    lines = table(out / "predictions.tsv")
    assert [(line["call"] != "", line["n_scored"] == line["n_chunks"]) for line in lines[-2:]] == [
        (False, False),
        (True, True),
    ]
    assert lines[0]["call"] == "viral"
    assert lines[-2]["reason"] == "only ambiguous bases"
    called = call("--from", tmp_path / "run", "--checkpoint", tmp_path / "chunks.pth", "--out", tmp_path / "again")
    assert called.exit_code == 0, called.output
    assert table(tmp_path / "again/predictions.tsv")[0]["score"] == lines[0]["score"]
    refused = call("--from", features.path.parent, "--checkpoint", tmp_path / "chunks.pth", "--out", tmp_path / "no")
    assert refused.exit_code == 1
    assert "a row a chunk" in refused.stderr
