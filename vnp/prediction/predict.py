"""Merged features and a classifier to everything that ``jobs.predict`` writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vnp.errors import FeatureError, RunError, RunExistsError, storage_error
from vnp.files.durable import replacing
from vnp.files.records import write_json
from vnp.prediction.options import OutputPaths, PredictOptions
from vnp.prediction.scores import read_scores, write_scores
from vnp.prediction.writing import SCHEMA, Progress, Writing
from vnp.runs.done.receipts import file_sha256

if TYPE_CHECKING:
    from vnp.classifier.checkpoint import Checkpoint
    from vnp.features.read import Features


def _silent(_what: str, _rows: int) -> None:
    return


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was found.

    Args:
        paths: where.
        summary: what ``predictions.json`` holds.
        fresh: False if the same predictions were there already.
    """

    paths: OutputPaths
    summary: dict[str, Any]
    fresh: bool


def checkpoint_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint's bytes.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error


def load_checkpoint(settings: PredictOptions) -> Checkpoint:
    """Read the classifier that the settings name.

    Raises:
        FeatureError: it is damaged, or no longer the one that was asked for.
        StorageError: it cannot be read.
    """
    from vnp.classifier.checkpoint import Checkpoint

    path = Path(settings.checkpoint)
    if checkpoint_sha256(path) != settings.checkpoint_sha256:
        raise FeatureError(
            "is another checkpoint than when the prediction was asked for: bring it back, or name it anew with "
            "--checkpoint",
            path=path,
        )
    return Checkpoint.load(path)


def require_free(
    paths: OutputPaths,
    settings: PredictOptions,
    *,
    force: bool,
    other: str = "another --out",
    spared: Collection[Path] = (),
) -> None:
    """Make sure that predictions may be written.

    Args:
        paths: where.
        settings: what is asked; a prediction of just that kind which did not come to its end may go on.
        force: they may replace others.
        other: what to do instead, for the message.
        spared: files that are no obstacle, because they will be deleted before.

    Raises:
        RunExistsError: there are some, or something that is no folder, or files of somebody else.
        StorageError: the folder cannot be looked at.
    """
    try:
        if paths.root.exists() and not paths.root.is_dir():
            raise RunExistsError(f"{paths.root} is a file: use another --out")
        there = [path for path in paths.results() if path.exists() and path not in spared]
        begun = _read_settings(paths)
        if begun is None and paths.settings.exists():
            there.append(paths.settings)
        elif begun is not None and not paths.summary.exists():
            # Settings without a summary are left by a prediction that did not come to its end.
            there = [] if _same(asdict(begun), settings) else [path for path in there if path != paths.scores]
    except OSError as error:
        raise storage_error(error, f"looking into {paths.root}") from error
    if there and not force:
        names = ", ".join(path.name for path in there[:4]) + (" …" if len(there) > 4 else "")
        raise RunExistsError(
            f"{paths.root} holds other predictions, or files of their names ({names}). Use {other}, or --force to "
            "write them anew"
        )


def finished(paths: OutputPaths, settings: PredictOptions, run: str) -> dict[str, Any] | None:
    """The summary of predictions that are there and are just these, else None.

    Args:
        paths: where to look.
        settings: what is asked.
        run: digest of the run that they should be of.
    """
    summary = _read_summary(paths)
    if summary is None or summary.get("run") != run or not _same(summary.get("settings"), settings):
        return None
    files = summary.get("files", {})
    whole = all(_size(paths.root / name) == size for name, size in files.items())
    return summary if whole else None


def left_by_others(paths: OutputPaths, run: str) -> list[Path]:
    """Files of a finished prediction of another run than this, as its summary names them, the summary last.

    Args:
        paths: where to look.
        run: digest of this run; empty if that is not known yet, and every run is another.
    """
    summary = _read_summary(paths)
    if summary is None or summary.get("run") == run:
        return []
    # The summary goes last: while it is there, what is left is known as that prediction's.
    return [path for path in paths.results() if path.name in summary.get("files", {})] + [paths.summary]


