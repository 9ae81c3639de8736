"""The user's own folders: of what can be made again, and of settings."""

from __future__ import annotations

import os
from pathlib import Path

from vnp.errors import StorageError


def cache_folder(part: str) -> Path:
    """Say where a part of what can be made again is kept: ``weights``, ``checked``, ``fp8``, ``kernels``.

    Returns:
        ``vnp/PART`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``; it may not be there yet.

    Raises:
        StorageError: the user has no home.
    """
    return _folder("XDG_CACHE_HOME", ".cache") / part


def settings_folder() -> Path:
    """Say where the user's settings are kept.

    Returns:
        ``$VNP_CONFIG``, else ``vnp`` in ``$XDG_CONFIG_HOME``, else in ``~/.config``; it may not be there yet.

    Raises:
        StorageError: the user has no home.
    """
    if os.environ.get("VNP_CONFIG"):
        return Path(os.environ["VNP_CONFIG"]).expanduser()
    return _folder("XDG_CONFIG_HOME", ".config")


def _folder(variable: str, name: str) -> Path:
    if os.environ.get(variable):
        return Path(os.environ[variable]) / "vnp"
    try:
        return Path.home() / name / "vnp"
    except RuntimeError as error:
        raise StorageError(f"there is no home folder for what vnp keeps; set {variable}") from error
