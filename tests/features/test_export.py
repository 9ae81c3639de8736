from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import torch

from vnp.errors import FeatureError, InputError, LayoutError, RunError, RunExistsError, UsageError
from vnp.export import pt as _pt
from vnp.export.export import export
from vnp.features.layout import FeatureLayout, make_layout
from vnp.features.read import Features, open_features
from vnp.features.table import Records, Rows, Skipped, write_table
from vnp.sequences.frames import FRAME_NAMES

LAYOUT = make_layout("full", dna=("small_dna", 5), protein=("small_protein", 3))
LABELS = (1, 1, 0, 0, 0, -1, 1, 0, 0, 0, -1)


def values(rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((rows, width)).astype(np.float16)


def write_features(
    path: Path,
    *,
    labels: Sequence[int] = LABELS,
    names: Sequence[str] | None = None,
    layout: FeatureLayout = LAYOUT,
    array: np.ndarray | None = None,
    **attributes: Any,
) -> Path:
    count = len(labels)
    names = names or [f"rec{i}" for i in range(count)]
    encoded = [name.encode() for name in names]
    frame = np.arange(count, dtype=np.int8) % 6
    rows = Rows(
        ids=[
            f"{name}_chunk_{i + 1}{FRAME_NAMES[k]}".encode()
            for i, (name, k) in enumerate(zip(names, frame, strict=True))
        ],
        record=np.arange(count),
        chunk=np.arange(1, count + 1, dtype=np.int32),
        frame=frame,
        start=np.arange(count) * 10,
        end=np.arange(count) * 10 + 300,
        label=np.array(labels, np.int8),
        split=np.arange(count, dtype=np.int8) % 4 - 1,
        group=encoded,
    )
    records = Records(
        ordinal=np.arange(count),
        name=encoded,
        length=np.full(count, 300),
        chunks=np.ones(count, np.int32),
        input=np.zeros(count, np.int32),
        label=np.array(labels, np.int8),
        split=np.arange(count, dtype=np.int8) % 4 - 1,
        group=encoded,
    )
    skipped = Skipped(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8), [])
    stored: dict[str, str | int] = {
        "kind": "features",
        "run": "digest",
        "layout": layout.to_json(),
        "chunk": 300,
        "provenance": "{}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(
        path,
        rows=rows,
        records=records,
        skipped=skipped,
        arrays={"features": values(count, layout.width) if array is None else array},
        attributes={**stored, **attributes},
    )
    return path


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return open_features(write_features(tmp_path / "run/features.h5"))


def unseal(path: Path) -> None:
    """Make of features what an earlier version wrote, without checksums."""
    with h5py.File(path, "r+") as file:
        del file.attrs["content"], file["checksums"]