def remove(paths: Iterable[Path]) -> None:
    """Delete files that may be gone already.

    Raises:
        StorageError: one cannot be deleted.
    """
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, f"deleting {error.filename}") from error


def predict(
    features: Features,
    settings: PredictOptions,
    out: Path,
    *,
    force: bool = False,
    device: str = "auto",
    progress: Progress = _silent,
) -> Predicted:
    """Score features, call records and write all tables, sequences and the report.

    Scores that stand beside the features, or in ``out``, are used if they are of the same rows and classifier.

    Args:
        features: of the run.
        settings: what to do.
        out: folder of the results; the run itself, or another.
        force: write over what is there.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: told what is done.

    Raises:
        FeatureError: features and classifier do not fit, or one is damaged.
        RunExistsError: other predictions are there.
        InputError: an input has changed, so that called sequences cannot be written.
        StorageError: the disk is full or cannot be written.
    """
    settings.check()
    checkpoint = load_checkpoint(settings)
    if len(checkpoint.layout.parts) == 1:
        features = features.only(checkpoint.layout.parts[0].name)
    checkpoint.require(features.layout, features.provenance.get("encoders", {}), features.chunk, str(features.path))
    paths = OutputPaths(out)
    there = finished(paths, settings, features.run)
    if there is not None and not force:
        return Predicted(paths, there, fresh=False)
    require_free(paths, settings, force=force)
    if settings.parquet:
        from vnp.export.export import require_pyarrow

        require_pyarrow()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {out}") from error
    settings.write(paths.settings)
    scores = _scores(features, settings, checkpoint, paths, device, progress)
    # From here to the new summary nothing proves that the files belong together.
    remove([paths.summary])
    summary = Writing(features, settings, checkpoint, paths, progress).run(scores)
    remove([path for path in paths.results() if path.name not in summary["files"] and path != paths.summary])
    write_json(paths.summary, summary)
    return Predicted(paths, summary, fresh=True)


def _scores(
    features: Features,
    settings: PredictOptions,
    checkpoint: Checkpoint,
    paths: OutputPaths,
    device: str,
    progress: Progress,
) -> np.ndarray:
    """Scores of all rows, from the disk if they are there."""
    own = _stored_scores(paths, features, settings)
    if own is not None:
        return own
    beside = OutputPaths(features.path.parent)
    if beside.root.resolve() != paths.root.resolve():
        theirs = _stored_scores(beside, features, settings)
        if theirs is not None:
            remove([paths.summary, paths.scores])
            return theirs
    remove([paths.summary])
    with replacing(paths.scores) as temporary:
        write_scores(features, checkpoint.scorer(device), temporary, lambda rows: progress("scoring", rows))
    return read_scores(paths.scores, features.rows)


def _stored_scores(paths: OutputPaths, features: Features, settings: PredictOptions) -> np.ndarray | None:
    """Scores of an earlier prediction, if it was of these rows by this classifier."""
    summary = _read_summary(paths) or {}
    of = (summary.get("run"), summary.get("settings", {}).get("checkpoint_sha256"))
    if of == (features.run, settings.checkpoint_sha256):
        with suppress(FeatureError):
            return read_scores(paths.scores, features.rows)
    return None


def _same(stored: Any, settings: PredictOptions) -> bool:
    """Whether settings are those of a summary; a checkpoint is its content, wherever it lies."""
    return isinstance(stored, dict) and {**stored, "checkpoint": ""} == {**asdict(settings), "checkpoint": ""}


def _read_summary(paths: OutputPaths) -> dict[str, Any] | None:
    try:
        summary = json.loads(paths.summary.read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and summary.get("schema") == SCHEMA else None


def _read_settings(paths: OutputPaths) -> PredictOptions | None:
    try:
        return PredictOptions.read(paths.settings)
    except RunError:
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
