"""A RefSeq release on its server: asked politely, and what it says of itself.

Politely is with few tries, pauses that grow, and whatever pause the server asks for. The release is laid out as NCBI
describes it in ``release-catalog/README``: ``RELEASE_NUMBER`` beside the folders of the groups, and
``release-catalog/release#.files.installed`` with a checksum for each file: MD5 since December 2022, a CRC before, which
is not used.
"""

from __future__ import annotations

import datetime
import email.utils
import html
import random
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import httpx2

from vnp import __version__
from vnp.errors import DownloadError, UsageError, without_password

TIMEOUT_SECONDS = 60.0

_Result = TypeVar("_Result")
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# A server that asks for more patience than this is better asked another day.
_LONGEST_ASKED = 900.0
_TRIES = 6
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_UNSATISFIABLE = 416
_MOST_TEXT = 256 << 20
_LINK = re.compile(r"""<a\s[^>]*?\bhref\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_NAME = re.compile(r"\w[\w.+-]*")
_MD5 = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", re.IGNORECASE)


class Fault(Exception):  # noqa: N818 - it passes, or becomes a DownloadError
    """Something that may be gone after a pause; costly if a whole file was moved in vain."""

    def __init__(self, reason: str, *, pause: float | None = None, costly: bool = False) -> None:
        super().__init__(reason)
        self.pause = pause
        self.costly = costly


class MissingError(DownloadError):
    """The server has no such file."""


class Server:
    """An HTTP server below one address.

    ``tries`` is how often in a row something may fail without getting on; ``sleep`` waits for so many seconds, and
    ``chance``, a number from 0 to 1, spreads the pauses of many clients.

    Attributes: base: the address, without name and password. stopped: set to have downloads end at once.

    Raises:
        UsageError: that is no such address, or the proxy cannot be used.
    """

    def __init__(
        self,
        base: str,
        *,
        tries: int = _TRIES,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.base = without_password(base).rstrip("/") + "/"
        try:
            url = httpx2.URL(base)
        except httpx2.InvalidURL:
            url = httpx2.URL()
        if url.scheme not in ("https", "http") or not url.host or url.query or url.fragment:
            # Where it is no address, nobody knows where a password ends; and a query may be one.
            shown = re.split("[?#]", self.base.rpartition("@")[2])[0]
            raise UsageError(f"{shown!r} is not the address of a folder, such as https://server/refseq/release/")
        self.stopped = threading.Event()
        self._tries = tries
        self._sleep = sleep or self.stopped.wait
        self._chance = chance
        self._gate = threading.Lock()
        self._reached = False
        try:
            self._client = httpx2.Client(
                auth=(url.username, url.password) if url.userinfo else None,
                follow_redirects=True,
                # Packed files are wanted as they are, not packed once more for the way.
                headers={"User-Agent": f"vnp/{__version__} (python -m jobs.fetch)", "Accept-Encoding": "identity"},
                # A connection that is kept while a file is checked is often closed by the time it is wanted again.
                limits=httpx2.Limits(max_keepalive_connections=0),
                timeout=TIMEOUT_SECONDS,
            )
        except (ImportError, ValueError) as error:
            raise UsageError(f"the proxy that the environment names (HTTPS_PROXY, ALL_PROXY): {error}") from error

    @contextmanager
    def open(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Iterator[httpx2.Response]:
        """Ask once; the answer has a status of success, or 416.

        Raises:
            Fault: it may be otherwise next time; also where the connection breaks while the answer is read.
            MissingError: there is no such file.
            DownloadError: the server refuses, or cannot be reached at all.
        """
        # Where the server has asked for a pause, the connection that was told so holds the gate meanwhile.
        with self._gate:
            pass
        url = self.base + path
        try:
            with self._client.stream(method, url, headers=headers) as answer:
                self._reached = True
                if not answer.is_success and answer.status_code != _UNSATISFIABLE:
                    raise _refusal(answer, url)
                yield answer
        except httpx2.HTTPError as error:
            raise self._broken(error, url) from error

    def text(self, path: str) -> str:
        """Read a small file or a folder's page; DownloadError where it cannot be had."""

        def once() -> str:
            found = bytearray()
            with self.open(path) as answer:
                for block in answer.iter_bytes():
                    found += block
                    if len(found) > _MOST_TEXT:
                        raise DownloadError(f"{self.base}{path} does not end: is this a RefSeq release?")
            return found.decode("utf-8", "replace")

        return self.patiently(path, once)

    def size(self, path: str) -> int | None:
        """Ask how large a file is; None where the server does not tell."""

        def once() -> int | None:
            with self.open(path, method="HEAD") as answer:
                told = answer.headers.get("Content-Length", "")
            return int(told) if told.isdecimal() else None

        return self.patiently(path, once)

    def patiently(self, path: str, once: Callable[[], _Result], progress: Callable[[], int] = lambda: 0) -> _Result:
        """Try until it works, or has failed too often in a row.

        ``progress`` tells how far the tries have come: one that came further than all before counts as none.

        Raises:
            DownloadError: the last fault, in words.
        """
        failed = costly = reached = 0
        while True:
            try:
                return once()
            except Fault as fault:
                costly += fault.costly
                now = progress()
                failed = 1 if now > reached and not fault.costly else failed + 1
                reached = max(reached, now)
                if failed >= self._tries or costly >= 2 or (fault.pause or 0) > _LONGEST_ASKED:
                    raise DownloadError(_given_up(self.base + path, fault, failed)) from fault
                self._wait(fault, failed)

    def _wait(self, fault: Fault, failed: int) -> None:
        if self.stopped.is_set():
            raise DownloadError("stopped") from fault
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (failed - 1)) * (0.5 + self._chance() / 2)
        if fault.pause is None:
            self._sleep(pause)
            return
        with self._gate:
            self._sleep(max(fault.pause, pause))

    def _broken(self, error: httpx2.HTTPError, url: str) -> Exception:
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadError(
                f"{url}: its certificate is not trusted ({cause.verify_message}); where your site has a proxy with "
                "its own certificate, name that in SSL_CERT_FILE"
            )
        said = getattr(cause, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, httpx2.TimeoutException):
            said = f"nothing came for {TIMEOUT_SECONDS:.0f} s"
        if self._reached or isinstance(error, httpx2.ProtocolError):
            return Fault(f"the connection broke ({said})")
        return DownloadError(
            f"no connection to {self.base} ({said}). If this node has no internet, run the command on a login "
            "node, or elsewhere and copy the folder; --refseq-url names a mirror"
        )


