"""Pieces of work in processes of their own, which end with this one, and whose errors are raised here."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from vnp.errors import RunError, VnpError, machine_error

Report = Callable[[int | str], None]
"""Given how much was done since the last call, or a line for people."""
_LOOK_SECONDS = 0.5


def work_through(
    names: Sequence[str],
    work: Callable[[int, Report], None],
    *,
    workers: int,
    remedy: str,
    fresh: bool = False,
    progress: Callable[[int], None] = lambda _amount: None,
    say: Callable[[str], None] = lambda _line: None,
) -> None:
    """Do pieces of work of these names, ``workers`` at a time; with 1 in this process.

    Args:
        names: what each piece is called in a message.
        work: does the piece of a number, and is given a function to report by.
        workers: processes.
        remedy: what to do where a process was killed.
        fresh: processes begin anew, as those that use a GPU must, and ``work`` is pickled. Else they are forks, which
            have what is large in memory, such as an index, without a copy.
        progress: told how much was done.
        say: told lines.

    Raises:
        VnpError: what a piece of work raised, as soon as it does; what other processes were at is given up.
        RunError: a process died.
    """

    def report(what: int | str) -> None:
        say(what) if isinstance(what, str) else progress(what)

    if workers == 1 or len(names) < 2:
        for number in range(len(names)):
            work(number, report)
        return
    context: Any = multiprocessing.get_context("spawn" if fresh else "fork")
    done = context.Value(ctypes.c_int64, 0)
    told = 0
    waiting = list(range(len(names)))[::-1]
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(work, number, done, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = (number, process)
            for connection in wait(list(running), _LOOK_SECONDS):
                assert isinstance(connection, Connection)
                number, process = running[connection]
                answer = _receive(connection, process, names[number], remedy)
                if isinstance(answer, str):
                    say(answer)
                    continue
                del running[connection]
                connection.close()
                process.join()
                if answer is not None:
                    raise answer
            now = int(done.value)
            progress(now - told)
            told = now
    finally:
        for connection, (_, process) in running.items():
            process.kill()
            process.join()
            connection.close()


def _child(work: Callable[[int, Report], None], number: int, done: Any, answer: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(what: int | str) -> None:
        if isinstance(what, str):
            answer.send(what)
            return
        with done.get_lock():
            done.value += what

    error: BaseException | None = None
    try:
        work(number, report)
    except (VnpError, OSError, MemoryError) as found:
        error = found
    except RuntimeError as found:
        error = machine_error(found)
        if error is None:
            raise
    answer.send(error)


def _end_with_parent() -> None:
    """End this process when its parent does, even by a signal that lets it do nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _receive(connection: Connection, process: BaseProcess, name: str, remedy: str) -> str | BaseException | None:
    """What a process says next: a line, or in the end its error or None."""
    try:
        answer: str | BaseException | None = connection.recv()
    except EOFError:
        process.join()
        died = process.exitcode or 0
        how = f"was killed by signal {-died}" if died < 0 else f"ended with {died}"
        raise RunError(f"the process that worked on {name} {how}; {remedy}") from None
    return answer
