"""May this be written here? Nothing is overwritten unasked, nothing that is read, and one writer works at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vnp.errors import RunExistsError, UsageError, storage_error

_NAMED = 3


def standing(paths: Iterable[Path]) -> list[Path]:
    """Those of some paths where a file is, or a folder that is not empty.

    Raises:
        StorageError: one of them cannot be looked at.
    """
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

    Args:
        paths: files and folders that will be written.
        force: what stands there may be overwritten.
        ours: what stands there is of this very work, and may go on.
        why: what is wrong with what stands there, for the message.
        remedy: what to do about it.

    Returns:
        What stands there all the same.

    Raises:
        RunExistsError: something stands there: ``FILES: WHY. REMEDY``.
        StorageError: a path cannot be looked at.
    """
    there = standing(paths)
    if there and not (force or ours):
        names = ", ".join(map(str, there[:_NAMED])) + (" …" if len(there) > _NAMED else "")
        raise RunExistsError(f"{names}: {why}. {remedy}")
    return there


def require_apart(inputs: Iterable[Path], outputs: Iterable[Path], remedy: str) -> None:
    """Make sure that no file is both read and written.

    Raises:
        UsageError: one is.
    """
    written = {path.resolve() for path in outputs}
    for path in inputs:
        if path.resolve() in written:
            raise UsageError(f"{path} is read, and would be written over: {remedy}")


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, where they are not there.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {folder}") from error


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes that do the same out of a folder meanwhile, where its file system can.

    Args:
        folder: that is there.
        what: is done, for the message: ``"fetch"``.

    Raises:
        UsageError: another one is at work.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor):
            raise UsageError(f"another {what} is at work in {folder}; wait for it")
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_with(path: Path, what: str) -> Iterator[None]:
    """The same for the files that are named after one, whose folder others may use; the folder is made.

    Args:
        path: the file that gives the others their names; the lock is ``.STEM.lock`` beside it.
        what: is done, for the message: ``"training"``.

    Raises:
        UsageError: another one is at work.
        StorageError: the folder cannot be made or written.
    """
    lock = path.with_name(f".{path.stem}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked_file(lock)
    except OSError as error:
        raise storage_error(error, f"writing {lock}") from error
    if descriptor is None:
        raise UsageError(f"another {what} is at work on {path}; wait for it, or choose another --out")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours; on a file system without locks two at once are not found out."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _locked_file(path: Path) -> int | None:
    """A descriptor of the file that holds its lock, or None where another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _lock(descriptor):
            os.close(descriptor)
            return None
        # Whoever had it before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
