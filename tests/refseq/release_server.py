"""A RefSeq release on this machine, with faults to order."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def packed(seed: int, size: int = 40_000) -> bytes:
    """A gzip file of roughly that many bytes."""
    return gzip.compress(np.random.default_rng(seed).bytes(size), mtime=0)


@dataclass
class Release:
    """What the server gives, how it misbehaves, and what it saw.

    Attributes:
        files: path to content.
        number: of the release.
        md5: whether the catalogue has checksums.
        drop: path to places where the connection is closed, one for each time.
        length: path to what Content-Length says instead of the truth.
        status: path to answers given before the right one: status and headers.
        page: path to how often a web page comes in its place.
        ranges: whether ranges are known.
        tags: whether files have ETags.
        changing: path to contents that replace the file's, one after each answer.
        wrong_md5: paths with a wrong checksum in the catalogue.
        requests: method, path, Range and If-Range of every request.
        most: of the requests at a time.
    """

    files: dict[str, bytes]
    number: str = "229"
    md5: bool = True
    drop: dict[str, list[int]] = field(default_factory=dict)
    length: dict[str, int] = field(default_factory=dict)
    status: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    page: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    changing: dict[str, list[bytes]] = field(default_factory=dict)
    wrong_md5: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    agents: set[str | None] = field(default_factory=set)
    authorizations: set[str | None] = field(default_factory=set)
    running: int = 0
    most: int = 0

    def gets(self, path: str) -> list[tuple[str | None, str | None]]:
        """Range and If-Range of each GET of a file."""
        return [(part, when) for method, at, part, when in self.requests if method == "GET" and at == path]

    def content(self, path: str) -> bytes | None:
        """What stands at a path: a file, a folder's page, the number or the catalogue."""
        if path in self.files:
            return self.files[path]
        if path == "RELEASE_NUMBER":
            return f"{self.number}\n".encode()
        if path == f"release-catalog/release{self.number}.files.installed":
            return self._catalogue()
        inside = [name.removeprefix(path) for name in self.files if name.startswith(path)]
        if not path.endswith("/") or not inside:
            return None
        links = "".join(f'<a href="{name}">{name[:20]}..</a>  2026-01-05 03:12   18M\n' for name in inside)
        top = '<a href="?C=N;O=D">Name</a> <a href="/refseq/release/">Parent Directory</a>'
        return f"<html><body><h1>Index</h1><pre>{top}<hr>{links}<hr></pre></body></html>".encode()

    def _catalogue(self) -> bytes:
        lines = ["MD5 checksum\tFile name"]
        for path, content in self.files.items():
            digest = hashlib.md5(b"other" if path in self.wrong_md5 else content).hexdigest()
            name = path.rpartition("/")[2]
            lines.append(f"{digest}\t{name}" if self.md5 else f"{len(content)}\t{name}")
        return "\n".join(lines).encode() + b"\n"


def _handler(release: Release) -> type[BaseHTTPRequestHandler]:
    guard = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            with guard:
                release.running += 1
                release.most = max(release.most, release.running)
            try:
                self._answer(body=True)
            finally:
                with guard:
                    release.running -= 1

        def _answer(self, *, body: bool) -> None:
            path = self.path.removeprefix("/refseq/release/")
            with guard:
                sent = self.headers.get("Range"), self.headers.get("If-Range")
                release.requests.append((self.command, path, *sent))
                release.agents.add(self.headers.get("User-Agent"))
                release.authorizations.add(self.headers.get("Authorization"))
                content = release.content(path)
                refused = release.status[path].pop(0) if body and release.status.get(path) else None
                page = body and release.page.get(path, 0) > 0
                if page:
                    release.page[path] -= 1
            if refused is not None or content is None:
                code, more = refused or (404, {})
                self._head(code, {"Content-Length": "0", **more})
            elif page:
                self._head(200, {"Content-Length": "26", "Content-Type": "text/html"})
                self.wfile.write(b"<html>please log in</html>")
            else:
                self._file(path, content, body=body)

        def _file(self, path: str, content: bytes, *, body: bool) -> None:
            tag = f'"{hashlib.sha1(content).hexdigest()[:12]}"'
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range") in (None, tag)
            start = int(asked[1]) if asked and same and release.ranges else 0
            more = {"ETag": tag} if release.tags else {}
            if asked and start >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0", **more})
                return
            if start:
                more["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            length = release.length.get(path, len(content)) - start
            self._head(206 if start else 200, {"Content-Length": str(length), **more})
            if not body:
                return
            with guard:
                stop = release.drop[path].pop(0) if release.drop.get(path) else None
                if release.changing.get(path):
                    release.files[path] = release.changing[path].pop(0)
            self.wfile.write(content[start:stop][:length])
            if stop is not None or length != len(content) - start:
                self.wfile.flush()
                self.close_connection = True

        def _head(self, code: int, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(release: Release) -> Iterator[str]:
    """Serve on a free port of this machine.

    Yields:
        The address of the release.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(release))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/refseq/release/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
