from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from vnp.encoders.weights.lock import LOCK_NAME, LockedEncoder, LockedFile, read_lock, weight_sha256, write_lock
from vnp.errors import StorageError, WeightsError
from vnp.files import hashing

ENTRY = LockedEncoder(
    hub_id="someone/model",
    revision="a" * 40,
    licence="not stated",
    fetched="2025-01-01T00:00:00+00:00",
    files={"model.safetensors": LockedFile(12, "b" * 64), "config.json": LockedFile(3, "c" * 64)},
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "REMEMBERED_BYTES", 0)
    return tmp_path / "cache"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_lock(tmp_path) == {}
    path = write_lock(tmp_path, {"tiny": ENTRY, "other": ENTRY})
    assert path == tmp_path / LOCK_NAME
    assert read_lock(tmp_path) == {"tiny": ENTRY, "other": ENTRY}
    assert [one.name for one in tmp_path.iterdir()] == [LOCK_NAME]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"schema": 1}',
        '{"schema": 1, "encoders": []}',
        '{"schema": 1, "encoders": {"tiny": {"hub_id": "x"}}}',
        '{"schema": 1, "encoders": {"tiny": {"hub_id": "", "revision": "", "licence": "", "fetched": "", "files": 0}}}',
    ],
)
def test_a_damaged_lock_says_what_to_do(text: str, tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(text)
    with pytest.raises(WeightsError, match=r"weights\.lock\.json is damaged.*jobs\.fetch"):
        read_lock(tmp_path)


def test_a_lock_of_another_schema(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps({"schema": 99, "encoders": {}}))
    with pytest.raises(WeightsError, match="of another version of vnp"):
        read_lock(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_lock(tmp_path / "file", {"tiny": ENTRY})


def test_a_failed_write_leaves_the_old_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(tmp_path, {"tiny": ENTRY})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        write_lock(tmp_path, {})
    assert read_lock(tmp_path) == {"tiny": ENTRY}
    assert [one.name for one in tmp_path.iterdir()] == [LOCK_NAME]


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = hashlib.file_digest

    def counted(stream, kind):  # type: ignore[no-untyped-def]
        calls.append(1)
        return real(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return calls


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    calls = count_hashes(monkeypatch)
    expected = hashlib.sha256(b"weights").hexdigest()
    assert [weight_sha256(path), weight_sha256(path)] == [expected, expected]
    assert len(calls) == 1
    assert weight_sha256(path, again=True) == expected
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["content", "time", "replaced"])
def test_a_touched_file_is_hashed_again(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    stamp = path.stat()
    weight_sha256(path)
    calls = count_hashes(monkeypatch)
    if change == "content":
        path.write_bytes(b"other weights")
    elif change == "time":
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    else:
        (tmp_path / "new").write_bytes(b"swapped")
        os.utime(tmp_path / "new", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        (tmp_path / "new").replace(path)
    assert weight_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(calls) == 1


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_only_time(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    expected = weight_sha256(path)
    (memory,) = (own_cache / "vnp" / "checked").iterdir()
    memory.write_text("{")
    assert weight_sha256(path) == expected
    memory.unlink()
    memory.parent.rmdir()
    memory.parent.write_text("in the way")
    assert weight_sha256(path) == expected


def test_nothing_is_written_beside_the_weights(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "model.bin").write_bytes(b"weights")
    weight_sha256(tmp_path / "w" / "model.bin")
    assert [one.name for one in (tmp_path / "w").iterdir()] == ["model.bin"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        weight_sha256(tmp_path / "gone")
