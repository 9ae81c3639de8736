"""Where compiled GPU kernels are kept, so that the tasks of an array compile them once between them."""

from __future__ import annotations

import os
from pathlib import Path

from vnp.runs.paths import RunPaths

VARIABLE = "TRITON_CACHE_DIR"


def share_kernels(run: RunPaths) -> Path | None:
    """Choose where Triton keeps compiled kernels, unless the user has, before anything is compiled.

    That is the user's cache, which on most clusters all nodes share and later runs find again; where it cannot be
    written, as in a container without a home, the run's own folder.

    Args:
        run: the run that is worked on.

    Returns:
        The folder; None where neither can be written: kernels then go where Triton puts them, or each task does
        without.
    """
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (home / "vnp" / "kernels", run.root / "kernels"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            os.environ[VARIABLE] = str(folder)
            return folder
    return None
