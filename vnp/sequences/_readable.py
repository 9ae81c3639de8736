"""Whether a path is a file that can be read; loads nothing, so that a login node can look."""

from __future__ import annotations

import os
from pathlib import Path

from vnp.errors import InputError


def check_readable(path: Path) -> None:
    """Refuse what is not a file that can be read again.

    Raises:
        InputError: the path is missing, a folder, a pipe, or may not be read.
    """
    if not path.exists():
        hint = "the link points nowhere" if path.is_symlink() else "check the path"
        raise InputError(f"there is no such file; {hint}", path=path)
    if path.is_dir():
        raise InputError("is a folder; give the FASTA or FASTQ files in it", path=path)
    if not path.is_file():
        raise InputError("is not a regular file; inputs are read more than once, so save it to a file first", path=path)
    if not os.access(path, os.R_OK):
        raise InputError("may not be read; check its permissions", path=path)
