"""Works through files in processes of their own, one a file, so many at a time."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from vnp.errors import RunError, VnpError

Tell = Callable[[int], None]
_LOOK_SECONDS = 0.5
# Forked, so that what is large in memory, such as an index, is there without a copy.
_FORK = multiprocessing.get_context("fork")


def work_through(
    names: Sequence[str], work: Callable[[int, Tell], None], *, workers: int, progress: Tell = lambda _amount: None
) -> None:
    """Do pieces of work of these names, ``workers`` at a time; with 1 in this process.

    ``work`` does the piece of a number, and is given a function to tell its progress with.

    Raises:
        VnpError: what a piece of work raised, as soon as it does; what other processes were at is given up.
        RunError: a process died.
    """
    if workers == 1 or len(names) < 2:
        for number in range(len(names)):
            work(number, progress)
        return
    done = _FORK.Value(ctypes.c_int64, 0)
    told = 0
    waiting = list(range(len(names)))[::-1]
    running: dict[Connection, tuple[int, ForkProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop()
                ours, theirs = _FORK.Pipe(duplex=False)
                process = _FORK.Process(target=_child, args=(work, number, done, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = (number, process)
            for connection in wait(list(running), _LOOK_SECONDS):
                assert isinstance(connection, Connection)
                number, process = running.pop(connection)
                _collect(connection, process, names[number])
            now = int(done.value)
            progress(now - told)
            told = now
    finally:
        for connection, (_, process) in running.items():
            process.kill()
            process.join()
            connection.close()


def _child(work: Callable[[int, Tell], None], number: int, done: Any, answer: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(amount: int) -> None:
        with done.get_lock():
            done.value += amount

    error: BaseException | None = None
    try:
        work(number, tell)
    except (VnpError, OSError, MemoryError) as found:
        error = found
    answer.send(error)


def _end_with_parent() -> None:
    """End this process when its parent does, even by a signal that lets it do nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _collect(connection: Connection, process: ForkProcess, name: str) -> None:
    """Take a process's answer, and raise what it raised."""
    try:
        error = connection.recv()
    except EOFError:
        process.join()
        died = process.exitcode or 0
        how = f"was killed by signal {-died}" if died < 0 else f"ended with {died}"
        raise RunError(
            f"the process that worked on {name} {how}; if memory ran out, take fewer --workers. What is finished is "
            "kept: run the same command again"
        ) from None
    finally:
        connection.close()
    process.join()
    if error is not None:
        raise error
