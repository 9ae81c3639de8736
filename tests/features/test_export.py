from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.features.exports import LABELS, LAYOUT, features, values, write_features
from vnp.errors import FeatureError, RunError, RunExistsError, UsageError
from vnp.export import pt as _pt
from vnp.export.export import export
from vnp.features.layout import FeatureLayout, make_layout
from vnp.features.read import Features, open_features
from vnp.sequences.frames import FRAME_NAMES

__all__ = ["features"]


@pytest.mark.parametrize(("kind", "sums"), [("npz", "features.npz"), ("parquet", "features.parquet"), ("pt", "pt")])
def test_sums_stand_beside_an_export(features: Features, tmp_path: Path, kind: str, sums: str) -> None:
    done = export(features, kind, tmp_path)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in done.paths]
    assert (tmp_path / f"{sums}.sha256").read_text().splitlines() == lines


class TestNpz:
    def test_what_is_in_it(self, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Features, "_step", lambda _features: 4)
        monkeypatch.setattr("vnp.features.table.ROWS_AT_ONCE", 3)
        told: list[int] = []
        done = export(features, "npz", tmp_path / "out", progress=told.append)
        assert (done.paths, done.rows, done.width) == ((tmp_path / "out/features.npz",), 11, 8)
        assert told == [4, 4, 3]
        with np.load(done.paths[0]) as stored:
            assert set(stored.files) == {
                "ids", "features", "labels", "split", "groups", "record", "chunk", "frame", "start", "end", "layout",
            }  # fmt: skip
            assert stored["features"].dtype == np.float32
            np.testing.assert_array_equal(stored["features"], values(11, 8).astype(np.float32))
            assert stored["ids"].tolist() == features.ids()
            assert stored["groups"].tolist() == features.groups()
            assert stored["labels"].tolist() == list(LABELS)
            assert stored["split"].tolist() == features.splits().tolist()
            assert stored["frame"].tolist() == [FRAME_NAMES[i % 6] for i in range(11)]
            assert stored["record"].tolist() == list(range(11))
            assert stored["chunk"].tolist() == list(range(1, 12))
            assert stored["start"].tolist() == list(range(0, 110, 10))
            assert stored["end"].tolist() == list(range(300, 410, 10))
            assert FeatureLayout.from_json(str(stored["layout"])) == LAYOUT

    def test_the_same_features_give_the_same_bytes(self, features: Features, tmp_path: Path) -> None:
        first = export(features, "npz", tmp_path / "a").paths[0].read_bytes()
        assert export(features, "npz", tmp_path / "b").paths[0].read_bytes() == first
        with zipfile.ZipFile(tmp_path / "a/features.npz") as archive:
            assert archive.testzip() is None

    def test_long_and_foreign_names(self, tmp_path: Path) -> None:
        names = ["é" * 20, "x" * 400, "a/b'c"]
        made = open_features(write_features(tmp_path / "f.h5", labels=(1, 0, 1), names=names))
        export(made, "npz", tmp_path)
        with np.load(tmp_path / "features.npz") as stored:
            assert stored["ids"].tolist() == [f"{name}_chunk_{i + 1}F{i + 1}" for i, name in enumerate(names)]

    def test_a_name_that_would_blow_up_the_file_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vnp.export.export._MOST_PADDING", 1000)
        made = open_features(write_features(tmp_path / "f.h5", labels=(1, 0, 1), names=["a", "b", "x" * 100]))
        with pytest.raises(FeatureError, match=r"has 110 letters.*parquet"):
            export(made, "npz", tmp_path)
        assert not (tmp_path / "features.npz").exists()

    def test_no_rows(self, tmp_path: Path) -> None:
        made = open_features(write_features(tmp_path / "f.h5", labels=()))
        for kind in ("npz", "parquet", "pt"):
            export(made, kind, tmp_path)
        with np.load(tmp_path / "features.npz") as stored:
            assert stored["features"].shape == (0, 8)
            assert stored["ids"].shape == (0,)
        stored_pt = torch.load(tmp_path / "unlabelled_merged.pt", weights_only=True)
        assert stored_pt["ids"] == []
        assert stored_pt["data"].shape == (0, 8)


