"""Tables, scores, sequences and VirNucPro's files."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tests.prediction.test_calls import make_rows, random_rows
from vnp.errors import ChangedInputError, StorageError
from vnp.features.read import Features
from vnp.features.scores import Scores
from vnp.metrics.rules import chunk_keys
from vnp.prediction.tables import Column, open_table, open_virnucpro_files
from vnp.prediction.writing import write_called
from vnp.runs.request import Run
from vnp.sequences.frames import FRAME_NAMES
from vnp.sequences.reading import read_records

COLUMNS: tuple[Column[dict[str, Any]], ...] = (
    Column("name", "text", lambda rows: rows["name"]),
    Column("count", "int", lambda rows: rows["count"]),
    Column("share", "ratio", lambda rows: rows["share"]),
)


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


def write_virnucpro(rows: Scores, virus: np.ndarray, folder: Path, border: int) -> tuple[list[str], list[str]]:
    frames, chunks = folder / "frames.txt", folder / "chunks.csv"
    ids = [
        f"r{record}_chunk_{chunk}{FRAME_NAMES[frame]}"
        for record, chunk, frame in zip(rows.record.tolist(), rows.chunk.tolist(), rows.frame.tolist(), strict=True)
    ]
    key = chunk_keys(rows.record, rows.chunk)
    with open_virnucpro_files(frames, chunks) as add:
        for part in (slice(0, border), slice(border, len(rows))):
            add(ids[part], virus[part], key[part])
    return frames.read_text().splitlines(), chunks.read_text().splitlines()


def test_virnucpro_files_have_its_columns_and_words(tmp_path: Path) -> None:
    rows = make_rows([(0, 1, 0), (0, 1, 1), (0, 2, 3)], [0.9, 0.5, 0.7])
    frames, chunks = write_virnucpro(rows, np.array([0.8125, 0.25, 0.5]), tmp_path, 2)
    assert frames == [
        "Sequence_ID\tPrediction\tscore1\tscore2",
        "r0_chunk_1F1\tvirus\t0.1875\t0.8125",
        "r0_chunk_1F2\tothers\t0.75\t0.25",
        # Of two equal scores the first counts for a frame, and virus for a chunk.
        "r0_chunk_2R1\tothers\t0.5\t0.5",
    ]
    assert chunks == [
        "Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1",
        "r0_chunk_1\tTrue\t0.75\t0.8125",
        "r0_chunk_2\tTrue\t0.5\t0.5",
    ]


def test_virnucpro_chunks_by_a_plain_loop(tmp_path: Path) -> None:
    rows = random_rows(40)
    virus = np.random.default_rng(1).integers(0, 11, len(rows)) / 10
    frames, chunks = write_virnucpro(rows, virus, tmp_path, int(np.flatnonzero(rows.record == 20)[0]))
    highest: dict[str, list[float]] = {}
    for line in frames[1:]:
        name, _, others, viral = line.split("\t")
        known = highest.setdefault(name[:-2], [0.0, 0.0])
        known[:] = max(known[0], float(others)), max(known[1], float(viral))
    found = {line.split("\t")[0]: line.split("\t")[1:] for line in chunks[1:]}
    assert list(found) == list(highest)
    for name, (low, high) in highest.items():
        assert found[name][0] == str(high >= low)
        assert [float(text) for text in found[name][1:]] == pytest.approx([low, high])


def test_called_sequences_come_from_the_inputs_in_order(features: Features, tmp_path: Path) -> None:
    inputs = Run.open(features.path.parent).request.inputs
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
    entry = replace(Run.open(features.path.parent).request.inputs[0], path=str(tmp_path / "gone.fna"))
    with pytest.raises(ChangedInputError, match=r"gone\.fna"):
        write_called([entry], np.ones(entry.records, bool), tmp_path / "viral.fna")
    # Where nothing of it was called, it is not looked at.
    assert write_called([entry], np.zeros(entry.records, bool), tmp_path / "viral.fna") == 0


def test_what_is_copied_is_what_was_called(features: Features, tmp_path: Path) -> None:
    entry = Run.open(features.path.parent).request.inputs[0]
    content = gzip.decompress(Path(entry.path).read_bytes())
    (tmp_path / "same.fna").write_bytes(content)
    stat = (tmp_path / "same.fna").stat()
    known = replace(
        entry, path=str(tmp_path / "same.fna"), size=stat.st_size, mtime_ns=stat.st_mtime_ns,
        sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    called = np.ones(entry.records, bool)
    assert write_called([known], called, tmp_path / "whole.fna")
    # The last base of the file, with its size and time as they were.
    at = max(content.rindex(base) for base in b"ACGT")
    (tmp_path / "same.fna").write_bytes(content[:at] + (b"A" if content[at] != 65 else b"C") + content[at + 1 :])
    os.utime(tmp_path / "same.fna", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ChangedInputError, match="has changed"):
        write_called([known], called, tmp_path / "changed.fna")
