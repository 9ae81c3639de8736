"""Brings one file here, whole, through whatever happens on the way.

Bytes are gathered in ``.NAME.part``. A connection that broke is gone on with from there, with If-Range (RFC 9110,
13.1.5), so that the pieces are pieces of one file; where the server knows no ranges, or its file has changed, it starts
anew. A file gets its name when its checksum is right, or, where none is known, when its length is as promised and it
unpacks to the end.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vnp.errors import DownloadError, storage_error
from vnp.files.durable import sync_file, sync_folder
from vnp.refseq.contents import Contents, read_contents
from vnp.refseq.server import Fault, Server, words

if TYPE_CHECKING:
    from http.client import HTTPResponse

_BLOCK = 1 << 18
_GZIP = b"\x1f\x8b"
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file that is here.

    Attributes:
        size: in bytes.
        sha256: 64 hexadecimal digits.
        md5: 32 hexadecimal digits.
        last_modified: as the server said it.
    """

    size: int
    sha256: str
    md5: str
    last_modified: str | None


def part_path(path: Path) -> Path:
    """Where the bytes of an unfinished file are."""
    return path.with_name(f".{path.name}.part")


def download(
    server: Server, remote: str, path: Path, *, md5: str | None, moved: Callable[[int], None] = lambda _: None
) -> Arrived:
    """Bring a gzip file here, or the rest of it.

    Args:
        server: where from.
        remote: path of the file on the server.
        path: where to.
        md5: what it must be, if known.
        moved: told how many bytes are here by now; the number falls where the file is begun anew.

    Raises:
        MissingError: the server has no such file.
        DownloadError: it does not come, or comes damaged.
        StorageError: the disk is full or cannot be written.
    """
    transfer = _Transfer(server, remote, path, md5, moved)
    try:
        found = server.patiently(remote, transfer.once, lambda: transfer.furthest)
        sync_file(transfer.part)
        transfer.part.replace(path)
        sync_folder(path.parent)
        transfer.notes.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, f"writing {path}") from error
    return Arrived(found.size, found.sha256, found.md5, transfer.last_modified)


class _Transfer:
    """The state of one file on its way."""

    def __init__(self, server: Server, remote: str, path: Path, md5: str | None, moved: Callable[[int], None]) -> None:
        self._server = server
        self._remote = remote
        self._md5 = md5
        self._moved = moved
        self.part = part_path(path)
        self.notes = path.with_name(f".{path.name}.part.json")
        self._validator, self.last_modified = self._read_notes()
        # Bytes that came further than all before are getting on; the same bytes once more are not.
        self.furthest = self._have()

    def once(self) -> Contents:
        """RunOptions for what is missing and take what comes; the file's contents once all is here and right.

        Raises:
            Fault: it broke off or came out wrong.
        """
        have = self._have()
        headers = {}
        # Pieces of two versions of a file are told apart by the validator, or in the end by the checksum.
        if have and (self._validator or self._md5):
            headers["Range"] = f"bytes={have}-"
            if self._validator:
                headers["If-Range"] = self._validator
        with self._server.open(self._remote, headers) as answer:
            whole = self._begin(answer, have)
        if whole is not None and self._have() < whole:
            raise Fault(f"the connection broke after {self._have():,} of {whole:,} bytes")
        return self._checked()

    def _begin(self, answer: HTTPResponse, have: int) -> int | None:
        """Take the answer's bytes; returns how long the whole file should be."""
        if answer.status == 416:
            return self._nothing_left(answer, have)
        if answer.status == 206:
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != have:
                self._drop()
                raise Fault("the server sent another part of the file than was asked for")
            self._take(answer, have)
            return int(found[3]) if found[3] != "*" else None
        first = self._read(answer)
        if first and not first.startswith(_GZIP):
            kind = answer.headers.get_content_type()
            raise Fault(f"the server answered with something that is no gzip file ({kind}), perhaps a page of a proxy")
        self._write_notes(answer)
        self._take(answer, 0, first)
        promised = answer.headers.get("Content-Length", "")
        return int(promised) if promised.isdecimal() else None

    def _nothing_left(self, answer: HTTPResponse, have: int) -> int:
        """The server has no byte behind those that are here: this is the whole, or not this file at all."""
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if not have or total != str(have):
            self._drop()
            raise Fault("the server's file is shorter than what came of it before")
        return have

    def _take(self, answer: HTTPResponse, have: int, block: bytes = b"") -> None:
        with self.part.open("r+b" if have else "wb") as stream:
            stream.seek(have)
            stream.truncate()
            while block or (block := self._read(answer)):
                stream.write(block)
                have += len(block)
                self.furthest = max(self.furthest, have)
                self._moved(have)
                if self._server.stopped.is_set():
                    raise DownloadError("stopped")
                block = b""

    def _read(self, answer: HTTPResponse) -> bytes:
        try:
            return answer.read(_BLOCK)
        except http.client.IncompleteRead as error:
            return error.partial
        except (OSError, http.client.HTTPException) as error:
            raise Fault(f"the connection broke ({words(error)})") from error

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
            content = json.loads(self.notes.read_text("utf-8"))
            if content["url"] == self._server.base + self._remote:
                return content["validator"], content["last_modified"]
        return None, None

    def _write_notes(self, answer: HTTPResponse) -> None:
        """Note which version of the file begins here, before its first byte and after the last of another."""
        self.part.unlink(missing_ok=True)
        tag = answer.headers.get("ETag")
        self.last_modified = answer.headers.get("Last-Modified")
        # A weak tag says that two files mean the same, not that they have the same bytes.
        self._validator = tag if tag and not tag.startswith("W/") else self.last_modified
        content = {
            "url": self._server.base + self._remote,
            "validator": self._validator,
            "last_modified": self.last_modified,
        }
        self.notes.write_text(json.dumps(content), "utf-8")
