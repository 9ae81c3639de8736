"""Progress: a bar on a terminal, a line of log every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from jobs._cli.command import echo

LOG_SECONDS = 30.0


def duration(seconds: float) -> str:
    """A length of time for people: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(count: int) -> str:
    """So many bytes for people: ``4.5 MB``, ``12 kB``."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


class Progress:
    """Shows how far something is; so many as ``scale`` says of the counted things make one unit."""

    def __init__(self, what: str, total: float | None, unit: str, scale: float = 1, *, lasting: bool = True) -> None:
        if unit == "MB" and total is not None and total < scale:
            unit, scale = "kB", scale / 1000
        self._what, self._total, self._unit, self._scale, self._lasting = what, total, unit, scale, lasting
        self._done = 0.0
        self._began = self._logged = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(f"{self._what:<12}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn(),
                console=Console(stderr=True), transient=not self._lasting, redirect_stdout=sys.stdout.isatty(),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, count=self._count())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: float) -> None:
        """Go on by so much."""
        self.to(self._done + amount)

    def to(self, done: float, note: str = "") -> None:
        """Say how much is done in all."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, count=self._count() + note)
        elif time.monotonic() - self._logged >= LOG_SECONDS:
            self._logged = time.monotonic()
            spent = duration(self._logged - self._began)
            echo(f"{self._what}: {self._count()}{note} after {spent}", err=True)

    def _count(self) -> str:
        done = f"{self._done / self._scale:,.0f}"
        return f"{done} of {self._total / self._scale:,.0f} {self._unit}" if self._total else f"{done} {self._unit}"
