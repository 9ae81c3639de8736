"""Tables, scores, sequences and VirNucPro's files."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tests.prediction.test_calls import make_batch, random_batch
from vnp.classifier.checkpoint import Checkpoint
from vnp.errors import ChangedInputError, FeatureError, StorageError
from vnp.features import table
from vnp.features.read import Features
from vnp.prediction.calls import score_chunks
from vnp.prediction.scores import Batch, batches, planned_inputs, read_scores, write_scores
from vnp.prediction.writing import Column, open_table, open_virnucpro_files, write_called
from vnp.sequences.reading import read_records

COLUMNS: tuple[Column[dict[str, Any]], ...] = (
    Column("name", "text", lambda rows: rows["name"]),
    Column("count", "int", lambda rows: rows["count"]),
    Column("share", "ratio", lambda rows: rows["share"]),
)


def write_scored(features: Features, checkpoint: Path, path: Path) -> np.ndarray:
    write_scores(features, Checkpoint.load(checkpoint).scorer("cpu"), path)
    return read_scores(path, features.rows)


def test_a_table_is_the_same_as_text_and_as_parquet(tmp_path: Path) -> None:
    with open_table(COLUMNS, tmp_path / "t.tsv", tmp_path / "t.parquet") as add:
        add({"name": ["a", "b"], "count": np.array([1, 2]), "share": np.array([0.25, np.nan])})
        add({"name": [], "count": np.empty(0, int), "share": np.empty(0)})
        add({"name": ["c"], "count": np.array([3]), "share": np.array([1 / 3])})
    assert (tmp_path / "t.tsv").read_text() == "name\tcount\tshare\na\t1\t0.25\nb\t2\t\nc\t3\t0.333333\n"
    assert parquet.read_table(tmp_path / "t.parquet").to_pydict() == {
        "name": ["a", "b", "c"],
        "count": [1, 2, 3],
        "share": [0.25, None, 1 / 3],
    }


def test_a_table_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with open_table(COLUMNS, tmp_path / "t.tsv", tmp_path / "t.parquet") as add:
            add({"name": ["a"], "count": np.array([1]), "share": np.array([0.5])})
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="no space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_scores_are_those_of_the_classifier(features: Features, checkpoint: Path, tmp_path: Path) -> None:
    stored = write_scored(features, checkpoint, tmp_path / "scores.npy")
    rows = np.concatenate([window.values for window in features.windows()])
    scores = Checkpoint.load(checkpoint).scorer("cpu").scores(rows)
    assert stored["score"] == pytest.approx(scores.raw)
    assert stored["probability"] == pytest.approx(scores.probability)


def test_scores_of_no_row(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.empty(0, [("score", "<f8"), ("probability", "<f8")]))
    assert len(read_scores(tmp_path / "scores.npy", 0)) == 0


def test_damaged_scores_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "scores.npy"
    np.save(path, np.zeros(5, [("score", "<f8"), ("probability", "<f8")]))
    with pytest.raises(FeatureError, match="expected 6 rows"):
        read_scores(path, 6)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FeatureError, match="damaged"):
        read_scores(path, 5)
    np.save(path, np.array([{}], object))
    with pytest.raises(FeatureError, match="damaged"):
        read_scores(path, 1)


@pytest.mark.parametrize("window", [1, 2, 7, 65_536])
def test_no_chunk_is_cut_between_batches(
    features: Features, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    scores = write_scored(features, checkpoint, tmp_path / "scores.npy")
    monkeypatch.setattr(table, "ROWS_AT_ONCE", window)
    found = list(batches(features, scores))
    assert [name.decode() for batch in found for name in batch.ids] == features.ids()
    assert np.array_equal(np.concatenate([batch.probability for batch in found]), scores["probability"])
    chunks = [(r, c) for batch in found for r, c in set(zip(batch.record.tolist(), batch.chunk.tolist(), strict=True))]
    assert len(chunks) == len(set(chunks))


def write_virnucpro(batch: Batch, folder: Path, rows: int) -> tuple[list[str], list[str]]:
    frames, chunks = folder / "frames.txt", folder / "chunks.csv"
    with open_virnucpro_files(frames, chunks) as add:
        for part in (batch.part(0, rows), batch.part(rows, len(batch))):
            add(part, score_chunks(part, "best-frame").first)
    return frames.read_text().splitlines(), chunks.read_text().splitlines()


def test_virnucpro_files_have_its_columns_and_words(tmp_path: Path) -> None:
    batch = replace(make_batch([(0, 1, 0), (0, 1, 1), (0, 2, 0)], [0.9, 0.5, 0.7]), score=np.array([0.8125, 0.25, 0.5]))
    frames, chunks = write_virnucpro(batch, tmp_path, 2)
    assert frames == [
        "Sequence_ID\tPrediction\tscore1\tscore2",
        "r0_chunk_1F0\tvirus\t0.1875\t0.8125",
        "r0_chunk_1F1\tothers\t0.75\t0.25",
        # Of two equal scores the first counts for a frame, and virus for a chunk.
        "r0_chunk_2F0\tothers\t0.5\t0.5",
    ]
    assert chunks == [
        "Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1",
        "r0_chunk_1\tTrue\t0.75\t0.8125",
        "r0_chunk_2\tTrue\t0.5\t0.5",
    ]


def test_virnucpro_chunks_by_a_plain_loop(tmp_path: Path) -> None:
    batch = random_batch(40)
    border = int(np.flatnonzero(batch.record == 20)[0])
    frames, chunks = write_virnucpro(batch, tmp_path, border)
    highest: dict[str, list[float]] = {}
    for line in frames[1:]:
        name, _, others, virus = line.split("\t")
        known = highest.setdefault(name[:-2], [0.0, 0.0])
        known[:] = max(known[0], float(others)), max(known[1], float(virus))
    found = {line.split("\t")[0]: line.split("\t")[1:] for line in chunks[1:]}
    assert list(found) == list(highest)
    for name, (low, high) in highest.items():
        assert found[name][0] == str(high >= low)
        assert [float(text) for text in found[name][1:]] == pytest.approx([low, high])


def test_called_sequences_come_from_the_inputs_in_order(features: Features, tmp_path: Path) -> None:
    inputs = planned_inputs(features)
    every = [record for entry in inputs for record in read_records(entry.path)]
    called = np.arange(len(every)) % 2 == 0
    bases = write_called(inputs, called, tmp_path / "viral.fna")
    found = list(read_records(tmp_path / "viral.fna"))
    assert [(record.name, record.sequence) for record in found] == [
        (record.name, record.sequence) for record in every[::2]
    ]
    assert bases == sum(len(record.sequence) for record in every[::2])
    assert max(map(len, (tmp_path / "viral.fna").read_bytes().splitlines())) == 80


def test_an_input_that_is_gone_is_said(features: Features, tmp_path: Path) -> None:
    entry = replace(planned_inputs(features)[0], path=str(tmp_path / "gone.fna"))
    with pytest.raises(ChangedInputError, match=r"gone\.fna"):
        write_called([entry], np.ones(entry.records, bool), tmp_path / "viral.fna")
    # Where nothing of it was called, it is not looked at.
    assert write_called([entry], np.zeros(entry.records, bool), tmp_path / "viral.fna") == 0