class TestReading:
    def test_everything_comes_back(self, features: Features) -> None:
        assert (features.rows, features.width, features.chunk, features.run) == (11, 8, 300, "digest")
        assert features.layout == LAYOUT
        assert features.ids()[:2] == ["rec0_chunk_1F1", "rec1_chunk_2F2"]
        assert features.labels().tolist() == list(LABELS)
        assert features.splits().tolist() == [-1, 0, 1, 2, -1, 0, 1, 2, -1, 0, 1]
        assert features.groups() == [f"rec{i}" for i in range(11)]
        assert features.records().name == [f"rec{i}".encode() for i in range(11)]

    @pytest.mark.parametrize("rows", [1, 4, 11, 100, None])
    def test_windows_cover_every_row_once(self, features: Features, rows: int | None) -> None:
        windows = list(features.windows(rows=rows))
        assert max(map(len, windows)) <= (rows or 11)
        assert [window.first for window in windows] == list(np.cumsum([0, *map(len, windows)])[:-1])
        joined = np.concatenate([window.values for window in windows])
        assert joined.dtype == np.float32
        np.testing.assert_array_equal(joined, values(11, 8).astype(np.float32))
        assert [name.decode() for window in windows for name in window.columns.ids] == features.ids()

    def test_a_part_of_the_rows(self, features: Features) -> None:
        (window,) = features.windows(3, 5)
        assert window.first == 3
        assert window.columns.start.tolist() == [30, 40]
        np.testing.assert_array_equal(window.values, values(11, 8)[3:5].astype(np.float32))

    def test_windows_hold_little(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vnp.features.read._WINDOW_BYTES", 4 * 8 * 3)
        for room in ("read", "table"):
            monkeypatch.setattr(f"vnp.features.{room}.CHECKED_ROWS", 3)
        assert [len(window) for window in open_features(write_features(tmp_path / "f.h5")).windows()] == [3, 3, 3, 2]

    def test_a_run_is_found_by_its_folder(self, features: Features) -> None:
        assert open_features(features.path.parent).path == features.path
        assert open_features(str(features.path)).path == features.path

    def test_a_run_without_features_says_how_to_make_them(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("{}")
        with pytest.raises(RunError, match=rf"python -m jobs\.reduce {tmp_path}"):
            open_features(tmp_path)

    def test_what_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a run"):
            open_features(tmp_path)
        with pytest.raises(InputError, match="no such run or file"):
            open_features(tmp_path / "none")

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
    def test_a_file_that_was_cut_off_is_damaged(self, share: float, features: Features) -> None:
        whole = features.path.read_bytes()
        features.path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FeatureError, match=r"probably damaged[^\n]*make it again in its run$"):
            open_features(features.path)
        # Only where there is a run can the command be named.
        (features.path.parent / "run.json").write_text("{}")
        with pytest.raises(FeatureError, match=rf"probably damaged.*jobs\.reduce {features.path.parent} --force$"):
            open_features(features.path)

    def test_the_command_can_be_pasted(self, tmp_path: Path) -> None:
        folder = tmp_path / "my run"
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        with pytest.raises(RunError, match=rf"python -m jobs\.reduce '{folder}'$"):
            open_features(folder)
        (folder / "features.h5").write_bytes(b"")
        with pytest.raises(FeatureError, match=rf"jobs\.reduce '{folder}' --force$"):
            open_features(folder)

    @pytest.mark.parametrize("content", [b"", b">a\nACGT\n", b"path,label\na.fna,viral\n", b"not HDF5 " * 100])
    def test_a_file_of_another_kind_is_not_called_damaged(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "viral.csv"
        path.write_bytes(content)
        # A run beside it changes nothing: its features are another file.
        for _ in range(2):
            with pytest.raises(FeatureError) as raised:
                open_features(path)
            assert str(raised.value) == f"{path} is no features.h5: give a run that was reduced, or its features.h5"
            (tmp_path / "run.json").write_text("{}")

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "f.h5"
        with h5py.File(path, "w") as file:
            file["x"] = 1
        with pytest.raises(FeatureError, match="no vnp file"):
            open_features(path)

    def test_another_version_or_kind_is_refused(self, features: Features) -> None:
        with h5py.File(features.path, "r+") as file:
            file.attrs["kind"] = "shard"
        with pytest.raises(FeatureError, match="is a shard, not merged features"):
            open_features(features.path)
        with h5py.File(features.path, "r+") as file:
            file.attrs["schema"] = "vnp-features/99"
        with pytest.raises(FeatureError, match="vnp-features/99"):
            open_features(features.path)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda f: f.attrs.__setitem__("layout", "{}"), LayoutError, "not a feature layout"),
            (lambda f: f.attrs.__delitem__("chunk"), FeatureError, "damaged"),
            (lambda f: f.__delitem__("start"), FeatureError, "damaged"),
            (lambda f: (f.__delitem__("end"), f.create_dataset("end", data=[1, 2])), FeatureError, "end has 2 rows"),
            (
                lambda f: (f.__delitem__("features"), f.create_dataset("features", data=np.zeros((11, 9)))),
                FeatureError,
                r"shape \(11, 9\); expected \(11, 8\)",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, change: Callable[[h5py.File], object], error: type[Exception], words: str, features: Features
    ) -> None:
        unseal(features.path)
        with h5py.File(features.path, "r+") as file:
            change(file)
        with pytest.raises(error, match=words):
            open_features(features.path)

    def test_without_checksums_it_is_read_and_said(self, features: Features, caplog: pytest.LogCaptureFixture) -> None:
        unseal(features.path)
        assert open_features(features.path).ids() == features.ids()
        assert "has no checksums" in caplog.text

    @pytest.mark.parametrize("name", ["ids", "label", "group", "features", "records/name", "start"])
    def test_what_was_changed_is_refused_where_it_is_read(self, name: str, features: Features, tmp_path: Path) -> None:
        with h5py.File(features.path, "r+") as file:
            place = file[name].id.get_offset()
        content = bytearray(features.path.read_bytes())
        content[place] ^= 1
        features.path.write_bytes(content)
        opened = open_features(features.path)
        with pytest.raises(FeatureError, match=f"is damaged: {name} of rows 0 to 11 is not what was written"):
            opened.check()
        with pytest.raises(FeatureError, match=f"is damaged: {name}"):
            (opened.records if "/" in name else lambda: export(opened, "npz", tmp_path))()

    @pytest.mark.parametrize("change", [
        lambda f: f.attrs.__setitem__("chunk", 301), lambda f: f.__delitem__("checksums"),
        lambda f: f.attrs.__delitem__("content"), lambda f: f.move("start", "stare"),
        lambda f: f["checksums"].__setitem__(0, 1),
    ])  # fmt: skip
    def test_what_a_file_says_of_itself_is_sealed(
        self, change: Callable[[h5py.File], object], features: Features
    ) -> None:
        with h5py.File(features.path, "r+") as file:
            change(file)
        with pytest.raises(FeatureError, match="damaged"):
            open_features(features.path)

    def test_numbers_that_are_not_finite_are_refused(self, features: Features, tmp_path: Path) -> None:
        unseal(features.path)
        features = open_features(features.path)
        with h5py.File(features.path, "r+") as file:
            file["features"][4, 2] = np.inf
        for kind in ("npz", "parquet", "pt"):
            with pytest.raises(FeatureError, match="rec4_chunk_5R2 holds NaN or infinity"):
                export(features, kind, tmp_path / kind)
            assert not list((tmp_path / kind).glob("features.*"))
            assert not list((tmp_path / kind).glob(".*"))


@pytest.mark.parametrize(("kind", "sums"), [("npz", "features.npz"), ("parquet", "features.parquet"), ("pt", "pt")])
def test_sums_stand_beside_an_export(features: Features, tmp_path: Path, kind: str, sums: str) -> None:
    done = export(features, kind, tmp_path)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in done.paths]
    assert (tmp_path / f"{sums}.sha256").read_text().splitlines() == lines


class TestNpz:
    def test_what_is_in_it(self, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Features, "_step", lambda _features: 4)
        monkeypatch.setattr("vnp.features.read._COLUMN_ROWS", 3)
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
