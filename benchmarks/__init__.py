"""Measurements that users do not need; not in the wheel. ``python -m benchmarks NAME`` runs one."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from vnp.errors import FeatureError, storage_error

P = ParamSpec("P")
T = TypeVar("T")

# Beyond what anyone waits for, and far below what numbers of eight bytes hold.
MOST = 1_000_000_000


def show(figures: Mapping[str, object], as_json: bool) -> None:
    """Print a table of two columns, or JSON."""
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    widest = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{widest}}  {_number(value):>12}")


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a folder below another one, which is removed in the end; a disk that fails is a user's error."""
    try:
        with tempfile.TemporaryDirectory(prefix="vnp-benchmark-", dir=folder) as place:
            yield Path(place)
    except OSError as error:
        raise storage_error(error, f"writing below {folder}") from error


def apart(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What a function gives in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(work, *given, **named).result()
        except BrokenProcessPool:
            raise FeatureError(f"the process of {work.__name__} ended without a result") from None


def processor_seconds(work: Callable[[], T]) -> tuple[T, float]:
    """What a function gives, and the processor seconds of this process: what others do on the machine counts little."""
    begun = time.process_time()
    return work(), time.process_time() - begun


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Cases:
    """What was measured so far: a line of JSON each, written at once; a case that fails is told and the next one runs.

    Args:
        lines: the file.
        say: told what goes on.
    """

    def __init__(self, lines: Path, say: Callable[[str], None]) -> None:
        self.found: list[dict[str, object]] = []
        self._lines, self._say = lines, say
        lines.write_text("", encoding="utf-8")

    def add(self, name: str, function: Callable[[], Mapping[str, object]]) -> Mapping[str, object]:
        """Run one; its figures, which are ``error`` alone where it failed."""
        self._say(f"{name} ...")
        began = time.perf_counter()
        try:
            figures = dict(function())
        except Exception as error:
            self._say(traceback.format_exc())
            figures = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        record = {"case": name, **figures, "seconds": round(time.perf_counter() - began, 1)}
        self.found.append(record)
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._say(json.dumps(record))
        return figures
