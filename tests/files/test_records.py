from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from vnp.errors import RunError, UsageError, WeightsError
from vnp.files import hashing
from vnp.files.hashing import file_sha256, json_sha256, remembered_sha256
from vnp.files.records import (
    canonical_json,
    from_json,
    open_regular,
    read_json,
    read_record,
    read_regular,
    read_toml,
    require_regular,
    to_json,
    write_json,
    write_record,
)


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    width: int
    scale: float = 1.0


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    files: Mapping[str, Part]
    path: Path | None
    kind: Literal["a", "b"]
    counts: dict[str, int]
    events: list[str]
    free: dict[str, Any]
    flag: bool = False


WHOLE = Whole((Part("dna", 768), Part("x", 3, 2)), {"f": Part("f", 1)}, Path("/a/b"), "a", {"n": 1}, ["é"], {"k": [1]})


def write(path: Path, **options: Any) -> bytes:
    write_record(path, WHOLE, **options)
    return path.read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    content = write(path, schema="whole/1", seal="digest")
    assert read_record(path, Whole, schema="whole/1", seal="digest") == WHOLE
    stored = json.loads(content)
    assert content == canonical_json(stored)
    digest = stored.pop("digest")
    assert digest == hashlib.sha256(canonical_json(stored)).hexdigest() == json_sha256(stored)
    assert stored.pop("schema") == "whole/1"
    assert from_json(Whole, stored) == WHOLE
    assert read_record(path, dict, schema="whole/1", seal="digest") == stored
    with pytest.raises(FileExistsError):
        write(path, exclusive=True)


def test_paths_become_absolute() -> None:
    assert to_json(Path("here")) == str(Path.cwd() / "here")


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "none.json", Whole) is None
    (tmp_path / "file").touch()
    assert read_record(tmp_path / "file" / "none.json", Whole) is None


@pytest.mark.parametrize("seal", ["aaa", "digest", "zzz"])
def test_every_flipped_bit_of_a_sealed_record_shows(tmp_path: Path, seal: str) -> None:
    """The key's place among the others must not matter, first, in the middle or last."""
    path = tmp_path / "sealed.json"
    content = write(path, schema=1, seal=seal)
    assert read_record(path, Whole, schema=1, seal=seal) == WHOLE
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(RunError, match=r"sealed\.json is (damaged|of another version)"):
            read_record(path, Whole, schema=1, seal=seal)
    for other in (content[:-3], content + b" ", content + content):
        path.write_bytes(other)
        with pytest.raises(RunError):
            read_record(path, Whole, schema=1, seal=seal)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[1]", "holds no object"),
        (b"null", "holds no object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"schema": 2}', "another version of vnp; this one reads 1: fetch again"),
        (b"{}", "another version"),
        (b'{"schema": 1}', "missing"),
        (b'{"schema": 1, "name": "x", "width": 1, "odd": 1}', "'odd' that does not belong"),
        (b'{"schema": 1, "name": "x", "width": "1"}', "'1' is no int"),
        (b'{"schema": 1, "name": "x", "width": true}', "True is no int"),
        (b'{"schema": 1, "name": "x", "width": ' + b"1" * 10_000 + b"}", "a number in it is too long"),
        (b'{"schema": 1, "name": "x", "width": 1, "scale": NaN}', "NaN is no finite number"),
        (b'{"schema": 1, "name": "x", "width": 1, "scale": 1e999}', "1e999 is no finite number"),
        (b'{"schema": 1, "name": "x", "width": 1, "name": "y"}', "'name' is given twice"),
    ],
)
def test_one_message_for_what_is_no_record(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=why) as caught:
        read_record(path, Part, schema=1, error=WeightsError, remedy="fetch again")
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(": fetch again")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        read_record(tmp_path, Part)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_only_files_are_opened(tmp_path: Path, kind: str) -> None:
    """A pipe would be waited for, and a device that gives bytes for ever fill the memory."""
    path = tmp_path / "record.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    why = {"pipe": "is a pipe", "device": "is a device", "folder": "Is a directory", "nothing": "No such file"}[kind]
    for read in (open_regular, require_regular, read_regular, read_json, file_sha256):
        with pytest.raises(OSError, match=why):
            read(path)
    if kind != "nothing":
        with pytest.raises(RunError, match=rf"record\.json cannot be read: {why}"):
            read_record(path, Part)
    with pytest.raises(UsageError, match=rf"record\.json cannot be read: {why}"):
        read_toml(path)


def test_a_file_has_so_many_bytes_at_most(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="has more than 4 bytes"):
        read_regular(path, 4)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RunError, match="has more than"):
        read_record(path, Part)
    with pytest.raises(UsageError, match="has more than"):
        read_toml(path)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "1" * 10_000, "a = 1\na = 2", "a = \0"])
def test_odd_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vnp.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"vnp\.toml is no TOML"):
        read_toml(path)


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "vnp.toml"
    path.write_text("a = 1")
    assert read_toml(path) == {"a": 1}
    path.write_text("a = ")
    with pytest.raises(UsageError, match=r"vnp\.toml is no TOML"):
        read_toml(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path)


class TestHashing:
    def test_a_large_file_is_remembered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("vnp.files.hashing.REMEMBERED_BYTES", 10)
        path = tmp_path / "weights"
        path.write_bytes(b"x" * 100)
        digest = remembered_sha256(path)
        assert digest == file_sha256(path)
        (memory,) = (tmp_path / "cache/vnp/checked").iterdir()
        read: list[Path] = []

        def noted(path: Path) -> str:
            read.append(path)
            return file_sha256(path)

        monkeypatch.setattr(hashing, "file_sha256", noted)
        assert remembered_sha256(path) == digest
        assert not read
        assert remembered_sha256(path, again=True) == digest
        assert len(read) == 1
        write_json(memory, {**json.loads(memory.read_bytes()), "sha256": "another"})
        assert remembered_sha256(path) == digest
        assert len(read) == 2
        # Bits that change on the disk change neither size nor time.
        status, stamp = path.stat(), hashing._stamp(path)
        path.write_bytes(b"y" * 100)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        monkeypatch.setattr(hashing, "_stamp", lambda _path: stamp)
        assert remembered_sha256(path) == file_sha256(path) != digest

    def test_without_a_home_nothing_is_remembered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vnp.files.hashing.REMEMBERED_BYTES", 10)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", no_home)
        path = tmp_path / "weights"
        path.write_bytes(b"x" * 100)
        assert remembered_sha256(path) == file_sha256(path)


def no_home() -> Path:
    raise RuntimeError
