"""Work in a forked child that can be killed, or dies at a chosen call into the operating system."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import h5py

import vnp
from vnp.errors import VnpError

_PACKAGE = str(Path(vnp.__file__).parent)
_PATIENCE_SECONDS = 120.0
_CALLS = ("mkdir", "link", "replace", "rename", "unlink", "rmdir", "fsync", "fdatasync", "pwrite")
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

WRITING = frozenset(["mkdir", "create", "write", "write of HDF5", "pwrite", "fsync", "fdatasync", "link", "replace"])
"""Names of the calls that bring something onto the disk."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Args:
        signal: what killed it, or 0.
        code: its exit code: 0 done, 1 an error for people, 70 an error of the program.
        error: type and message of the error.
        printed: what it wrote to stdout and stderr, HDF5's own words included.
    """

    signal: int
    code: int
    error: str
    printed: str


def in_child(work: Callable[[], object], scratch: Path, kill_after: float | None = None) -> Ended:
    """Fork, work in the child, and wait for it.

    Args:
        work: what to do.
        scratch: a folder outside the run for the child's words.
        kill_after: seconds after which it is killed; None waits for its end.
    """
    said, printed = scratch / "error.txt", scratch / "printed.txt"
    said.write_bytes(b"")
    pid = os.fork()
    if pid == 0:
        _be_child(work, said, printed)
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], _PATIENCE_SECONDS if kill_after is None else kill_after)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(descriptor)
    assert ready or kill_after is not None, f"the child hung: {printed.read_text(errors='replace')}"
    died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    return Ended(died_of, code, said.read_text(), printed.read_text(errors="replace"))


def _be_child(work: Callable[[], object], said: Path, printed: Path) -> NoReturn:
    code = 70
    with contextlib.suppress(BaseException):
        words = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(words, 1)
        os.dup2(words, 2)
        # Opened now: the test may make opening and writing fail.
        note = os.open(said, os.O_WRONLY)
        try:
            result = work()
            code = result if isinstance(result, int) else 0
        except VnpError as error:
            os.write(note, f"{type(error).__name__}: {error}".encode())
            code = 1
        except BaseException as error:
            os.write(note, f"{type(error).__name__}: {error}\n{traceback.format_exc()}".encode())
    os._exit(code)


class Points:
    """Counts the calls that change files, and does something at one of them.

    Args:
        at: 0-based number of the call at which to act.
        act: is told the call's name; what it raises, the call raises.
        after: act when the call is done instead of before it; at a write, when half of it is done either way.
        lasting: act at every call from there on.
        only: names of the calls that count; None for all.
    """

    def __init__(
        self,
        at: int | None = None,
        act: Callable[[str], object] = lambda _name: None,
        *,
        after: bool = False,
        lasting: bool = False,
        only: frozenset[str] | None = None,
    ) -> None:
        self.names: list[str] = []
        self.places: list[tuple[str, ...]] = []
        self._at = at
        self.act = act
        self._after = after
        self._lasting = lasting
        self._only = only
        self._lock = threading.Lock()

    def hit(self, name: str) -> bool:
        """Count a call; whether to act at it."""
        if self._only is not None and name not in self._only:
            return False
        with self._lock:
            number = len(self.names)
            self.names.append(name)
            if self._at is None:
                self.places.append((name, *_lines_of_vnp()))
        return self._at is not None and (number == self._at or (self._lasting and number > self._at))

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that counts."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            hit = self.hit(name)
            if hit and not self._after and name != "pwrite":
                self.act(name)
            if hit and name == "pwrite":
                descriptor, data, offset = args
                call(descriptor, bytes(data)[: len(data) // 2], offset)
                self.act(name)
            try:
                return call(*args, **kwargs)
            finally:
                if hit and self._after:
                    self.act(name)

        return counted

    @contextlib.contextmanager
    def watch(self) -> Iterator[Points]:
        """Count while the block runs."""
        with contextlib.ExitStack() as stack:
            for name in _CALLS:
                stack.enter_context(mock.patch.object(os, name, self.around(name, getattr(os, name))))
            stack.enter_context(mock.patch.object(os, "open", self._opening(os.open)))
            stack.enter_context(mock.patch.object(io, "open", self._writing(io.open)))
            for name in ("flush", "close"):
                counted = self.around(f"hdf5 {name}", getattr(h5py.File, name))
                stack.enter_context(mock.patch.object(h5py.File, name, counted))
            made = self.around("hdf5 create_dataset", h5py.Group.create_dataset)
            stack.enter_context(mock.patch.object(h5py.Group, "create_dataset", made))
            yield self

    def _opening(self, call: Callable[..., int]) -> Callable[..., int]:
        counted = self.around("open", call)

        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            return (counted if flags & _FOR_WRITING else call)(path, flags, *args, **kwargs)

        return opened

    def _writing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        make = self.around("create", _Raw)

        def opened(
            path: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: Any = None,
            errors: Any = None,
            newline: Any = None,
        ) -> Any:
            if not set(mode) & set("wxa+"):
                return call(path, mode, buffering, encoding, errors, newline)
            raw = make(path, mode.replace("b", "").replace("t", ""), self)
            if buffering == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        return opened


def _lines_of_vnp() -> Iterator[str]:
    """Which lines of the package led here."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back


class _Raw(io.FileIO):
    """A file whose writes count; one at which something happens is done by half."""

    def __init__(self, path: Any, mode: str, points: Points) -> None:
        super().__init__(path, mode)
        self._points = points
        self._name = "write of HDF5" if "+" in mode else "write"

    def write(self, data: Any) -> int:
        def half(piece: Any) -> int:
            return super(_Raw, self).write(piece)

        points = self._points
        if not points.hit(self._name):
            return half(data)
        half(bytes(data)[: len(data) // 2])
        points.act(self._name)
        return half(bytes(data)[len(data) // 2 :]) + len(data) // 2


def die(_name: str) -> None:
    """Be killed, here and now."""
    os.kill(os.getpid(), signal.SIGKILL)
    sys.exit("SIGKILL did not kill")