class TestParquet:
    def test_what_is_in_it(self, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import pyarrow.parquet as parquet

        monkeypatch.setattr(Features, "_step", lambda _features: 4)
        (path,) = export(features, "parquet", tmp_path).paths
        file = parquet.ParquetFile(path)
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 3]
        assert str(file.schema_arrow.field("features").type).startswith("fixed_size_list<element: float")
        assert FeatureLayout.from_json(file.schema_arrow.metadata[b"vnp.layout"].decode()) == LAYOUT
        assert json.loads(file.schema_arrow.metadata[b"vnp.provenance"]) == {}
        table = file.read()
        assert table.column_names == [
            "id", "record", "chunk", "frame", "start", "end", "label", "split", "group", "features",
        ]  # fmt: skip
        np.testing.assert_array_equal(
            np.array(table["features"].to_pylist(), np.float32), values(11, 8).astype(np.float32)
        )
        assert table["id"].to_pylist() == features.ids()
        assert table["group"].to_pylist() == features.groups()
        assert table["label"].to_pylist() == list(LABELS)
        assert table["split"].to_pylist() == features.splits().tolist()
        assert table["frame"].to_pylist() == [FRAME_NAMES[i % 6] for i in range(11)]
        assert table["end"].to_pylist() == list(range(300, 410, 10))

    def test_without_pyarrow_it_says_what_to_install(
        self, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("pyarrow", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=r"pyarrow, .*pip install '.*\[parquet\]'"):
            export(features, "parquet", tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestPt:
    def read(self, path: Path) -> dict[str, Any]:
        return cast("dict[str, Any]", torch.load(path, weights_only=True))

    def test_one_file_a_label(self, features: Features, tmp_path: Path) -> None:
        told: list[int] = []
        done = export(features, "pt", tmp_path, progress=told.append)
        assert [path.name for path in done.paths] == ["viral_merged.pt", "host_merged.pt", "unlabelled_merged.pt"]
        assert sum(told) == done.rows == 11
        ids = features.ids()
        for path, label in zip(done.paths, (1, 0, -1), strict=True):
            stored = self.read(path)
            chosen = [i for i, found in enumerate(LABELS) if found == label]
            assert list(stored) == (["ids", "data"] if label < 0 else ["ids", "data", "labels"])
            assert stored.get("labels") == (None if label < 0 else [label])
            assert stored["ids"] == [ids[i] for i in chosen]
            assert stored["data"].dtype == torch.float32
            np.testing.assert_array_equal(stored["data"].numpy(), values(11, 8)[chosen].astype(np.float32))

    def test_parts_merge_to_the_same(self, features: Features, tmp_path: Path) -> None:
        from vnp.virnucpro import merge_data

        names = [path.name for path in export(features, "pt", tmp_path, parts=True).paths]
        assert names[:3] == ["viral_merged.pt", "viral_DNABERT_S.pt", "viral_ESM.pt"]
        for label in ("viral", "host"):
            dna, protein = self.read(tmp_path / f"{label}_DNABERT_S.pt"), self.read(tmp_path / f"{label}_ESM.pt")
            assert list(dna) == ["nucleotide", "data"]
            assert list(protein) == ["proteins", "data"]
            assert dna["nucleotide"] == protein["proteins"] == [item["label"] for item in dna["data"]]
            assert {len(item["mean_representation"]) for item in dna["data"]} == {5}
            assert {tuple(row.shape) for row in protein["data"]} == {(3,)}
            # merge_data leaves a file alone that holds exactly what it would write, and refuses any other.
            pair = tmp_path / f"{label}_DNABERT_S.pt", tmp_path / f"{label}_ESM.pt"
            merge_data(*pair, tmp_path / f"{label}_merged.pt", label)

    def test_rows_per_file(self, features: Features, tmp_path: Path) -> None:
        done = export(features, "pt", tmp_path, rows_per_file=2)
        assert [path.name for path in done.paths] == [
            "viral_00001_merged.pt", "viral_00002_merged.pt",
            "host_00001_merged.pt", "host_00002_merged.pt", "host_00003_merged.pt", "unlabelled_00001_merged.pt",
        ]  # fmt: skip
        ids = [name for path in done.paths for name in self.read(path)["ids"]]
        assert sorted(ids) == sorted(features.ids())
        np.testing.assert_array_equal(
            self.read(tmp_path / "host_00002_merged.pt")["data"].numpy(), values(11, 8)[[4, 7]].astype(np.float32)
        )

    def test_nothing_is_overwritten_and_force_leaves_no_old_files(self, features: Features, tmp_path: Path) -> None:
        (tmp_path / "model.pt").write_text("somebody's")
        export(features, "pt", tmp_path, rows_per_file=2, parts=True)
        with pytest.raises(RunExistsError, match="--force"):
            export(features, "pt", tmp_path)
        assert (tmp_path / "host_00003_ESM.pt").exists()
        export(features, "pt", tmp_path, force=True)
        assert {path.name for path in tmp_path.glob("*.pt")} == {
            "model.pt", "viral_merged.pt", "host_merged.pt", "unlabelled_merged.pt",
        }  # fmt: skip

    def test_what_does_not_fit_in_memory_is_refused(
        self, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_pt, "available_memory", lambda: 1000)
        with pytest.raises(UsageError, match=r"must fit in memory: 6 rows.*--rows-per-file 3.*npz or parquet"):
            export(features, "pt", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        export(features, "npz", tmp_path / "out")

    def test_parts_of_projected_features_need_the_shards(self, tmp_path: Path) -> None:
        layout = make_layout("1664", dna=("kmer", 768), protein=("kmer", 3))
        made = open_features(write_features(tmp_path / "f.h5", labels=(1, 1), layout=layout))
        with pytest.raises(RunError, match="give the run, or leave out --parts"):
            export(made, "pt", tmp_path / "out", parts=True)
        assert export(made, "pt", tmp_path / "out").width == 387


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_files_that_are_there_stay_without_force(kind: str, features: Features, tmp_path: Path) -> None:
    (path,) = export(features, kind, tmp_path).paths
    path.write_text("mine")
    with pytest.raises(RunExistsError, match=rf"features\.{kind}: already there"):
        export(features, kind, tmp_path)
    assert path.read_text() == "mine"
    export(features, kind, tmp_path, force=True)
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("csv", {}, "no format is called 'csv'"),
        ("npz", {"parts": True}, "belong to --format pt"),
        ("parquet", {"rows_per_file": 10}, "belong to --format pt"),
        ("pt", {"rows_per_file": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_fit(kind: str, options: Any, words: str, features: Features, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        export(features, kind, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from vnp.errors import StorageError
from vnp.export.export import export
from vnp.features.read import open_features
import pyarrow.parquet, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for kind in ("npz", "parquet", "pt"):
    try:
        export(open_features(sys.argv[1]), kind, Path(sys.argv[2]))
    except StorageError as error:
        print(kind, error)
"""


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_features(tmp_path / "f.h5", labels=[1] * 4000)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(source), str(out)], capture_output=True, text=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["npz", "parquet", "pt"], done.stderr
    assert all(f"writing {out}" in line and "too large" in line for line in lines)
    assert list(out.iterdir()) == []
