"""Standard input as a file: inputs are read more than once, by other processes and on other machines."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from vnp.errors import InputError, UsageError, storage_error
from vnp.files.claims import make_folder
from vnp.files.durable import sync_file, sync_folder, temporary_name

_PIECE = 1 << 20


def spool(folder: Path) -> Path:
    """Write standard input to a file that is called after its SHA-256, so that the same bytes are the same input.

    Raises:
        UsageError: it is a terminal.
        InputError: it is empty.
        StorageError: the disk is full or cannot be written; nothing of it stays.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is a terminal or closed: give files, or pipe sequences in")
    make_folder(folder)
    temporary = temporary_name(folder / "stdin")
    found = hashlib.sha256()
    try:
        with temporary.open("xb") as file:
            while piece := sys.stdin.buffer.read(_PIECE):
                found.update(piece)
                file.write(piece)
            size = file.tell()
        if not size:
            raise InputError("standard input is empty")
        path = folder / f"stdin-{found.hexdigest()[:16]}"
        sync_file(temporary)
        os.replace(temporary, path)  # noqa: PTH105  the same bytes under the same name
        sync_folder(folder)
    except OSError as error:
        raise storage_error(error, f"writing standard input to {folder}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
