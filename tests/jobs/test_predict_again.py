"""predict where something is there already: all, other thresholds, what broke off, files of somebody else."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from jobs.reduce import main as reduce
from jobs.rerun import main as rerun
from tests.jobs.commands import table
from tests.jobs.predicting import WRITTEN, call, content, done, odd
from tests.prediction.conftest import INPUTS, checkpoint, features
from tests.prediction.tiny import embed, train
from vnp.features.read import Features
from vnp.sequences.reading import read_records

__all__ = ["checkpoint", "done", "features", "odd"]


def test_the_same_again_does_nothing(done: Path, odd: Path, checkpoint: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in done.iterdir() if path.is_file() and path.name != "predict.json"
    }
    result = call(odd, INPUTS[1], INPUTS[3], "--checkpoint", checkpoint, "--out", done, "--shards", 3)
    assert result.exit_code == 0, result.output
    assert "there already" in result.output
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_thresholds_from_what_is_there(done: Path, tmp_path: Path) -> None:
    first = table(done / "predictions.tsv")
    out = tmp_path / "strict"
    words = ["--threshold", 0.999, "--min-length", 1000, "--max-fdr", 0.5, "--parquet", "--virnucpro-output"]
    result = call("--from", done, "--out", out, *words)
    assert result.exit_code == 0, result.output
    found = {row["name"]: row for row in table(out / "predictions.tsv")}
    for row in first:
        new = found[row["name"]]
        assert [new[key] for key in ("length", "score", "probability")] == [
            row[key] for key in ("length", "score", "probability")
        ]
        if row["probability"] and int(row["length"]) < 1000:
            assert new["call"] == ""
            assert new["reason"] == "shorter than 1,000 bases"
        elif row["probability"]:
            assert new["call"] == ("viral" if float(row["probability"]) >= 0.999 else "host")
    names = {path.name for path in out.iterdir()}
    assert {"predictions.parquet", "prediction_results.txt", "prediction_results_highestscore.csv"} <= names


def test_nothing_is_overwritten_without_force(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("--from", done, "--out", out).exit_code == 0
    before = (out / "predictions.tsv").read_bytes()
    refused = call("--from", done, "--out", out, "--threshold", 0.9)
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert (out / "predictions.tsv").read_bytes() == before
    assert call("--from", done, "--out", out, "--parquet", "--force").exit_code == 0
    assert (out / "predictions.parquet").exists()
    # What a new prediction does not write must not stay from the old one.
    assert call("--from", done, "--out", out, "--threshold", 0.9, "--no-fasta", "--force").exit_code == 0
    assert not (out / "viral.fna").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("my own")
    assert call("--from", done, "--out", tmp_path / "mine").exit_code == 2
    assert (tmp_path / "mine" / "report.html").read_text() == "my own"


@pytest.fixture
def small(checkpoint: Path, tmp_path: Path) -> list[Any]:
    """The command of a small prediction, and its finished folder."""
    words = [INPUTS[1], "--checkpoint", checkpoint, "--out", tmp_path / "small"]
    result = call(*words)
    assert result.exit_code == 0, result.output
    return words


@pytest.mark.parametrize("name", ["viral.fna", "report.html", "chunks.tsv", "predict.json"])
def test_files_of_somebody_else_in_a_run_are_left_alone(name: str, checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    assert call(INPUTS[1], "--checkpoint", checkpoint, "--out", run).exit_code == 0
    for written in (*WRITTEN, "predict.json", "predictions.json"):
        (run / written).unlink()
    (run / name).write_text("my own")
    before = content(run)
    refused = call(INPUTS[1], "--checkpoint", checkpoint, "--out", run)
    assert refused.exit_code == 2, refused.output
    assert f"({name})" in refused.output
    assert content(run) == before
    assert call(INPUTS[1], "--checkpoint", checkpoint, "--out", run, "--force").exit_code == 0
    assert (run / "viral.fna").read_text() != "my own"


@pytest.mark.parametrize("name", ["predict.json", "viral.fna"])
def test_files_of_somebody_else_in_another_folder_are_left_alone(name: str, done: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("my own")
    refused = call("--from", done, "--out", tmp_path)
    assert refused.exit_code == 2, refused.output
    assert content(tmp_path) == {name: b"my own"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "vnp-predictions/0"}'])
def test_predictions_with_a_strange_summary_are_not_deleted(small: list[Any], text: str, tmp_path: Path) -> None:
    (tmp_path / "small/predictions.json").write_text(text)
    before = content(tmp_path / "small")
    for words in (small, [*small, "--threshold", 0.9], ["--from", tmp_path / "small"]):
        refused = call(*words)
        assert refused.exit_code == 2, refused.output
        assert "predictions.json" in refused.output
    assert content(tmp_path / "small") == before
    assert call("--from", tmp_path / "small", "--force").exit_code == 0


def test_what_broke_off_goes_on_with_the_same_command_alone(small: list[Any], tmp_path: Path) -> None:
    whole = content(tmp_path / "small")
    (tmp_path / "small/predictions.json").unlink()
    before = content(tmp_path / "small")
    for words in ([*small, "--threshold", 0.9], ["--from", tmp_path / "small", "--threshold", 0.9]):
        refused = call(*words)
        assert refused.exit_code == 2, refused.output
        assert "frames.tsv" in refused.output
    assert content(tmp_path / "small") == before
    assert call(*small).exit_code == 0
    assert content(tmp_path / "small") == whole
    # Settings alone, as a stop while tables are written leaves them, are no predictions.
    for name in WRITTEN | {"predictions.json"}:
        (tmp_path / "small" / name).unlink()
    assert call("--from", tmp_path / "small", "--threshold", 0.9).exit_code == 0


def test_predictions_of_another_run_make_way_but_nothing_else(small: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert call("--from", out, "--force", "--no-fasta").exit_code == 0
    words = [INPUTS[2], *small[1:]]
    assert call(*words[:-1], tmp_path / "other").exit_code == 0
    for name in ("run.json", "plan.h5", "receipts", "shards"):
        path, new = out / name, tmp_path / "other" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        new.rename(path)
    (out / "viral.fna").write_text("my own")
    before = content(out)
    refused = call(*words)
    assert refused.exit_code == 2
    assert "(viral.fna)" in refused.output
    assert content(out) == before
    (out / "viral.fna").unlink()
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert [row["name"] for row in table(out / "predictions.tsv")] == [one.name for one in read_records(INPUTS[2])]


def next_words(result: Result) -> list[str]:
    """The command that is named as the next one, without where its results go."""
    assert result.exit_code == 0, result.output
    # A long command has a line of its own.
    said = " ".join(result.output.partition("next:")[2].split("\n"))
    return shlex.split(said.partition("python -m jobs.predict ")[2].partition(" --out OTHER")[0])


def test_the_next_command_works(done: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(done.parent)
    words = next_words(call("--from", done.name, "--threshold", 0.1, "--out", tmp_path / "o 2"))
    assert words == ["--from", done.name]
    assert call(*words, "--out", tmp_path / "o3", "--threshold", 0.9).exit_code == 0
    # Of a run that extract made the classifier is not known.
    embed([INPUTS[1]], tmp_path / "my run")
    words = next_words(call("--from", tmp_path / "my run", "--checkpoint", checkpoint, "--out", tmp_path / "o4"))
    assert words == ["--from", str(tmp_path / "my run"), "--checkpoint", str(checkpoint)]
    assert call(*words, "--out", tmp_path / "o5").exit_code == 0


def test_another_checkpoint_needs_rows(done: Path, checkpoint: Path, features: Features, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    train(features, other, steps=5)
    refused = call("--from", done, "--out", tmp_path / "out", "--checkpoint", other)
    assert refused.exit_code == 2
    assert "--keep-embeddings" in refused.output
    assert not (tmp_path / "out").exists()
    kept = tmp_path / "kept"
    words = [INPUTS[1], INPUTS[3], "--checkpoint", checkpoint, "--shards", 2]
    assert call(*words, "--out", tmp_path / "plain").exit_code == 0
    assert call(*words, "--out", kept, "--keep-embeddings").exit_code == 0
    for name in WRITTEN - {"report.html"}:
        assert (kept / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    assert call("--from", kept, "--out", tmp_path / "out", "--checkpoint", other).exit_code == 0
    assert call(INPUTS[1], INPUTS[3], "--checkpoint", other, "--out", tmp_path / "anew").exit_code == 0
    for name in WRITTEN - {"report.html"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes(), name
    assert (tmp_path / "out" / "frames.tsv").read_bytes() != (kept / "frames.tsv").read_bytes()
    # Rows that are kept can be merged as those of extract, and scores cannot.
    assert call(kept, command=reduce).exit_code == 0
    only = call(tmp_path / "plain", command=reduce)
    assert only.exit_code == 2
    assert "--keep-embeddings" in only.output


def test_a_damaged_shard_is_not_believed(done: Path, odd: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    shutil.copytree(done, out)
    path = out / "shards/shard-00001.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    refused = call("--from", out, "--out", tmp_path / "new")
    assert refused.exit_code == 1
    assert "shard-00001.h5 is not the file that its receipt names" in refused.output
    assert not (tmp_path / "new" / "predictions.json").exists()
    assert call(out, "--cluster", "inline", command=rerun).exit_code == 0
    assert call("--from", out, "--out", tmp_path / "new").exit_code == 0
    assert (tmp_path / "new" / "chunks.tsv").read_bytes() == (done / "chunks.tsv").read_bytes()


@pytest.mark.parametrize("name", [*sorted(WRITTEN), "predictions.json"])
def test_predictions_that_changed_are_not_there_already(small: list[Any], name: str, tmp_path: Path) -> None:
    path = tmp_path / "small" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    for words in (small, ["--from", tmp_path / "small"]):
        refused = call(*words)
        assert refused.exit_code == 2, refused.output
        assert name in refused.output
    assert path.read_bytes() != whole
    assert call("--from", tmp_path / "small", "--force").exit_code == 0
    assert path.read_bytes() == whole


def test_a_run_goes_on_where_it_was_left(done: Path, odd: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    words = [odd, INPUTS[1], INPUTS[3], "--checkpoint", checkpoint, "--out", out, "--shards", 3]
    assert call(*words).exit_code == 0
    for name in ("predictions.json", "receipts/shard-00001.json"):
        (out / name).unlink()
    unfinished = call("--from", out)
    assert unfinished.exit_code == 3
    assert "rerun" in unfinished.output
    result = call(out, "--cluster", "inline", "--then", "predict", command=rerun)
    assert result.exit_code == 0, result.output
    for name in WRITTEN:
        assert (out / name).read_bytes() == (done / name).read_bytes(), name


def test_a_run_by_extract_and_reduce_can_be_called(checkpoint: Path, features: Features, tmp_path: Path) -> None:
    result = call("--from", features.path.parent, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["counts"]["records"] == len(features.records().ordinal)


def test_a_full_disk_is_one_message_and_leaves_nothing(done: Path, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    words = ["--from", str(done), "--out", str(tmp_path / "out"), "--parquet"]
    failed = subprocess.run(
        [sys.executable, "-m", "jobs.predict", *words], capture_output=True, text=True, preexec_fn=limit, timeout=120
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: writing "), failed.stderr
    assert "Traceback" not in failed.stderr
    whole = {path.name for path in (tmp_path / "out").iterdir()} - {"predict.json"}
    assert "predictions.json" not in whole
    assert not [name for name in whole if name.startswith(".")]
    # What was begun there is no obstacle to beginning again.
    assert call("--from", done, "--out", tmp_path / "out").exit_code == 0


def test_a_half_finished_run_of_extract_is_no_prediction(features: Features, tmp_path: Path) -> None:
    embed([INPUTS[1]], tmp_path / "run")
    result = call(tmp_path / "run", "--cluster", "inline", "--then", "predict", command=rerun)
    assert result.exit_code == 2
    assert "not made by predict" in result.output