def _refusal(answer: httpx2.Response, url: str) -> Exception:
    said = f"{answer.status_code} {answer.reason_phrase}".strip()
    if answer.status_code in _PASSING:
        return Fault(f"the server answered {said}", pause=_asked_pause(answer.headers.get("Retry-After")))
    if answer.status_code in (404, 410):
        return MissingError(f"{url} is not there ({said})")
    return DownloadError(f"{url}: the server answered {said}")


def _asked_pause(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which may be a number or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())


def _given_up(url: str, fault: Fault, failed: int) -> str:
    if fault.pause is not None and fault.pause > _LONGEST_ASKED:
        return f"{url}: {fault}, and asks for a pause of {fault.pause / 60:.0f} minutes: run the same command then"
    tries = "" if failed == 1 else f" ({failed} tries)"
    return f"{url}: {fault}{tries}; run the same command again, it goes on where it stopped"


def release_number(server: Server) -> str | None:
    """Read the number of the release; None where the server has no file for it."""
    try:
        found = server.text("RELEASE_NUMBER").strip()
    except MissingError:
        return None
    if not re.fullmatch(r"\d{1,9}", found):
        raise DownloadError(
            f"{server.base}RELEASE_NUMBER holds no number but {found[:60]!r}: is this a RefSeq release, and does "
            "nothing stand between, such as a proxy's login page?"
        )
    return found


def folder_files(server: Server, folder: str) -> tuple[str, ...]:
    """List the files of a folder, in the order of the server's page."""
    links = map(html.unescape, _LINK.findall(server.text(f"{folder}/")))
    return tuple(name for link in links if (name := _name(f"{server.base}{folder}/", link)))


def _name(address: str, link: str) -> str | None:
    """Name of a file that a link leads to, if the file is in this folder."""
    try:
        parts = urlsplit(urljoin(address, link))
    except ValueError:
        return None
    folder, name = parts.path.rpartition("/")[::2]
    here = urlsplit(address)
    if (parts.netloc, f"{folder}/", parts.query) != (here.netloc, here.path, ""):
        return None
    name = unquote(name)
    return name if _NAME.fullmatch(name) else None


def checksums(server: Server, release: str | None) -> dict[str, str]:
    """Read the MD5 of every file of the release; empty where the catalogue has none."""
    if release is None:
        return {}
    try:
        text = server.text(f"release-catalog/release{release}.files.installed")
    except MissingError:
        return {}
    found = {}
    for line in text.splitlines():
        digest = _MD5.search(line)
        names = [word.rpartition("/")[2] for word in line.split() if word != (digest and digest[0])]
        if digest is not None and names:
            found[names[-1]] = digest[0].lower()
    return found
