"""Signals that tell a task to end: what it does about them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType


@contextmanager
def noted(*numbers: signal.Signals, text: str = "") -> Iterator[Callable[[], bool]]:
    """Note signals instead of acting wherever they come: Python drops what is raised in a clean-up.

    Args:
        numbers: of the signals.
        text: what to say when one comes.

    Yields:
        A function that says whether one has come.
    """
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        if text:
            _write(number, text)

    with _handlers(numbers, note):
        yield lambda: bool(seen)


def stop_signals() -> AbstractContextManager[Callable[[], bool]]:
    """Note USR2 and TERM instead of dying of them; gives a function that says whether one has come."""
    return noted(signal.SIGUSR2, signal.SIGTERM, text="ending after this block")


@contextmanager
def end_when_told(code: int) -> Iterator[None]:
    """End at USR2 or TERM as a task that was asked to stop: what it writes is put aside and it begins again.

    Args:
        code: exit code of the process.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        _write(number, "ended before it was done; if that was the time limit, raise it")
        sys.exit(code)

    with _handlers((signal.SIGUSR2, signal.SIGTERM), end):
        yield


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Let Ctrl-C end the work at once, and further ones pass by, which would keep it from ending what it started.

    Raises:
        KeyboardInterrupt: at the first one.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        _write(number, "ending now")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    yield
    # Only where it ended well: after an interruption the process is left in peace until it is gone.
    signal.signal(signal.SIGINT, before)


@contextmanager
def interrupt_when_told() -> Iterator[None]:
    """Let TERM do what Ctrl-C does.

    Raises:
        KeyboardInterrupt: when either comes.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handlers((signal.SIGTERM,), end):
        yield


@contextmanager
def _handlers(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _write(number: int, text: str) -> None:
    # Not print: a signal may come in the middle of another one.
    os.write(2, f"{signal.Signals(number).name}: {text}\n".encode())
