"""May this be written here? Nothing is overwritten unasked, nothing that is read, and one writer works at a time."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vnp.errors import RunExistsError, UsageError, storage_error
from vnp.files.durable import here, process_start, remove_temporaries, require_unread, seconds_since, temporary_name
from vnp.files.records import read_json, write_json

BEAT_SECONDS = 20
"""How often a process that works gives a sign of life: it touches a file."""
SILENT_SECONDS = 180
"""After how long without a sign of life a process on another machine counts as dead."""
LOCKS = (".lock", ".owner")
"""How the names of files end that are locks, or name who holds one."""
_NAMED = 3


def standing(paths: Iterable[Path]) -> list[Path]:
    """Those of some paths where a file or a full folder is; ``StorageError`` where one cannot be looked at."""
    found = []
    for path in paths:
        try:
            if any(path.iterdir()) if path.is_dir() else path.exists():
                found.append(path)
        except OSError as error:
            raise storage_error(error, f"looking into {path}") from error
    return found


def require_free(
    paths: Iterable[Path],
    *,
    force: bool,
    ours: bool = False,
    why: str = "already there",
    remedy: str = "Choose another --out, or --force to write anew",
) -> list[Path]:
    """Make sure that nothing is overwritten unasked.

    With ``force`` what stands there may be overwritten; what is ``ours`` is of this very work, and may go on.

    Returns:
        What stands there all the same.

    Raises:
        UsageError: what stands there is read.
        RunExistsError: something stands there: ``FILES: WHY. REMEDY``.
        StorageError: a path cannot be looked at.
    """
    there = standing(paths)
    for path in there:
        require_unread(path)
    if there and not (force or ours):
        names = ", ".join(map(str, there[:_NAMED])) + (" …" if len(there) > _NAMED else "")
        raise RunExistsError(f"{names}: {why}. {remedy}")
    return there


def require_apart(inputs: Iterable[Path], outputs: Iterable[Path], remedy: str) -> None:
    """Make sure that no file is both read and written; else ``UsageError``."""
    written = {path.resolve() for path in outputs}
    for path in inputs:
        if path.resolve() in written:
            raise UsageError(f"{path} is read, and would be written over: {remedy}")


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, where they are not there; ``StorageError`` where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {folder}") from error


@contextlib.contextmanager
def alone(folder: Path, what: str, names: Iterable[str] = ()) -> Iterator[None]:
    """Keep other processes that do the same out of a folder meanwhile.

    By a lock, which a dead process cannot hold; on a file system that has none, by the file ``.WHAT.lock``, which names
    its owner and is touched while he lives.

    ``what`` is done, for the message: ``"fetch"``. What killed processes left of the files ``names`` under temporary
    names is removed.

    Raises:
        UsageError: another one is at work.
        StorageError: the folder cannot be opened or written.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise storage_error(error, f"opening {folder}") from error
    try:
        with _held(
            _lock(descriptor), folder / f".{what}.lock", f"another {what} is at work in {folder}", "wait for it"
        ):
            tidy(folder, names)
            yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_with(path: Path, what: str) -> Iterator[None]:
    """The same for the files that are named after one, whose folder others may use; the folder is made.

    The lock is ``.STEM.lock`` beside the file. What killed processes left of it under temporary names is removed.

    Raises:
        UsageError: another one is at work.
        StorageError: the folder cannot be made or written.
    """
    lock = path.with_name(f".{path.stem}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor, locked = _locked_file(lock)
    except OSError as error:
        raise storage_error(error, f"writing {lock}") from error
    try:
        busy = f"another {what} is at work on {path}"
        with _held(locked, lock.with_suffix(".owner"), busy, "wait for it, or choose another --out"):
            tidy(path.parent, [path.name])
            yield
    finally:
        if locked is not False:
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)
        os.close(descriptor)


def tidy(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes left, under temporary names, of files that are written in a folder; ``*`` is any."""
    # What cannot be removed does no harm.
    with contextlib.suppress(OSError):
        for name in names:
            remove_temporaries(folder, name if name == "*" else glob.escape(name))


@contextlib.contextmanager
def _held(locked: bool | None, owner_file: Path, busy: str, remedy: str) -> Iterator[None]:
    """Go on with a lock, or where there are no locks with a file that names its owner."""
    if locked is False:
        raise UsageError(f"{busy}; {remedy}")
    if locked:
        yield
        return
    pid = os.getpid()
    own = {"host": socket.gethostname(), "here": here(), "process": pid, "start": process_start(pid)}
    while True:
        try:
            write_json(owner_file, own, exclusive=True)
            break
        except FileExistsError:
            if (owner := _living_owner(owner_file)) is not None:
                raise UsageError(f"{busy} ({owner}); {remedy}") from None
    over = threading.Event()

    def keep_alive() -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(owner_file)

    beat = threading.Thread(target=keep_alive, daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        with contextlib.suppress(OSError, ValueError):
            if read_json(owner_file) == own:
                owner_file.unlink()


def _living_owner(path: Path) -> str | None:
    """Who holds a file of an owner; one that is dead is put aside, so that the file can be made anew."""
    owner = _owner(path)
    host, process = owner.get("host"), owner.get("process")
    if owner.get("here") == here() and isinstance(process, int):
        alive = process_start(process) == owner.get("start")
    else:
        alive = seconds_since(path) < SILENT_SECONDS
    if alive and path.exists():
        return f"process {process} on {host}"
    aside = temporary_name(path)
    with contextlib.suppress(OSError):
        path.rename(aside)
        # Somebody else found it dead too and has made his own meanwhile: back it goes.
        if _owner(aside) != owner:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
    return None


def _owner(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is ours; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _locked_file(path: Path) -> tuple[int, bool | None]:
    """A descriptor of a file, and whether its lock is ours."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if (locked := _lock(descriptor)) is not True:
            return descriptor, locked
        # Whoever had it before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor, True
        os.close(descriptor)
