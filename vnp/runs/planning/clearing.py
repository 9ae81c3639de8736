"""Making way for a new run: only files of a run are ever deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

from vnp.errors import RunExistsError, storage_error
from vnp.files.durable import final_path, remove_temporaries
from vnp.runs.making.attempts import read_attempts
from vnp.runs.paths import RunPaths


def clear(paths: RunPaths, *, force: bool) -> None:
    """Make way for a new run: only files of a run are ever deleted, and logs only by force.

    Raises:
        RunExistsError: a run, or something that is no run, stands there.
        StorageError: it cannot be deleted.
    """
    require_free(paths, force=force)
    # The plan goes last: while it is there, what is left of a run is known as one.
    results = [paths.request, paths.features, paths.skipped, paths.shards, paths.receipts, paths.parts]
    around = [paths.logs, paths.ask] if force else []
    try:
        for path in [*results, *around, paths.plan]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if paths.root.is_dir():
            remove_temporaries(paths.root)
    except OSError as error:
        raise storage_error(error, f"clearing {paths.root}") from error


def require_free(paths: RunPaths, *, force: bool) -> None:
    """Make sure that a new run may be made here; nothing is deleted yet.

    Raises:
        RunExistsError: a run, or something that is no run, stands there, or a task works there.
        StorageError: the folder cannot be looked at.
    """
    try:
        if not paths.root.exists():
            return
        if not paths.root.is_dir():
            raise RunExistsError(f"{paths.root} is a file: choose another --out")
        results = [paths.request, paths.features, paths.skipped, paths.shards, paths.receipts, paths.parts]
        begun = any(_holds_something(path) for path in results)
        # Planning that was killed can have left nothing but a temporary file.
        standing = {final_path(path) for path in paths.root.iterdir()}
        foreign = standing - {*results, paths.plan, paths.logs, paths.ask}
        is_run = any(path.exists() for path in (paths.request, paths.plan, paths.ask))
    except OSError as error:
        raise storage_error(error, f"looking into {paths.root}") from error
    if foreign and not is_run:
        raise RunExistsError(f"{paths.root} is not empty and is no run: choose another --out")
    if is_run:
        _require_nobody_at_work(paths)
    if begun and not force:
        raise RunExistsError(
            f"{paths.root} is not empty and holds no run that could go on. Choose another --out, or --force to "
            "delete what an earlier run left there"
        )


def _require_nobody_at_work(paths: RunPaths) -> None:
    for folder in sorted(paths.parts.iterdir()) if paths.parts.is_dir() else ():
        for path, found in read_attempts(folder):
            if found.alive(path):
                raise RunExistsError(
                    f"a task is at work on {folder.name} of {paths.root} (process {found.pid} on {found.host}): "
                    "end it first, or wait for it"
                )


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
