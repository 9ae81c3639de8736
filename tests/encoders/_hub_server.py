"""A hub on this machine: enough of the real one's HTTP for fetching, with faults to order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


@dataclass
class HubContent:
    """What the server gives, and what it saw."""

    files: dict[str, bytes]
    licence: str | None = "mit"
    drop_after: dict[str, int] = field(default_factory=dict)  # close the connection once, after so many bytes
    requests: list[tuple[str, str | None]] = field(default_factory=list)


def _handler(content: HubContent) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            content.requests.append((path, self.headers.get("Range")))
            if path.startswith("/api/models/someone/tiny"):
                self._answer(json.dumps(self._model()).encode(), "application/json")
            elif path.startswith("/someone/tiny/resolve/"):
                self._file(path.rpartition("/")[2])
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _model(self) -> dict[str, object]:
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    **(
                        {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}}
                        if name.endswith((".safetensors", ".bin"))
                        else {}
                    ),
                }
                for name, data in content.files.items()
            ]
            card = {} if content.licence is None else {"cardData": {"license": content.licence}}
            return {"id": "someone/tiny", "modelId": "someone/tiny", "sha": COMMIT, "siblings": siblings, **card}

        def _file(self, name: str) -> None:
            data = content.files[name]
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            stop = content.drop_after.pop(name, None)
            self.wfile.write(data[start:stop])
            if stop is not None:
                self.wfile.flush()
                self.close_connection = True

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(content: HubContent) -> Iterator[str]:
    """Serve on a free port of this machine.

    Yields:
        The address.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(content))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
