"""Which of several tasks makes which shard of a run: an attempt is the lease of its shard.

A task takes a shard that nobody works on, makes it, and takes another, until none is left; tasks may join at any time,
from any machine that sees the run. To take a shard is to write its next attempt, such as
``parts/shard-00007/attempt-00002.json``, which one task alone is first to do, also where another's file cannot be seen
yet. The file is touched while the task lives. Once its process is gone, on the same machine, or it was silent for
``SILENT_SECONDS`` by the file system's clock, anybody may write the attempt after it. An owner that was only suspended,
and wakes, does no harm: blocks are the same whoever makes them, each is written once, and the first receipt counts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from vnp.errors import StorageError, storage_error
from vnp.files.claims import SILENT_SECONDS
from vnp.files.durable import seconds_since
from vnp.runs.done.receipts import Announced, Attempt, read_attempts, sealed
from vnp.runs.request import Run

TRIES = 3
"""A shard is given up when so many tasks of one submission failed or died at the same block of it."""
_BAD = ("running", "failed")
_POLL_SECONDS = 5.0
_HAND_SECONDS = 0.05
_WATCHED = 16
_ERRORS = 3
_GOLDEN = 0.6180339887


class State(Enum):
    """What a shard is to a task that looks for work."""

    OVER = "done, or given up"
    OPEN = "nobody works on it"
    ORPHANED = "its last task failed, or is dead"
    HELD = "another task works on it"


class Leases:
    """The shards that one task takes, for ``make_shards``: iterating takes them, one at a time.

    A shard whose last task died comes after those that nobody has tried, so that one which kills tasks keeps no other
    from being made. Where others work on all that is left, the iteration ends once they have shown that they live.

    What tasks of a ``submission``, which were started together, failed to make is not tried again by them; the number
    of a ``task`` among them decides where it begins. It takes nothing more when it is asked to ``stop``, nor what would
    not be done ``until`` its time is up, in seconds since 1970.
    """

    def __init__(
        self,
        run: Run,
        submission: str,
        task: int = 0,
        *,
        log: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        until: float | None = None,
    ) -> None:
        self.run, self.submission, self.log = run, submission, log
        self.open_left = False  # it ended before its time, and there are shards that nobody works on
        self._stop, self._until = stop, until
        self._first = int(run.request.shards * ((zlib.crc32(submission.encode()) / 2**32 + task * _GOLDEN) % 1))
        self._taken: dict[int, Announced | StorageError] = {}
        self._had: set[int] = set()
        self._hand: list[Announced] = []  # what this task works on
        self._signs: dict[int, float] = {}  # the last sign of life from a shard's holder that this task does not count
        self._over = threading.Event()
        self._slowest = 0.0

    def announced(self, number: int) -> Announced:
        """The attempt on a shard that the iteration took; ``StorageError`` where it could not be written."""
        found = self._taken.pop(number)
        if isinstance(found, StorageError):
            raise found
        return found

    def close(self) -> None:
        """Take nothing more, and put back what was taken and not begun."""
        self._over.set()
        for number in list(self._taken):
            with contextlib.suppress(StorageError, KeyError):
                self.announced(number).end("stopped")

    def __iter__(self) -> Iterator[int]:
        count, errors = self.run.request.shards, 0
        rest = [(self._first + place) % count for place in range(count)]
        orphans = False
        while rest:
            held: list[int] = []
            took = False
            for place, number in enumerate(rest):
                if orphans:
                    # One at a time: what a task has in hand when it dies of another shard counts as tried too.
                    self._finish()
                if self._ending():
                    left = (*held, *rest[place:])
                    self.open_left = any(self._state(one) in (State.OPEN, State.ORPHANED) for one in left)
                    return
                state = self._take(number, orphans=orphans)
                if state is State.OPEN:
                    took, begun = True, time.monotonic()
                    errors = errors + 1 if isinstance(self._taken[number], StorageError) else 0
                    yield number
                    self._slowest = max(self._slowest, time.monotonic() - begun)
                    if errors >= _ERRORS:
                        # Nothing can be written: every other shard would only fail too.
                        return
                elif state is not State.OVER:
                    held.append(number)
            if orphans and not took:
                # Others watch the others.
                held = [number for number in held[:_WATCHED] if not self._heard_of(number)]
                if held:
                    self._over.wait(_POLL_SECONDS)
            else:
                self._signs.clear()
            orphans, rest = True, held

    def _finish(self) -> None:
        """Wait until nothing is in hand."""
        while self._hand and not (self._stop() or self._over.is_set()):
            self._hand = [one for one in self._hand if not one.ended()]
            if self._hand:
                self._over.wait(_HAND_SECONDS)

    def _ending(self) -> bool:
        if self._until is not None and self._had and time.time() + self._slowest > self._until:
            return True
        return self._stop() or self._over.is_set()

    def _take(self, number: int, *, orphans: bool) -> State:
        """Take a shard, where that can be; the state that it had."""
        try:
            # Before the look at who holds it: whoever comes between then has this number, and nobody else can.
            following = _last(self.run.paths.blocks(number)) + 1
            state = self._state(number)
            if state is State.ORPHANED and orphans:
                state = State.OPEN
            return self._announce(number, following) if state is State.OPEN else state
        except StorageError as error:
            found = error
        except OSError as error:
            found = storage_error(error, f"taking {self.run.paths.blocks(number)}")
        if number in self._had:
            return State.OVER
        self._had.add(number)
        self._taken[number] = found
        return State.OPEN

    def _announce(self, number: int, following: int) -> State:
        folder = self.run.paths.blocks(number)
        try:
            announced = Announced(folder, self.log, following, self.submission)
        except (FileExistsError, FileNotFoundError):
            # Another task was faster, or has sealed the shard and removed the folder.
            if folder.exists() and not folder.is_dir():
                raise
            return State.HELD
        # A mount may remember that there was no receipt; opening the folder has it ask.
        os.close(os.open(self.run.paths.receipts, os.O_RDONLY))
        if sealed(self.run, number) is not None:
            announced.end()
            shutil.rmtree(folder, ignore_errors=True)
            return State.OVER
        self._had.add(number)
        self._hand.append(announced)
        self._taken[number] = announced
        return State.OPEN

    def _state(self, number: int) -> State:
        if number in self._had or sealed(self.run, number) is not None:
            return State.OVER
        folder = self.run.paths.blocks(number)
        attempts = read_attempts(folder)
        if any(self._held(path, one) for path, one in attempts):
            return State.HELD
        ours = [one for _, one in attempts if one.submission == self.submission]
        blocks = len(list(folder.glob("block-*.h5"))) if ours else 0
        if sum(one.outcome in _BAD and one.had == blocks for one in ours) >= TRIES:
            return State.OVER
        return State.ORPHANED if attempts and attempts[-1][1].outcome in _BAD else State.OPEN

    @staticmethod
    def _held(path: Path, attempt: Attempt) -> bool:
        return attempt.outcome == "running" and not attempt.gone() and seconds_since(path) < SILENT_SECONDS

    def _heard_of(self, number: int) -> bool:
        """Whether the task that holds a shard has shown that it lives, since this task has nothing else to do."""
        attempts = read_attempts(self.run.paths.blocks(number))
        if any(one.outcome == "running" and one.here() and not one.gone() for _, one in attempts):
            return True
        signs = 0.0
        for path, _ in attempts:
            with contextlib.suppress(OSError):
                signs = max(signs, path.stat().st_mtime)
        return signs > self._signs.setdefault(number, signs)


def _last(folder: Path) -> int:
    """The largest number of an attempt, also of one that cannot be read; 0 without any."""
    numbers = [path.stem.removeprefix("attempt-") for path in folder.glob("attempt-*.json")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
