"""Features are read as they were written, and what was changed is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.features.exports import LABELS, LAYOUT, features, values, write_features
from vnp.errors import FeatureError, InputError, LayoutError, RunError, UsageError
from vnp.export.export import export
from vnp.features.read import Features, open_features

__all__ = ["features"]


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
