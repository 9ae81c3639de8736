"""The command that runs Python inside an Apptainer image."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from jobs._profile import Resources


def python_command(wanted: Resources, paths: Sequence[Path]) -> str:
    """Shell text that starts the image's Python with everything in sight that a task needs.

    Args:
        wanted: with an ``image``.
        paths: files and folders of the run that must have the same path inside.
    """
    binds = [*dict.fromkeys(str(_folder(path)) for path in paths), *wanted.binds]
    gpu = ["--nv"] if wanted.gpus or wanted.gres else []
    words = ["apptainer", "exec", *gpu, *(word for bind in binds for word in ("--bind", bind)), wanted.image, "python"]
    return " ".join(shlex.quote(word) for word in words)


def _folder(path: Path) -> Path:
    """The folder to bind: the path itself, or the one that a file is in."""
    absolute = path.absolute()
    return absolute.parent if absolute.is_file() else absolute
