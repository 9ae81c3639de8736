from __future__ import annotations

import errno
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import coding, make_all, plan_run, write_fasta
from vnp.errors import DamagedShardError, StorageError
from vnp.runs.done import receipts as seals
from vnp.runs.done.receipts import Receipt, discard, require_sealed, sealed, withdraw
from vnp.runs.request import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("receipts")
    made = plan_run(folder / "run", [write_fasta(folder / "a.fa", [("a", coding(1500, 1))])], shards=2)
    make_all(made)
    return made


@pytest.fixture
def receipt(run: Run) -> Receipt:
    found = Receipt.read(run.paths.receipt(1))
    assert found is not None
    return found


def test_round_trip(run: Run, receipt: Receipt, tmp_path: Path) -> None:
    receipt.write(tmp_path / "r.json")
    assert Receipt.read(tmp_path / "r.json") == receipt
    assert (tmp_path / "r.json").read_bytes() == run.paths.receipt(1).read_bytes()
    assert Receipt.read(tmp_path / "none.json") is None


def test_says_what_the_design_promises(receipt: Receipt) -> None:
    said = asdict(receipt)
    for name in (
        "rows",
        "ids_sha256",
        "sha256",
        "start",
        "encoders",
        "attempt",
        "host",
        "devices",
        "seconds",
        "tokens",
    ):
        assert said[name] not in (None, "", {}, []), name


def test_the_first_writer_wins(receipt: Receipt, tmp_path: Path) -> None:
    receipt.write(tmp_path / "r.json")
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(FileExistsError):
        receipt.write(tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_any_flipped_bit_of_any_byte_is_noticed(run: Run, tmp_path: Path) -> None:
    content = run.paths.receipt(1).read_bytes()
    path = tmp_path / "r.json"
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        with pytest.raises(DamagedShardError, match="damaged"):
            Receipt.read(path)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_or_padded_receipt_is_noticed(run: Run, tmp_path: Path, cut: int) -> None:
    content = run.paths.receipt(1).read_bytes()
    path = tmp_path / "r.json"
    for damaged in (content[:cut], content + b" "):
        path.write_bytes(damaged)
        with pytest.raises(DamagedShardError):
            Receipt.read(path)


class TestSeals:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Run:
        made = plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", [("a", coding(1500, 1))])], shards=2)
        make_all(made)
        return made

    def test_a_receipt_of_another_shard_or_run_does_not_count(self, own: Run, run: Run) -> None:
        own.paths.receipt(0).write_bytes(own.paths.receipt(1).read_bytes())
        with pytest.raises(DamagedShardError, match="belongs to another run or shard"):
            require_sealed(own, 0)
        own.paths.receipt(1).write_bytes(run.paths.receipt(1).read_bytes())
        assert sealed(own, 1) is None

    def test_a_missing_or_shorter_file_does_not_count(self, own: Run) -> None:
        path = own.paths.shard(0)
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(DamagedShardError, match=r"has [\d,]+ bytes, its receipt says"):
            require_sealed(own, 0)
        path.unlink()
        with pytest.raises(DamagedShardError, match="has a receipt but cannot be read"):
            require_sealed(own, 0)

    def test_other_bytes_of_the_same_size_are_seen_by_a_full_look(self, own: Run) -> None:
        path = own.paths.shard(0)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert sealed(own, 0) is not None
        assert sealed(own, 0, full=True) is None

    def test_discard_removes_only_what_is_damaged(self, own: Run) -> None:
        discard(own, 0)
        assert sealed(own, 0, full=True) is not None
        own.paths.receipt(0).write_text("{}")
        discard(own, 0)
        assert not own.paths.receipt(0).exists()
        assert not own.paths.shard(0).exists()
        discard(own, 0)

    @pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
    @pytest.mark.parametrize("what", ["the size", "the bytes", "the receipt"])
    def test_what_cannot_be_looked_at_is_not_damaged(
        self, own: Run, monkeypatch: pytest.MonkeyPatch, what: str, number: int
    ) -> None:
        def refuse(path: Path, *_: Any, **__: Any) -> Any:
            raise OSError(number, os.strerror(number), str(path))

        path = own.paths.shard(0)
        with monkeypatch.context() as patch:
            if what == "the bytes":
                patch.setattr(seals, "file_sha256", refuse)
            elif what == "the size":
                stat = Path.stat
                patch.setattr(Path, "stat", lambda found, **more: (refuse if found == path else stat)(found, **more))
            else:
                path = own.paths.receipt(0)
                patch.setattr("vnp.files.records.read_regular", lambda found: refuse(found) if found == path else None)
            for look in (require_sealed, sealed):
                with pytest.raises(StorageError, match=f"^reading {path}: "):
                    look(own, 0, full=True)
            if what != "the bytes":
                with pytest.raises(StorageError):
                    discard(own, 0)
        assert sealed(own, 0, full=True) is not None

    def test_a_receipt_that_must_stay_is_told_with_its_damaged_shard(
        self, own: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            with pytest.raises(DamagedShardError, match=r"shard-00000\.h5 is damaged.*permission denied.*reduce again"):
                withdraw(own, 0)
        withdraw(own, 0)
        withdraw(own, 0)

    def test_a_withdrawn_receipt_no_longer_counts(self, own: Run) -> None:
        withdraw(own, 0)
        assert sealed(own, 0) is None
        assert [path.name for path in own.paths.receipts.iterdir()].count("shard-00000.withdrawn") == 1
