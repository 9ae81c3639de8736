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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from vnp.files.records import write_json

BEAT_SECONDS = 20
SILENT_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Attempt:
    """One task's work on one shard.

    Args:
        number: 1-based.
        host: name of the machine.
        pid: process id there.
        boot: identifies the process beyond its id: its start time in clock ticks since boot.
        job: Slurm or local job id, if any.
        log: path of its log, if known.
        started: UTC, ISO 8601.
        ended: UTC, ISO 8601, or None while it runs or if it was killed.
        outcome: ``running``, ``stopped`` (asked to stop, its blocks are safe), ``failed``, or ``left`` (another
            task had finished the shard).
        error: last line of what went wrong.
    """

    number: int
    host: str
    pid: int
    boot: str
    job: str | None
    log: str | None
    started: str
    ended: str | None = None
    outcome: str = "running"
    error: str | None = None

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


@contextlib.contextmanager
def attempt(folder: Path, log: str | None) -> Iterator[Attempt]:
    """Announce an attempt, keep it alive, and note how it ended.

    Args:
        folder: the shard's folder of blocks; made if it is missing.
        log: path of the task's log, if known.

    Yields:
        The attempt. An interruption is noted as a stop and errors as failures; both are passed on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    current, path = _announce(folder, log)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beat.start()
    try:
        yield current
    except (KeyboardInterrupt, GeneratorExit):
        # Ctrl-C, or the work was dropped between two steps: nothing is wrong with the shard.
        done.set()
        stopped(folder, current)
        raise
    except BaseException as error:
        done.set()
        message = (str(error).splitlines() or [""])[0]
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
        _note(path, replace(current, ended=now(), outcome="failed", error=text))
        raise
    finally:
        done.set()
        beat.join()


def stopped(folder: Path, current: Attempt) -> None:
    """Note that the attempt was asked to stop and did."""
    _note(folder / _name(current.number), replace(current, ended=now(), outcome="stopped"))


def read_attempts(folder: Path) -> list[tuple[Path, Attempt]]:
    """The attempts on a shard, oldest first; unreadable ones are left out."""
    found = []
    for path in sorted(folder.glob("attempt-*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append((path, Attempt(**json.loads(path.read_bytes()))))
    return found


def _announce(folder: Path, log: str | None) -> tuple[Attempt, Path]:
    number = len(list(folder.glob("attempt-*.json"))) + 1
    while True:
        path = folder / _name(number)
        current = Attempt(number, socket.gethostname(), os.getpid(), _process_start(os.getpid()), job_id(), log, now())
        try:
            write_json(path, asdict(current), exclusive=True)
        except FileExistsError:
            number += 1
        else:
            return current, path


def _name(number: int) -> str:
    return f"attempt-{number:05d}.json"


def _note(path: Path, ended: Attempt) -> None:
    # The folder is gone where another task sealed the shard; a full disk must not hide the first error.
    with contextlib.suppress(Exception):
        if path.exists():
            write_json(path, asdict(ended))


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
