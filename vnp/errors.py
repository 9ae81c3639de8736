"""Every error that vnp raises on purpose.

    VnpError                     1   something a person can mend; one message, no traceback
    ├── UsageError               2   the command line or the configuration asks for something impossible
    ├── InputError               1   a sequence file, samplesheet or record cannot be used
    │   └── ChangedInputError    1   an input is no longer the file that was planned
    ├── DownloadError            1   a server cannot be reached, or does not give what it should
    ├── EncoderError             1   an encoder cannot run here, or gave a value that is not finite
    │   └── WeightsError         1   weights are missing, damaged, not the pinned ones, or of another shape
    ├── FeatureError             1   numbers on disk do not fit what was asked of them
    │   └── LayoutError          1   two feature layouts differ
    ├── RunError                 1   a run directory cannot be used as asked
    │   ├── RunExistsError       2   something stands where the output should go
    │   ├── IncompleteRunError   3   shards are missing
    │   └── DamagedShardError    1   a shard or receipt is not what was written
    ├── StorageError             1   a disk is full or cannot be written
    └── MachineError             1   memory, threads, processes or open files ran out

The number is the exit code of a command that ends with it. A message says what is wrong, where (file, line
or record), and what to do about it.
"""

from __future__ import annotations

import errno
import os
import re
from typing import ClassVar

_NAME_AND_PASSWORD = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")


_LONGEST_LINE = 6_000
_LAST_LETTERS = 600


def _shortened(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    left_out = len(line) - _LONGEST_LINE
    first, last = line[: _LONGEST_LINE - _LAST_LETTERS], line[-_LAST_LETTERS:]
    return f"{first} … ({left_out:,} letters) … {last}"


def without_password(text: str) -> str:
    """A message without the names and passwords in its addresses: ``https://host`` for ``https://ada:secret@host``."""
    return _NAME_AND_PASSWORD.sub(r"\1", text)


class VnpError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
        message: what is wrong and what to do; of a line that holds half a file by mistake, the ends stay.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(map(_shortened, message.split("\n"))))


class UsageError(VnpError):
    """The command line or the configuration asks for something impossible."""

    exit_code = 2


class InputError(VnpError):
    """A sequence file, samplesheet or record cannot be used.

    Args:
        message: what is wrong and what to do.
        path: the file, put in front of the message.
        line: 1-based line in the (decompressed) file.
        record: name of the record.
    """

    def __init__(
        self, message: str, *, path: object = None, line: int | None = None, record: str | None = None
    ) -> None:
        self.path = None if path is None else str(path)
        self.line = line
        self.record = record
        place = self.path or ""
        if line is not None:
            place += f", line {line}" if place else f"line {line}"
        if record is not None:
            place += f", record {record!r}" if place else f"record {record!r}"
        super().__init__(f"{place}: {message}" if place else message)


class ChangedInputError(InputError):
    """An input is no longer the file that was planned."""


class DownloadError(VnpError):
    """A server cannot be reached, or does not give what it should."""


class EncoderError(VnpError):
    """An encoder cannot run here, or gave a value that is not finite."""


class WeightsError(EncoderError):
    """Weights are missing, damaged, not the pinned ones, or of another shape."""


class FeatureError(VnpError):
    """Numbers on disk do not fit what was asked of them.

    Args:
        message: what is wrong and what to do.
        path: the file that is at fault, put in front of the message.
    """

    def __init__(self, message: str, *, path: object = None) -> None:
        self.path = None if path is None else str(path)
        super().__init__(message if path is None else f"{path}: {message}")


class LayoutError(FeatureError):
    """Two feature layouts differ; the message names both."""


class RunError(VnpError):
    """A run directory cannot be used as asked."""


class RunExistsError(RunError):
    """Something stands where the output should go."""

    exit_code = 2


class IncompleteRunError(RunError):
    """Shards are missing; the message has the command that makes them."""

    exit_code = 3


class DamagedShardError(RunError):
    """A shard or receipt is not what was written."""


class StorageError(VnpError):
    """A disk is full or cannot be written."""


class MachineError(VnpError):
    """Memory, threads, processes or open files ran out."""


_STORAGE_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EIO: "the disk reported an input/output error",
    errno.EFBIG: "the file is too large for this file system",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ESTALE: "the network file system has lost it",
}
_LACKS = {
    errno.ENOMEM: "memory",
    errno.EMFILE: "open files (ulimit -n)",
    errno.ENFILE: "open files of the whole machine",
    errno.EAGAIN: "processes or threads (ulimit -u, or the limit of a container or job)",
}
_MEMORY = "not enough memory: free some or ask for more, or take less at once, as by a smaller --token-budget"
# What libraries say when memory runs out, in errors of their own; lower case.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc")
_NO_THREAD = ("can't start new thread", "resource temporarily unavailable", "thread creation failed")


def storage_error(error: OSError, doing: str) -> StorageError:
    """Turn an operating-system error into a message for people.

    Args:
        error: what the system said.
        doing: what was being done, such as ``"writing shards/shard-00003.h5"``.

    Returns:
        An error to raise ``from error``.
    """
    reason = _STORAGE_REASONS.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"{doing}: {reason}")


def machine_error(error: BaseException) -> VnpError | None:
    """What the machine lacks, where that is what an error of Python, torch, HDF5 or the system says.

    Args:
        error: any that came up.

    Returns:
        An error to show in its place; None where it is another one, and so a fault of vnp's own.
    """
    text = _said(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MachineError(_MEMORY)
    if isinstance(error, RecursionError):
        return VnpError("something that this reads is nested too deeply; nobody writes such files by accident")
    if type(error).__name__ == "BrokenProcessPool":
        return MachineError("a process that helped was killed, most likely because memory ran out: ask for more memory")
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_working_directory():
        return StorageError("the working directory was deleted: go to one that is there (cd), and begin again")
    if isinstance(error, RuntimeError) and text.startswith("symlink loop"):
        return StorageError(f"{str(error).splitlines()[0]}: the link leads to itself")
    if isinstance(error, OSError) and error.errno in _LACKS:
        return MachineError(f"no more {_LACKS[error.errno]}: raise the limit, or end what else runs")
    if isinstance(error, OSError) and error.errno is not None:
        return None
    # What the interpreter says of a library that could not get memory, and does not say so itself.
    if isinstance(error, SystemError) and "without" in text and "exception" in text:
        return MachineError(_MEMORY)
    if isinstance(error, (RuntimeError, OSError, ImportError)):
        if any(words in text for words in _OUT_OF_MEMORY) or "failed to map segment" in text:
            return MachineError(_MEMORY)
        if any(words in text for words in _NO_THREAD):
            return MachineError(
                f"no more {_LACKS[errno.EAGAIN]}: raise the limit, or take fewer threads with OMP_NUM_THREADS=1"
            )
    return None


def one_line(error: BaseException) -> str:
    """The kind of an error and its first line, or those of what the machine lacks."""
    error = machine_error(error) or error
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _said(error: BaseException | None) -> str:
    """The words of an error and of what caused it: libraries hide the system's behind their own."""
    return "" if error is None else f"{error}\n{_said(error.__cause__)}"


def _has_working_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - its Path says the same
    except OSError:
        return False
    return True
