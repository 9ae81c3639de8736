"""How a command speaks and ends: a signal ends it with a message and a code, and nobody who stops listening does.

Where ``VNP_LOG_FORMAT`` is ``json``, standard error is one JSON object a line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import signal
import socket
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from vnp.errors import storage_error

LOG_FORMAT = "VNP_LOG_FORMAT"
LOG_FORMATS = ("", "text", "json")
COMMAND = re.compile(r"(?:^|[: ] ?)(?:vnp|python -m|pip|apptainer|apt-get|export) ")
"""Where text that is to be copied begins."""
WORDS_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
about: dict[str, Any] = {"run": None, "shard": None}
"""What JSON logs say of everything that this process says: the folder that it works on, and the shard if it is one."""
_LEVELS = {"error": "error", "traceback": "error", "warning": "warning"}
_BEGINNING = re.compile(r"(?:(error|warning|traceback)\b.*?: *)?(?:shard (\d+)\b)?", re.IGNORECASE)

SIGNALLED = 128
"""Added to a signal's number, it is the exit code of a command that the signal ended, as a shell has it."""
_ENDING = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "asked to end (SIGTERM), as by kill, a time limit or a scheduler",
    signal.SIGHUP: "its terminal was closed (SIGHUP); to outlive that, start it with nohup, tmux or screen",
}

_AGAIN_SECONDS = 0.01
_IMPORTING = "<frozen importlib._bootstrap>"


class EndedError(KeyboardInterrupt):
    """A signal came that ends the command; what is to be tidied up is tidied up on the way."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(_ENDING[self.number])


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the first of Ctrl-C, TERM and HUP end what is done here by ``EndedError``, and a second one the process.

    What the caller has the process ignore, as ``nohup`` does HUP, it goes on to ignore.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:
            # A child by fork: its parent tells what happened.
            signal.raise_signal(number)
        raise_outside_imports(EndedError(number), frame)

    def once_more(dropped: Any) -> None:
        """Python drops what comes up while it disposes of an object: raise it again a moment later."""
        if isinstance(dropped.exc_value, EndedError):
            _raise_later(EndedError(dropped.exc_value.number))
        else:
            hook(dropped)

    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    sys.unraisablehook = once_more
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGALRM) is not alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_outside_imports(error: BaseException, frame: FrameType | None) -> None:
    """Raise in a signal's handler, or a moment later where Python's own code of ``import`` is at work.

    It takes its lock for all threads just before it is ready to give it back whatever happens: what is raised between
    leaves it locked, and the next thread that imports something waits for ever.
    """
    if frame is None or frame.f_code.co_filename != _IMPORTING:
        raise error
    _raise_later(error)


def _raise_later(error: BaseException) -> None:
    signal.signal(signal.SIGALRM, lambda _number, frame: raise_outside_imports(error, frame))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


class _Lasting(io.FileIO):
    """A stream whose reader may go away, or whose disk may be full: what cannot be written is dropped, and noted."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> Any:
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = error
        return len(data)


class _Stream(io.TextIOWrapper):
    """A text stream on one; letters that the locale does not have are written as escapes."""

    def __init__(self, number: int, encoding: str | None) -> None:
        self.end = _Lasting(number, "w", closefd=False)
        lines = number == 2 or os.isatty(number)
        super().__init__(io.BufferedWriter(self.end), encoding, "backslashreplace", line_buffering=lines)


class _Events(_Stream):
    """Standard error as one JSON object a line: what is written until a line ends is one event."""

    _begun = ""

    def isatty(self) -> bool:
        return False

    def write(self, text: str, /) -> int:
        self._begun += text
        if text.endswith("\n"):
            self._say()
        return len(text)

    def flush(self) -> None:
        self._say()
        super().flush()

    def _say(self) -> None:
        text, self._begun = self._begun.strip("\n"), ""
        if text:
            super().write(event_line(text) + "\n")


def logs_json() -> bool:
    """Whether standard error is to be one JSON object a line."""
    return os.environ.get(LOG_FORMAT) == "json"


def event_line(text: str) -> str:
    """What is said on standard error: the text, or an object of JSON logs."""
    if not logs_json():
        return text
    found = _BEGINNING.match(text)
    word, shard = found.groups() if found else (None, None)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    level = _LEVELS[word.lower()] if word else "info"
    of = {**about, "shard": about["shard"] if shard is None else int(shard)}
    return json.dumps({"time": now, "level": level, "node": socket.gethostname(), **of, "event": text})


def tell(text: str) -> None:
    """Print a line of a task, which JSON logs have too."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    if isinstance(sys.stderr, _Events):
        sys.stderr.write(f"{text}\n")


def keep_streams() -> None:
    """Make sure that the process has three streams, and that writing to them cannot end its work.

    Where one is closed, the next file that is opened would take its number, and get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Takes the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        # Not where somebody listens in this process, as tests do.
        if stream is not getattr(sys, f"__{name}__"):
            continue
        if number == 0:
            sys.stdin = stream or open(number)  # noqa: PTH123, SIM115 - a stream, not a file
            continue
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
        kind = _Events if logs_json() and number == 2 else _Stream
        setattr(sys, name, kind(number, None if stream is None else stream.encoding))
        if kind is _Events:
            sys.excepthook = lambda *error: sys.stderr.write("".join(traceback.format_exception(*error)))


def wrapped(line: str, width: int) -> str:
    """A sentence as lines of words; tables, JSON and commands, which are to be copied, stay as they are."""
    indent = len(line) - len(line.lstrip())
    if len(line) <= width or indent > 2 or not line[indent].isalnum() or "  " in line[indent:]:
        return line
    words, command = line, ""
    if found := COMMAND.search(line):
        if found[0][0] != ":":
            return line
        words, command = line[: found.start() + 1], f"\n  {line[found.start() + 2 :]}"
    return textwrap.fill(words, width, subsequent_indent="  ", **WORDS_WHOLE) + command


def require_written() -> None:
    """Make sure that what was printed has arrived, or its reader went away, as ``head`` does; else ``StorageError``."""
    sys.stdout.flush()
    failed = sys.stdout.end.failed if isinstance(sys.stdout, _Stream) else None
    if failed is not None and failed.errno != errno.EPIPE:
        raise storage_error(failed, "all is done, but what was printed could not be written")
