"""Attempts: who works or worked on an unfinished shard, so that status can tell a running task from a dead one.

An attempt decides nothing: a shard is done by its receipt alone. It is a small file beside the shard's blocks, made
when a task starts, touched while it lives, and completed with how it ended where it could still say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vnp.files.records import from_json, write_record

BEAT_SECONDS = 20
SILENT_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Attempt:
    """One task's work on one shard."""

    number: int  # 1-based
    host: str  # name of the machine
    pid: int  # process id there
    boot: str  # identifies the process beyond its id: its start time in clock ticks since boot
    job: str | None  # Slurm or local job id, if any
    log: str | None  # path of its log, if known
    started: str  # UTC, ISO 8601
    ended: str | None = None  # UTC, ISO 8601, or None while it runs or if it was killed
    # ``running``, ``stopped`` (asked to stop, its blocks are safe), ``failed``, or ``left`` (another task had finished
    # the shard)
    outcome: str = "running"
    error: str | None = None  # last line of what went wrong

    def alive(self, path: Path) -> bool:
        """Whether the task still runs: by its process on this machine, by its last sign of life elsewhere."""
        if self.outcome != "running":
            return False
        if self.host == socket.gethostname():
            return _process_start(self.pid) == self.boot
        try:
            return time.time() - path.stat().st_mtime < SILENT_SECONDS
        except OSError:
            return False


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def job_id() -> str | None:
    """The id of the job that this process runs in, as ``squeue`` shows it, or submitit's local id."""
    environment = os.environ
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
    return environment.get("SLURM_JOB_ID") or environment.get("SUBMITIT_LOCAL_JOB_ID")


class Announced:
    """An attempt of this process: announced by its file, kept alive, and completed with how it ended.

    Args:
        folder: the shard's folder of blocks; made if it is missing.
        log: path of the task's log, if known.
    """

    def __init__(self, folder: Path, log: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.attempt, self._path = _announce(folder, log)
        self._over = threading.Event()
        self._beat = threading.Thread(target=_beat, args=(self._path, self._over), daemon=True)
        self._beat.start()

    def end(self, outcome: str | None = None, error: str | None = None) -> None:
        """End it, and note how; the first word counts, and of a shard that is done there is nothing to say."""
        if self._over.is_set():
            return
        self._over.set()
        self._beat.join()
        # The folder is gone where another task sealed the shard; a full disk must not hide the first error.
        with contextlib.suppress(Exception):
            if outcome is not None and self._path.exists():
                write_record(self._path, replace(self.attempt, ended=now(), outcome=outcome, error=error))

    def fail(self, error: BaseException) -> None:
        """Note an error; an interruption is a stop, for nothing is wrong with the shard."""
        if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            self.end("stopped")
            return
        message = (str(error).splitlines() or [""])[0]
        self.end("failed", f"{type(error).__name__}: {message}" if message else type(error).__name__)


def read_attempts(folder: Path) -> list[tuple[Path, Attempt]]:
    """The attempts on a shard, oldest first; unreadable ones are left out."""
    found = []
    for path in sorted(folder.glob("attempt-*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append((path, from_json(Attempt, json.loads(path.read_bytes()))))
    return found


def _announce(folder: Path, log: str | None) -> tuple[Attempt, Path]:
    number = len(list(folder.glob("attempt-*.json"))) + 1
    while True:
        path = folder / _name(number)
        current = Attempt(number, socket.gethostname(), os.getpid(), _process_start(os.getpid()), job_id(), log, now())
        try:
            write_record(path, current, exclusive=True)
        except FileExistsError:
            number += 1
        else:
            return current, path


def _name(number: int) -> str:
    return f"attempt-{number:05d}.json"


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, or nothing if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
