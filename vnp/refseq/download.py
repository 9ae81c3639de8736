"""Brings one file here, whole, through whatever happens on the way.

Bytes are gathered in ``.NAME.part``. A connection that broke is gone on with from there, with If-Range (RFC 9110,
13.1.5), so that the pieces are pieces of one file; where the server knows no ranges, or its file has changed, it starts
anew. A file gets its name when its checksum is right, or, where none is known, when its length is as promised and it
unpacks to the end.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import httpx2
from isal import igzip, isal_zlib

from vnp.errors import DownloadError, storage_error
from vnp.files.durable import require_unread, sync_file, sync_folder
from vnp.files.hashing import file_sha256
from vnp.files.records import read_json
from vnp.refseq.server import Fault, Server

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds: bytes, digests, and why it is no whole gzip file, where that was asked and is so.

    ``last_modified`` is what the server said, where the file has just come.
    """

    size: int
    sha256: str
    md5: str
    damage: str | None
    last_modified: str | None = None


def read_contents(path: Path, *, unpack: bool) -> Contents:
    """Hash a file, and unpack it, where asked, to see whether it is a whole gzip file."""
    with path.open("rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return Contents(path.stat().st_size, file_sha256(path), md5, _damage(path) if unpack else None)


def _damage(path: Path) -> str | None:
    try:
        with igzip.IGzipFile(path) as stream:  # type: ignore[no-untyped-call]
            while stream.read(_BLOCK):
                pass
    except EOFError:
        return "the gzip file ends too early"
    except (gzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]  # its stubs call it a function
        return f"not a gzip file, or damaged ({error})"
    return None if path.stat().st_size else "the gzip file ends too early"


def part_path(path: Path) -> Path:
    """Where the bytes of an unfinished file are."""
    return path.with_name(f".{path.name}.part")


def download(
    server: Server, remote: str, path: Path, *, md5: str | None, moved: Callable[[int], None] = lambda _: None
) -> Contents:
    """Bring a gzip file here, or the rest of it.

    ``moved`` is told how many bytes are here by now; the number falls where the file is begun anew.

    Raises:
        DownloadError: it does not come, or comes damaged; MissingError where the server has no such file.
        StorageError: the disk is full or cannot be written.
    """
    transfer = _Transfer(server, remote, path, md5, moved)
    try:
        found = server.patiently(remote, transfer.once, lambda: transfer.furthest)
        sync_file(transfer.part)
        require_unread(path)
        transfer.part.replace(path)
        sync_folder(path.parent)
        transfer.notes.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, f"writing {path}") from error
    return replace(found, last_modified=transfer.last_modified)


class _Transfer:
    """The state of one file on its way."""

    def __init__(self, server: Server, remote: str, path: Path, md5: str | None, moved: Callable[[int], None]) -> None:
        self._server = server
        self._remote = remote
        self._url = server.base + remote
        self._md5 = md5
        self._moved = moved
        self.part = part_path(path)
        self.notes = path.with_name(f".{path.name}.part.json")
        self._validator, self.last_modified = self._read_notes()
        # Bytes that came further than all before are getting on; the same bytes once more are not.
        self.furthest = self._have()

    def once(self) -> Contents:
        """Take what is missing; gives the contents once all is here and right, raises Fault where they are not."""
        have = self._have()
        headers = {}
        # Pieces of two versions of a file are told apart by the validator, or in the end by the checksum.
        if have and (self._validator or self._md5):
            headers["Range"] = f"bytes={have}-"
            if self._validator:
                headers["If-Range"] = self._validator
        with self._server.open(self._remote, headers) as answer:
            if answer.status_code == 416:
                self._require_whole(answer, have)
            elif answer.status_code == 206:
                self._go_on(answer, have)
            else:
                self._begin(answer)
        return self._checked()

    def _require_whole(self, answer: httpx2.Response, have: int) -> None:
        """The server has no byte behind those that are here: this is the whole, or not this file at all."""
        if not have or answer.headers.get("Content-Range", "").rpartition("/")[2] != str(have):
            self._drop()
            raise Fault("the server's file is shorter than what came of it before")

    def _go_on(self, answer: httpx2.Response, have: int) -> None:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != have:
            self._drop()
            raise Fault("the server sent another part of the file than was asked for")
        self._take(answer.iter_raw(), have, found[3])

    def _begin(self, answer: httpx2.Response) -> None:
        """Take a whole file, and note which version of it begins here: after the last byte of another is gone."""
        blocks = answer.iter_raw()
        first = next(blocks, b"")
        if len(first) == 1:
            first += next(blocks, b"")
        if first and not first.startswith(_GZIP):
            kind = answer.headers.get("Content-Type", "of no type").partition(";")[0]
            raise Fault(f"the server answered with something that is no gzip file ({kind}), perhaps a page of a proxy")
        self.part.unlink(missing_ok=True)
        tag = answer.headers.get("ETag")
        self.last_modified = answer.headers.get("Last-Modified")
        # A weak tag says that two files mean the same, not that they have the same bytes.
        self._validator = tag if tag and not tag.startswith("W/") else self.last_modified
        about = {"url": self._url, "validator": self._validator, "last_modified": self.last_modified}
        self.notes.write_text(json.dumps(about), "utf-8")
        self._take(chain((first,), blocks), 0, answer.headers.get("Content-Length", ""))

    def _take(self, blocks: Iterable[bytes], have: int, promised: str) -> None:
        """Write bytes behind those that are here; ``promised`` is the length of the whole file, if that is known."""
        broken = None
        with self.part.open("r+b" if have else "wb") as stream:
            stream.seek(have)
            stream.truncate()
            try:
                for block in blocks:
                    stream.write(block)
                    have += len(block)
                    self.furthest = max(self.furthest, have)
                    self._moved(have)
                    if self._server.stopped.is_set():
                        raise DownloadError("stopped")
            except httpx2.RemoteProtocolError as error:
                broken = error
        whole = int(promised) if promised.isdecimal() else None
        if broken is not None or (whole is not None and have < whole):
            of = "" if whole is None else f" of {whole:,}"
            raise Fault(f"the connection broke after {have:,}{of} bytes") from broken

    def _checked(self) -> Contents:
        if not self.part.exists():
            raise Fault("the server sent nothing")
        found = read_contents(self.part, unpack=self._md5 is None)
        if self._md5 is not None and found.md5 != self._md5:
            self._drop()
            raise Fault(f"what came has the MD5 {found.md5}, the release's catalogue says {self._md5}", costly=True)
        if found.damage is not None:
            self._drop()
            raise Fault(f"what came is not whole: {found.damage}", costly=True)
        return found

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self._validator = None
        self._moved(0)

    def _read_notes(self) -> tuple[str | None, str | None]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = read_json(self.notes)
            if content["url"] == self._url:
                return content["validator"], content["last_modified"]
        return None, None
