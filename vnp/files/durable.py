"""Files that appear whole or not at all.

A file is written under a temporary name in its own folder, closed, flushed to the disk, and only then given its
name; the folder is flushed after it. Whatever happens before that leaves no file under a final name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from vnp.errors import UsageError, storage_error

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]*)-(?P<process>\d+)-[0-9a-f]{8}\.tmp")
_ABANDONED_SECONDS = 3600
# HDF5 names a file that it cannot open only in its message.
_OPENED_BY_HDF5 = re.compile(r"unable to open file: name = '(?P<name>.+)', errno = ")


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer uses: it carries the host, the process and a random part."""
    return path.with_name(f".{path.name}.{here()}-{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}")


def final_path(path: Path) -> Path:
    """The path that a temporary file would have been given in the end; any other path as it is."""
    parts = _TEMPORARY.fullmatch(path.name)
    return path if parts is None else path.with_name(parts["name"])


def here() -> str:
    """What ids of processes belong to: the machine, and where a container has ids of its own, that too."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = 0
    return f"{socket.gethostname().split('.')[0][:32]}-{space}"


def process_start(pid: int) -> str:
    """When a process began, in clock ticks since boot, which tells it from others of its id; nothing if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def sync_file(path: Path) -> None:
    """Flush a closed file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries; file systems that cannot do this for folders are left to their own ways."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


_PROTECTED: dict[tuple[int, int], Path] = {}


def protect(paths: Iterable[Path], *, anew: bool = False) -> None:
    """Note files that are read: nothing that this process writes takes the place of one, by whatever name or link.

    ``anew`` forgets those that were noted before.
    """
    if anew:
        _PROTECTED.clear()
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_file():
                _PROTECTED[_identity(path)] = path.absolute()


def require_unread(path: Path) -> None:
    """Make sure that what will be written here takes the place of nothing that is read; else ``UsageError``."""
    with contextlib.suppress(OSError):
        found = _identity(path)
        read = _PROTECTED.get(found)
        # Numbers of deleted files are given out again.
        if read is not None and _identity(read) == found:
            raise UsageError(f"{path} is read, and would be written over: choose another name or --out")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and put it in place of ``path`` if the block ends well.

    Yields:
        The temporary path to write to.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with _temporary(path) as temporary:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Put a text file in place of ``path``; ``StorageError`` where it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Like ``replacing``, but the first writer wins: a file that stands at ``path`` by then is left alone.

    Raises:
        FileExistsError: another writer was first. Its file is untouched and ours is gone.
        StorageError: the disk is full or cannot be written.
    """
    with _temporary(path) as temporary:
        yield temporary
        sync_file(temporary)
        _link(temporary, path)
        sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # A network file system can send a request again whose answer was lost: then the name is ours.
        if not temporary.samefile(path):
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here. What is left is a small window in which two writers can both replace; every file
        # made this way has the same bytes whoever writes it, or is checked by its reader.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "already there", str(path)) from error
        temporary.replace(path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    require_unread(path)
    temporary = temporary_name(path)
    try:
        yield temporary
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise storage_error(error, _other_file(error, path, temporary) or f"writing {path}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _other_file(error: OSError, path: Path, temporary: Path) -> str | None:
    """The file that an error speaks of, where that is not the one being written: what it is made of, say."""
    opened = _OPENED_BY_HDF5.search(str(error))
    name = opened["name"] if opened else error.filename
    if not isinstance(name, (str, bytes)):
        return None
    found = os.fsdecode(name)
    return None if Path(found) in (path, temporary, path.parent) else found


def remove_temporaries(folder: Path, name: str = "*") -> int:
    """Delete what killed writers left behind for files whose name matches ``name``; returns how many."""
    found = [path for path in folder.glob(f".{name}.*{_SUFFIX}") if _abandoned(path)]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


def _abandoned(path: Path) -> bool:
    """Whether no one writes a temporary file any more: on this machine its process tells, elsewhere its age."""
    parts = _TEMPORARY.fullmatch(path.name)
    if parts is not None and parts["host"] == here():
        return not Path("/proc", parts["process"]).exists()
    return seconds_since(path) > _ABANDONED_SECONDS


def seconds_since(path: Path) -> float:
    """Seconds since a file was last written or touched, by the clock of its file system: those of hosts differ.

    A file that is gone, or in a folder where nothing can be written, was touched this moment.
    """
    probe = temporary_name(path.with_name("clock"))
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            return os.fstat(descriptor).st_mtime - path.stat().st_mtime
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError:
        return 0.0
