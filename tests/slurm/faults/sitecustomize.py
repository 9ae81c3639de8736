"""Faults for tasks of a test: found on PYTHONPATH by every Python that a job starts, so that the product has no hooks.

In the folder $FAULTS, a file ``3.1.kill`` makes the task that is about to write block 1 of shard 3 kill itself. It is
taken away by that, so that the next task succeeds; ``3.1.kill.always`` stays. What can be done: ``raise``, ``exit``,
``kill``; ``memory``, which takes 300 MB more for some seconds; ``node``, which kills on the node that a file ``bad``
names; ``hold``, which waits until there is a file ``3.1.go``; ``told``, which waits until the task is asked to stop.
A task that waits says so with ``3.1.held``.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_TARGET = "vnp.runs.making.pipeline"
_LONGEST = 300.0


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the target be found as usual, and changes it once it is loaded."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name != _TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _change(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _change(module: Any) -> None:
    write = module._Pipeline._write

    def faulty(self: Any, shard: Any, block: Any, *rest: Any) -> Any:
        _look(Path(os.environ["FAULTS"]), f"{shard.number}.{block.number}", self.stop)
        return write(self, shard, block, *rest)

    module._Pipeline._write = faulty


def _look(folder: Path, place: str, asked_to_stop: Callable[[], bool]) -> None:
    for path in sorted(folder.glob(f"{place}.*")):
        what, *rest = path.name.removeprefix(f"{place}.").split(".")
        if what not in _FAULTS:
            continue
        if rest != ["always"]:
            try:
                path.rename(path.with_name(f"taken.{path.name}.{os.getpid()}"))
            except FileNotFoundError:
                continue
        _FAULTS[what](folder, place, asked_to_stop)


def _raise(_folder: Path, place: str, _asked: Callable[[], bool]) -> None:
    raise RuntimeError(f"a fault at {place}")


def _exit(_folder: Path, _place: str, _asked: Callable[[], bool]) -> None:
    os._exit(1)


def _kill(_folder: Path, place: str, _asked: Callable[[], bool]) -> None:
    os.write(2, f"about to be killed at {place}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _memory(_folder: Path, _place: str, _asked: Callable[[], bool]) -> None:
    taken = b"x" * 300_000_000
    time.sleep(4)
    del taken


def _node(folder: Path, place: str, asked: Callable[[], bool]) -> None:
    bad = folder / "bad"
    # The first task makes its node the bad one.
    with contextlib.suppress(FileExistsError), bad.open("x") as file:
        file.write(os.environ["SLURMD_NODENAME"])
    if bad.read_text() in ("", os.environ["SLURMD_NODENAME"]):
        _kill(folder, place, asked)


def _hold(folder: Path, place: str, _asked: Callable[[], bool]) -> None:
    _wait(folder, place, (folder / f"{place}.go").exists)


def _told(folder: Path, place: str, asked_to_stop: Callable[[], bool]) -> None:
    """Until the task has noted that it is to stop: blocks are written in a thread, which gets no signals itself."""
    _wait(folder, place, asked_to_stop)


def _wait(folder: Path, place: str, ready: Callable[[], bool]) -> None:
    (folder / f"{place}.held").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    deadline = time.monotonic() + _LONGEST
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.05)


_FAULTS = {
    "raise": _raise,
    "exit": _exit,
    "kill": _kill,
    "memory": _memory,
    "node": _node,
    "hold": _hold,
    "told": _told,
}

if os.environ.get("FAULTS"):
    sys.meta_path.insert(0, _Finder())
