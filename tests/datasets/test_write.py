from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vnp.datasets.sheet import Source
from vnp.datasets.writing.write import FASTA, TABLE, Chosen, Records, describe, read_metadata, write_fasta, write_table
from vnp.errors import StorageError

SOURCES = (
    Source(Path("/data/v.gb"), 1, None, "viral", None, "v.gb"),
    Source(Path("/data/h.gb"), 0, "g", None, None, "sub/h.gb"),
)
RECORDS = Records(
    name=["NC_1.1", "NC_2.1", "NZ_3"],
    source=np.array([0, 0, 1]),
    unit=["flu", "flu", "g"],
    organism_group=["viral", "viral", "bacteria"],
    part=np.array([0, 0, 2], np.int8),
    ranks={"genus": ["Flu", "Flu", ""], "family": ["Fluviridae", "", ""], "order": [""] * 3},
    date=["2004-01-12", "", "1999"],
)
CHOSEN = Chosen(
    record=np.array([0, 1, 2]),
    start=np.array([0, 10, 1_000_000]),
    end=np.array([5, 14, 1_000_006]),
    frames=np.array([0b100001, 0b000010, 0b111111], np.uint8),
    annotated=np.array([0b000001, 0b000010, 0], np.uint8),
)
BASES = [b"ACGTA", b"GGGG", b"TTTTTT"]


def written(folder: Path) -> tuple[bytes, dict[str, list[Any]], dict[str, Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    digest = write_fasta(folder / FASTA, RECORDS, CHOSEN, BASES)
    told: list[int] = []
    about = describe(SOURCES, [{"sha256": "a"}, {"sha256": "b"}], CHOSEN, digest, frames="all", lengths="5,6", seed=3)
    write_table(folder / TABLE, SOURCES, RECORDS, CHOSEN, {"vnp": about, "vnp.more": {"x": 1}}, progress=told.append)
    table = parquet.read_table(folder / TABLE)
    assert sum(told) == table.num_rows
    return (folder / FASTA).read_bytes(), table.to_pydict(), read_metadata(folder / TABLE)


def test_the_fasta_has_a_record_for_each_chunk_named_by_its_region(tmp_path: Path) -> None:
    packed, _, about = written(tmp_path)
    assert gzip.decompress(packed) == b">NC_1.1:1-5\nACGTA\n>NC_2.1:11-14\nGGGG\n>NZ_3:1000001-1000006\nTTTTTT\n"
    assert about["vnp"]["fasta_sha256"] == hashlib.sha256(packed).hexdigest()
    # Bytes 4 to 7 of gzip are the time, and bit 3 of byte 3 says that a name follows.
    assert packed[4:8] == bytes(4)
    assert not packed[3] & 8


def test_the_table_has_a_row_for_each_frame(tmp_path: Path) -> None:
    _, table, about = written(tmp_path)
    assert list(table) == [
        "id", "name", "label", "unit", "organism_group", "length", "frame", "annotated", "split", "file", "record",
        "start", "end", "genus", "family", "order", "date",
    ]  # fmt: skip
    assert table["frame"] == ["F1", "R3", "F2", "F1", "F2", "F3", "R1", "R2", "R3"]
    assert table["id"][:3] == ["NC_1.1:1-5_chunk_1F1", "NC_1.1:1-5_chunk_1R3", "NC_2.1:11-14_chunk_1F2"]
    assert table["annotated"] == [True, False, True] + [False] * 6
    assert table["label"] == ["viral"] * 3 + ["host"] * 6
    assert table["unit"] == ["flu"] * 3 + ["g"] * 6
    assert table["organism_group"] == ["viral"] * 3 + ["bacteria"] * 6
    assert table["split"] == ["train"] * 3 + ["test"] * 6
    assert table["file"] == ["v.gb"] * 3 + ["sub/h.gb"] * 6
    assert table["record"] == ["NC_1.1"] * 2 + ["NC_2.1"] + ["NZ_3"] * 6
    assert (table["start"][3], table["end"][3], table["length"][3]) == (1_000_000, 1_000_006, 6)
    assert about["vnp.more"] == {"x": 1}
    told = {key: about["vnp"][key] for key in ("schema", "records", "rows", "chunk", "frames", "lengths", "seed")}
    assert told == {
        "schema": "vnp-dataset/1", "records": 3, "rows": 9, "chunk": 6, "frames": "all", "lengths": "5,6", "seed": 3,
    }  # fmt: skip
    assert about["vnp"]["sources"][1] == {
        "path": "sub/h.gb", "label": "host", "group": "g", "organism_group": None, "sha256": "b",
    }  # fmt: skip


def test_column_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    written(tmp_path)
    schema = parquet.read_schema(tmp_path / TABLE)
    types = {name: str(schema.field(name).type) for name in ("id", "length", "annotated", "start", "end")}
    assert types == {"id": "string", "length": "int32", "annotated": "bool", "start": "int64", "end": "int64"}


def test_the_same_chunks_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name)
    for name in (FASTA, TABLE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bases_that_are_too_few_are_noticed_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_fasta(tmp_path / FASTA, RECORDS, CHOSEN, BASES[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        write_fasta(tmp_path / "x" / FASTA, RECORDS, CHOSEN, BASES)
