"""A server, asked politely: few tries, pauses that grow, and whatever pause it asks for itself."""

from __future__ import annotations

import datetime
import email.utils
import http.client
import random
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from vnp import __version__
from vnp.errors import DownloadError, UsageError

if TYPE_CHECKING:
    from http.client import HTTPResponse

_Result = TypeVar("_Result")

USER_AGENT = f"vnp/{__version__} (python -m jobs.fetch)"
TIMEOUT_SECONDS = 60.0

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# A server that asks for more patience than this is better asked another day.
_LONGEST_ASKED = 900.0
_TRIES = 6
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MOST_TEXT = 256 << 20
_UNSATISFIABLE = 416


class Fault(Exception):  # noqa: N818 - it passes, or becomes a DownloadError
    """Something that may be gone at the next try.

    Args:
        reason: in words.
        pause: seconds for which the server asked to be left alone.
        costly: a whole file was moved in vain, which is not done many times.
    """

    def __init__(self, reason: str, *, pause: float | None = None, costly: bool = False) -> None:
        super().__init__(reason)
        self.pause = pause
        self.costly = costly


class MissingError(DownloadError):
    """The server has no such file."""


class Server:
    """An HTTP server below one address.

    Args:
        base: address of a folder, ``https://`` or ``http://``.
        tries: how often in a row something may fail without getting on.
        sleep: waits for so many seconds.
        chance: a number from 0 to 1, to spread the pauses of many clients.

    Raises:
        UsageError: that is no such address.
    """

    def __init__(
        self,
        base: str,
        *,
        tries: int = _TRIES,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("https", "http") or not parts.netloc or parts.query or parts.fragment:
            raise UsageError(f"{base!r} is not the address of a folder, such as https://server/refseq/release/")
        self.base = base.rstrip("/") + "/"
        self.tries = tries
        self.stopped = threading.Event()
        self._sleep = sleep or self.stopped.wait
        self._chance = chance
        self._gate = threading.Lock()
        self._reached = False
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def open(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> HTTPResponse:
        """RunOptions once; the answer has the status 200, 206 or 416.

        Raises:
            Fault: it may be otherwise next time.
            MissingError: there is no such file.
            DownloadError: the server refuses, or cannot be reached at all.
        """
        # Where the server has asked for a pause, the connection that was told so holds the gate meanwhile.
        with self._gate:
            pass
        url = self.base + path
        # Packed files are wanted as they are, not packed once more for the way.
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}
        try:
            answer: HTTPResponse = self._opener.open(
                urllib.request.Request(url, headers=sent, method=method),  # noqa: S310 - the scheme was checked
                timeout=TIMEOUT_SECONDS,
            )
        except urllib.error.HTTPError as error:
            self._reached = True
            if error.code == _UNSATISFIABLE:
                return error  # type: ignore[return-value]  # it has the same methods
            with error:
                raise _refusal(error, url) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreached(error, url) from error
        self._reached = True
        return answer

    def text(self, path: str) -> str:
        """Read a small file or a folder's page.

        Raises:
            MissingError: there is no such file.
            DownloadError: it cannot be had.
        """

        def once() -> str:
            try:
                with self.open(path) as answer:
                    found = answer.read(_MOST_TEXT)
            except (OSError, http.client.HTTPException) as error:
                raise Fault(f"the connection broke ({words(error)})") from error
            promised = answer.headers.get("Content-Length", "")
            if promised.isdecimal() and len(found) < int(promised):
                raise Fault(f"the connection broke after {len(found):,} of {int(promised):,} bytes")
            return found.decode("utf-8", "replace")

        return self.patiently(path, once)

    def size(self, path: str) -> int | None:
        """RunOptions how large a file is; None where the server does not tell.

        Raises:
            MissingError: there is no such file.
            DownloadError: the server cannot be reached.
        """

        def once() -> int | None:
            with self.open(path, method="HEAD") as answer:
                told = answer.headers.get("Content-Length", "")
            return int(told) if told.isdecimal() else None

        return self.patiently(path, once)

    def patiently(self, path: str, once: Callable[[], _Result], progress: Callable[[], int] | None = None) -> _Result:
        """Try until it works, or has failed too often in a row.

        Args:
            path: for the message.
            once: one try.
            progress: how far the tries have come; one that came further than all before counts as none.

        Raises:
            DownloadError: the last fault, in words.
        """
        failed = costly = reached = 0
        while True:
            try:
                return once()
            except Fault as fault:
                costly += fault.costly
                now = progress() if progress is not None else 0
                failed = 1 if now > reached and not fault.costly else failed + 1
                reached = max(reached, now)
                if failed >= self.tries or costly >= 2 or (fault.pause or 0) > _LONGEST_ASKED:
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

    def _unreached(self, error: Exception, url: str) -> Exception:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return DownloadError(
                f"{url}: its certificate is not trusted ({reason.verify_message}); where your site has a proxy with "
                "its own certificate, name that in SSL_CERT_FILE"
            )
        if self._reached or isinstance(reason, http.client.HTTPException):
            return Fault(f"the connection broke ({words(error)})")
        return DownloadError(
            f"no connection to {self.base} ({words(error)}). If this node has no internet, run the command on a login "
            "node, or elsewhere and copy the folder; --refseq-url names a mirror"
        )


def words(error: Exception) -> str:
    """Say in a few words what went wrong with a connection."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"nothing came for {TIMEOUT_SECONDS:.0f} s"
    said = getattr(reason, "strerror", None) or str(reason)
    return said or type(reason).__name__


def _refusal(error: urllib.error.HTTPError, url: str) -> Exception:
    said = f"{error.code} {error.reason or ''}".strip()
    if error.code in _PASSING:
        return Fault(f"the server answered {said}", pause=_asked_pause(error.headers.get("Retry-After")))
    if error.code in (404, 410):
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
