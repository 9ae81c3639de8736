"""What reduce refuses: each refusal names the shard and the command that mends it, and that command mends it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks.merge import measure_merge, synthetic_run
from tests.runs.making import coding, column_bytes, dna, make_all, make_one, plan_run, write_fasta
from vnp.errors import DamagedShardError, FeatureError, IncompleteRunError, RunExistsError, StorageError, VnpError
from vnp.features import table
from vnp.files.hashing import file_sha256
from vnp.runs.done.receipts import Receipt, sealed
from vnp.runs.done.reduce import reduce_run, write_skipped
from vnp.runs.done.status import run_status
from vnp.runs.request import Run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reduce")
    records = [(f"c{i}", coding(700, i)) for i in range(9)] + [
        ("empty", ""),
        *((f"d{i}", dna(900, i)) for i in range(6)),
    ]
    made = plan_run(folder / "run", [write_fasta(folder / "a.fa", records)], 4)
    make_all(made)
    return made.paths.root


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Run:
    shutil.copytree(template, tmp_path / "run")
    return Run.open(tmp_path / "run")


def rerun(run: Run) -> None:
    for number in run_status(run).unfinished:
        assert make_one(run, number).state == "done"


def reseal(run: Run, number: int, **changes: Any) -> None:
    """Give a shard a valid receipt for the bytes that are there now."""
    receipt = Receipt.read(run.paths.receipt(number))
    assert receipt is not None
    run.paths.receipt(number).unlink()
    path = run.paths.shard(number)
    replace(receipt, size=path.stat().st_size, sha256=file_sha256(path), **changes).write(run.paths.receipt(number))


def edit(run: Run, number: int, change: Callable[[h5py.File], object], **changes: Any) -> None:
    """Change a shard file and seal it again, as a faulty program would."""
    with h5py.File(run.paths.shard(number), "r+") as file:
        change(file)
        del file[table.CHECKSUMS]
        table.seal(file, {name: table.checksums(array) for name, array in table.arrays_of(file).items()})
        content = file.attrs[table.CONTENT]
    reseal(run, number, content=content, **changes)


def refused(run: Run, error: type[VnpError], *parts: str, shard: int = 2) -> VnpError:
    with pytest.raises(error) as caught:
        reduce_run(run, "1664")
    message = str(caught.value)
    for part in (f"shard-{shard:05d}", f"python -m jobs.rerun {run.paths.root}", *parts):
        assert part in message, message
    assert not run.paths.features.exists()
    assert not list(run.paths.root.glob(".*"))
    return caught.value


def mended(run: Run, expected: dict[str, Any]) -> None:
    rerun(run)
    assert column_bytes(reduce_run(run, "1664").path) == expected


@pytest.fixture(scope="module")
def expected(template: Path) -> dict[str, Any]:
    shutil.copytree(template, template.parent / "whole")
    return column_bytes(reduce_run(Run.open(template.parent / "whole"), "1664").path)


def test_a_missing_shard(run: Run, expected: dict[str, Any]) -> None:
    run.paths.receipt(2).unlink()
    error = refused(run, IncompleteRunError, "1 of 4 shards are missing")
    assert error.exit_code == 3
    mended(run, expected)


def test_a_missing_file(run: Run, expected: dict[str, Any]) -> None:
    run.paths.shard(2).unlink()
    refused(run, DamagedShardError, "cannot be read")
    mended(run, expected)


def test_a_shorter_file(run: Run, expected: dict[str, Any]) -> None:
    os.truncate(run.paths.shard(2), run.paths.shard(2).stat().st_size - 1)
    refused(run, DamagedShardError, "its receipt says")
    mended(run, expected)


def flip(path: Path, place: int | str) -> None:
    """Turn over all bits of a byte: the first of an array, or one by its place in the file."""
    if isinstance(place, str):
        with h5py.File(path, "r") as file:
            place = int(file[place].id.get_offset())
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 9, "ids", "frame", "dna_projected", "protein", "records/length"])
def test_a_changed_file_of_the_same_size(run: Run, expected: dict[str, Any], place: int | str) -> None:
    flip(run.paths.shard(2), place)
    refused(run, DamagedShardError, "its bytes have changed")
    assert run_status(run).unfinished == [2]
    mended(run, expected)


def test_a_file_of_zeros(run: Run, expected: dict[str, Any]) -> None:
    path = run.paths.shard(2)
    path.write_bytes(bytes(path.stat().st_size))
    refused(run, DamagedShardError, "its bytes have changed")
    mended(run, expected)


def test_two_files_that_were_swapped(run: Run, expected: dict[str, Any]) -> None:
    content = run.paths.shard(1).read_bytes()
    run.paths.shard(1).write_bytes(run.paths.shard(2).read_bytes())
    run.paths.shard(2).write_bytes(content)
    with pytest.raises(DamagedShardError, match=r"shard-0000[12]"):
        reduce_run(run, "1664")
    for _ in range(2):
        rerun(run)
        try:
            reduce_run(run, "1664")
        except DamagedShardError:
            continue
    mended(run, expected)


def test_a_wrong_width(run: Run, expected: dict[str, Any]) -> None:
    def narrow(file: h5py.File) -> None:
        rows = file["protein"][:, :-1]
        del file["protein"]
        file.create_dataset("protein", data=rows)

    edit(run, 2, narrow)
    refused(run, FeatureError, "protein is 1279 wide of float16")
    mended(run, expected)


def test_a_wrong_width_that_the_receipt_speaks_of(run: Run, expected: dict[str, Any]) -> None:
    receipt = Receipt.read(run.paths.receipt(0))
    assert receipt is not None
    reseal(run, 0, widths={**receipt.widths, "protein": 1279})
    refused(run, FeatureError, "1279", "expected", shard=0)
    run.paths.receipt(0).unlink()
    mended(run, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite(run: Run, expected: dict[str, Any], value: float) -> None:
    def spoil(file: h5py.File) -> None:
        file["protein"][1, 700] = value
        # As an earlier version wrote it: of what has checksums, the task has looked.
        del file[table.CHECKSUMS], file.attrs[table.CONTENT]

    with h5py.File(run.paths.shard(2), "r+") as file:
        spoil(file)
        name = file["ids"][1].decode()
    reseal(run, 2, content="")
    refused(run, FeatureError, f"features of {name} holds NaN or infinity")
    mended(run, expected)


def test_a_duplicate_id(run: Run, expected: dict[str, Any]) -> None:
    def repeat(file: h5py.File) -> None:
        for name in ("ids", "record", "chunk", "frame"):
            file[name][1] = file[name][0]

    edit(run, 2, repeat)
    refused(run, FeatureError, "is there twice")
    mended(run, expected)


def test_an_id_that_is_another(run: Run, expected: dict[str, Any]) -> None:
    def rename(file: h5py.File) -> None:
        file["ids"][1] = b"somebody_chunk_1F1"

    edit(run, 2, rename)
    refused(run, FeatureError, "its ids are not those that its receipt names")
    mended(run, expected)


def test_a_missing_id(run: Run, expected: dict[str, Any]) -> None:
    def drop(file: h5py.File) -> None:
        for name in (
            "ids",
            "record",
            "chunk",
            "frame",
            "start",
            "end",
            "label",
            "group",
            "dna",
            "dna_projected",
            "protein",
        ):
            rows = file[name][1:]
            del file[name]
            file.create_dataset(name, data=rows)

    with h5py.File(run.paths.shard(2), "r") as file:
        ids = file["ids"][1:].tolist()
    edit(run, 2, drop)
    refused(run, FeatureError, "its ids are not those that its receipt names")
    mended(run, expected)
    # The receipt can lie too; the plan knows better.
    edit(run, 2, drop, rows=len(ids), ids_sha256=hashlib.sha256(b"".join(name + b"\n" for name in ids)).hexdigest())
    run.paths.features.unlink()
    with pytest.raises(FeatureError, match="the plan has"):
        reduce_run(run, "1664")


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("revision", "0" * 40), ("name", "other")])
@pytest.mark.parametrize("shard", [0, 2])
def test_encoders_or_precision_that_differ(
    run: Run, expected: dict[str, Any], key: str, value: str, shard: int
) -> None:
    receipt = Receipt.read(run.paths.receipt(shard))
    assert receipt is not None
    encoders = {**receipt.encoders, "protein": {**receipt.encoders["protein"], key: value}}
    reseal(run, shard, encoders=encoders)
    refused(run, FeatureError, key, value, "cannot be mixed", f"Delete {run.paths.receipts}", shard=shard)
    run.paths.receipt(shard).unlink()
    mended(run, expected)


def test_another_schema(run: Run, expected: dict[str, Any]) -> None:
    def older(file: h5py.File) -> None:
        file.attrs["schema"] = "vnp-features/0"

    edit(run, 2, older)
    refused(run, FeatureError, "of the format 'vnp-features/0'")
    mended(run, expected)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe\x00"])
def test_a_damaged_receipt(run: Run, expected: dict[str, Any], content: bytes) -> None:
    run.paths.receipt(2).write_bytes(content)
    refused(run, DamagedShardError, "damaged")
    mended(run, expected)


def test_everything_that_is_wrong_is_said_at_once(run: Run) -> None:
    for number in (1, 2):
        run.paths.receipt(number).write_text("{}")
    message = str(refused(run, DamagedShardError, "Make them with"))
    assert "shard-00001" in message
    for number in (0, 1, 2, 3):
        run.paths.receipt(number).unlink()
    assert "4 of 4 shards are missing" in str(refused(run, IncompleteRunError))


def test_a_missing_dataset(run: Run, expected: dict[str, Any]) -> None:
    def lose(file: h5py.File) -> None:
        del file["records/length"]

    edit(run, 2, lose)
    with pytest.raises(FeatureError, match=r"shards of .* cannot be merged|shard-00002"):
        reduce_run(run, "1664")


def test_what_is_not_merged_is_not_read(run: Run, expected: dict[str, Any]) -> None:
    flip(run.paths.shard(2), "dna")
    assert column_bytes(reduce_run(run, "1664").path) == expected
    with pytest.raises(DamagedShardError, match=r"shard-00002\.h5 is not the file .* its bytes have changed\nMake it"):
        reduce_run(run, "full", force=True)
    assert run_status(run).unfinished == [2]


@pytest.mark.parametrize("place", ["dna", "protein"])
def test_shards_of_an_earlier_version_are_compared_whole(run: Run, expected: dict[str, Any], place: str) -> None:
    for number in range(4):
        with h5py.File(run.paths.shard(number), "r+") as file:
            del file[table.CHECKSUMS], file.attrs[table.CONTENT]
        reseal(run, number, content="")
    flip(run.paths.shard(2), place)
    refused(run, DamagedShardError, "its bytes have changed")
    mended(run, expected)


def test_a_disk_that_fails_while_hashing_costs_no_receipt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    flip(run.paths.shard(0), "protein")
    monkeypatch.setattr("vnp.runs.done.receipts.file_sha256", fails)
    with pytest.raises(StorageError, match=r"reading .*shard-00000\.h5: the network file system has lost it"):
        reduce_run(run, "1664")
    monkeypatch.undo()
    flip(run.paths.shard(0), "protein")
    assert reduce_run(run, "1664").fresh


class TestAgain:
    def test_the_same_is_left_alone(self, run: Run) -> None:
        first = reduce_run(run, "1664")
        before = first.path.stat()
        second = reduce_run(run, "1664")
        assert (first.fresh, second.fresh) == (True, False)
        assert replace(second, fresh=True) == first
        assert (first.path.stat().st_ino, first.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_another_layout_needs_force(self, run: Run) -> None:
        first = reduce_run(run, "1664")
        before = first.path.read_bytes()
        with pytest.raises(RunExistsError, match="--force"):
            reduce_run(run, "full")
        assert first.path.read_bytes() == before
        assert reduce_run(run, "full", force=True).layout.width == 2048
        assert reduce_run(run, "1664", force=True).path.read_bytes() == before

    def test_something_else_of_that_name_is_kept(self, run: Run) -> None:
        run.paths.features.write_text("mine")
        with pytest.raises(
            RunExistsError, match=r"otherwise\. To merge the same shards anew: python -m jobs\.reduce .* --force"
        ):
            reduce_run(run, "1664")
        assert run.paths.features.read_text() == "mine"

    def test_features_without_skipped_are_not_called_other_features(self, run: Run) -> None:
        reduce_run(run, "full")
        run.paths.skipped.unlink()
        with pytest.raises(RunExistsError, match=r"but skipped\.tsv beside it is not.*--layout full --force"):
            reduce_run(run, "full")

    def test_a_failed_force_keeps_what_was_there(self, run: Run) -> None:
        before = reduce_run(run, "1664").path.read_bytes()
        content = bytearray(run.paths.shard(3).read_bytes())
        content[-1] ^= 1
        run.paths.shard(3).write_bytes(content)
        with pytest.raises(DamagedShardError):
            reduce_run(run, "full", force=True)
        assert run.paths.features.read_bytes() == before
        assert sealed(run, 3) is None


def test_provenance_and_layout_are_in_the_file(run: Run) -> None:
    with h5py.File(reduce_run(run, "1664").path, "r") as file:
        provenance = json.loads(file.attrs["provenance"])
        layout = json.loads(file.attrs["layout"])
        assert file.attrs["run"] == run.request.digest
        assert file.attrs["chunk"] == 300
    assert layout["width"] == 1664
    assert provenance["inputs"][0]["sha256"] == run.request.inputs[0].sha256
    assert provenance["encoders"]["dna"]["name"] == "kmer"
    assert provenance["shards"]["2"] == file_sha256(run.paths.shard(2))


def test_many_shards(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "run", 900, 12)
    reduced = reduce_run(run, "1664")
    assert reduced.rows == 900
    with h5py.File(reduced.path, "r") as file:
        assert file["records/ordinal"][:].tolist() == list(range(9))
        assert len(json.loads(file.attrs["provenance"])["shards"]) == 12


def test_memory_stays_bounded_and_the_benchmark_measures(tmp_path: Path) -> None:
    found = measure_merge(tmp_path, rows=20_000, shards=3, repeats=1)
    assert found["features, MB"] == 20_000 * 1664 * 2 / 1e6
    assert found["reduce, peak memory, MB"] < 250
    assert min(found["reduce, s"], found["cp, s"], found["reduce over cp"]) > 0
    assert not list(tmp_path.iterdir())


def test_skipped_is_written_the_same_in_small_windows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    features = reduce_run(run, "1664").path
    write_skipped(run, features)
    before = run.paths.skipped.read_bytes()
    assert before.count(b"\n") > 5
    for size in (1, 2, 3):
        monkeypatch.setattr(table, "ROWS_AT_ONCE", size)
        write_skipped(run, features)
        assert run.paths.skipped.read_bytes() == before
