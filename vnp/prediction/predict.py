"""Features and a classifier to everything that ``jobs.predict`` writes, and what stands where that goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vnp.classifier.checkpoint import Checkpoint
from vnp.errors import FeatureError, RunError, RunExistsError, storage_error
from vnp.export.export import require_pyarrow
from vnp.features.layout import make_layout
from vnp.files.claims import make_folder, standing
from vnp.files.durable import replacing
from vnp.files.hashing import file_sha256
from vnp.files.records import read_json, write_json
from vnp.prediction.options import CHOICES, OutputPaths, PredictOptions
from vnp.prediction.scores import read_scores, write_scores
from vnp.prediction.writing import SCHEMA, Progress, Writing

if TYPE_CHECKING:
    from vnp.features.read import Features
    from vnp.runs.planning.options import RunOptions


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was found."""

    paths: OutputPaths  # where
    summary: dict[str, Any]  # what ``predictions.json`` holds
    fresh: bool  # False if the same predictions were there already


def choose_options(
    path: Path, given: dict[str, Any], before: PredictOptions | None = None
) -> tuple[Checkpoint, PredictOptions]:
    """A classifier, and how to call by it."""
    checkpoint = Checkpoint.load(path)
    options = PredictOptions(
        checkpoint=str(path.absolute()),
        checkpoint_sha256=_sha256(path),
        layout="1664" if any(part.projection for part in checkpoint.layout.parts) else "full",
        threshold=checkpoint.threshold,
    )
    if before is not None:
        same = before.checkpoint_sha256 == options.checkpoint_sha256
        kept = [name for name in CHOICES if same or name != "threshold"]
        options = replace(options, **{name: getattr(before, name) for name in kept})
    options = replace(options, **{name: value for name, value in given.items() if value is not None})
    options.check()
    return checkpoint, options


def encoding_for(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a classifier decides about embedding; a half that it does not read is made by what costs least."""
    encoders = {part.name: part.encoder for part in checkpoint.layout.parts}
    protein = None if checkpoint.layout.rows == "chunks" else encoders.get("protein", "kmer")
    return {"chunk": checkpoint.chunk, "dna": encoders.get("dna", "kmer"), "protein": protein}


def require_fit(planned: RunOptions, checkpoint: Checkpoint, options: PredictOptions) -> None:
    """Make sure that what will be embedded is what the classifier reads, before anything is."""
    encoders = planned.encoders()
    native = {molecule: (choice.name, choice.width) for molecule, choice in encoders.items()}
    layout = make_layout(options.layout, dna=native["dna"], protein=native.get("protein"))
    if len(checkpoint.layout.parts) == 1:
        layout = layout.only(checkpoint.layout.parts[0].name)
    identities = {molecule: choice.identity for molecule, choice in encoders.items()}
    checkpoint.require(layout, identities, planned.chunk or 0, "this installation")


def require_free(
    paths: OutputPaths,
    options: PredictOptions,
    *,
    force: bool,
    other: str = "another --out",
    spared: Collection[Path] = (),
) -> None:
    """Make sure that predictions may be written.

    Args:
        paths: where.
        options: what is asked; a prediction of just that kind which did not come to its end may go on.
        force: they may replace others.
        other: what to do instead, for the message.
        spared: files that are no obstacle, because they will be deleted before.

    Raises:
        RunExistsError: there are some, or something that is no folder, or files of somebody else.
        StorageError: the folder cannot be looked at.
    """
    there = standing(path for path in paths.results() if path not in spared)
    if paths.root.exists() and not paths.root.is_dir():
        raise RunExistsError(f"{paths.root} is a file: use another --out")
    begun = None
    with suppress(RunError):
        begun = PredictOptions.read(paths.settings)
    if begun is None and paths.settings.exists():
        there.append(paths.settings)
    elif begun is not None and not paths.summary.exists():
        # Settings without a summary are left by a prediction that did not come to its end.
        there = [] if _same(asdict(begun), options) else [path for path in there if path != paths.scores]
    if there and not force:
        names = ", ".join(path.name for path in there[:4]) + (" …" if len(there) > 4 else "")
        raise RunExistsError(
            f"{paths.root} holds other predictions, or files of their names ({names}). Use {other}, or --force to "
            "write them anew"
        )


def claim(paths: OutputPaths, options: PredictOptions, run: str, *, force: bool, other: str) -> None:
    """Put the options where a run is, for what comes after its shards, and remove what other predictions left."""
    if finished(paths, options, run) is not None and not force:
        return
    left = paths.results() if force else left_by_others(paths, run)
    require_free(paths, options, force=force, other=other, spared=left)
    _remove(left)
    options.write(paths.settings)


def finished(paths: OutputPaths, options: PredictOptions, run: str) -> dict[str, Any] | None:
    """The summary of predictions of a run that are there and are just these, else None."""
    summary = _read_summary(paths)
    if summary is None or summary.get("run") != run or not _same(summary.get("settings"), options):
        return None
    files = summary.get("files", {})
    return summary if all(_size(paths.root / name) == size for name, size in files.items()) else None


def left_by_others(paths: OutputPaths, run: str) -> list[Path]:
    """Files of a finished prediction of another run than this, as its summary names them, the summary last."""
    summary = _read_summary(paths)
    if summary is None or summary.get("run") == run:
        return []
    # The summary goes last: while it is there, what is left is known as that prediction's.
    return [path for path in paths.results() if path.name in summary.get("files", {})] + [paths.summary]


def predict(
    features: Features,
    options: PredictOptions,
    out: Path,
    *,
    force: bool = False,
    device: str = "auto",
    progress: Progress = lambda _what, _rows: None,
) -> Predicted:
    """Score features, call records and write all tables, sequences and the report.

    Scores that stand beside the features, or in ``out``, are used if they are of the same rows and classifier.

    Args:
        features: of the run.
        options: what to do.
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
    options.check()
    checkpoint = _load_checkpoint(options)
    if len(checkpoint.layout.parts) == 1:
        features = features.only(checkpoint.layout.parts[0].name)
    checkpoint.require(features.layout, features.provenance.get("encoders", {}), features.chunk, str(features.path))
    paths = OutputPaths(out)
    there = finished(paths, options, features.run)
    if there is not None and not force:
        return Predicted(paths, there, fresh=False)
    require_free(paths, options, force=force)
    if options.parquet:
        require_pyarrow()
    make_folder(out)
    options.write(paths.settings)
    scores = _scores(features, options, checkpoint, paths, device, progress)
    # From here to the new summary nothing proves that the files belong together.
    _remove([paths.summary])
    summary = Writing(features, options, checkpoint, paths, progress).run(scores)
    _remove(path for path in paths.results() if path.name not in summary["files"] and path != paths.summary)
    write_json(paths.summary, summary)
    return Predicted(paths, summary, fresh=True)


def _load_checkpoint(options: PredictOptions) -> Checkpoint:
    path = Path(options.checkpoint)
    if _sha256(path) != options.checkpoint_sha256:
        raise FeatureError(
            "is another checkpoint than when the prediction was asked for: bring it back, or name it anew with "
            "--checkpoint",
            path=path,
        )
    return Checkpoint.load(path)


def _scores(
    features: Features,
    options: PredictOptions,
    checkpoint: Checkpoint,
    paths: OutputPaths,
    device: str,
    progress: Progress,
) -> np.ndarray:
    """Scores of all rows, from the disk if they are there."""
    for folder in (paths, OutputPaths(features.path.parent)):
        stored = _stored_scores(folder, features, options)
        if stored is not None:
            if folder.root.resolve() != paths.root.resolve():
                _remove([paths.summary, paths.scores])
            return stored
    _remove([paths.summary])
    with replacing(paths.scores) as temporary:
        write_scores(features, checkpoint.scorer(device), temporary, lambda rows: progress("scoring", rows))
    return read_scores(paths.scores, features.rows)


def _stored_scores(paths: OutputPaths, features: Features, options: PredictOptions) -> np.ndarray | None:
    """Scores of an earlier prediction, if it was of these rows by this classifier."""
    summary = _read_summary(paths) or {}
    of = (summary.get("run"), summary.get("settings", {}).get("checkpoint_sha256"))
    if of == (features.run, options.checkpoint_sha256):
        with suppress(FeatureError):
            return read_scores(paths.scores, features.rows)
    return None


def _same(stored: Any, options: PredictOptions) -> bool:
    """Whether options are those of a summary; a checkpoint is its content, wherever it lies."""
    return isinstance(stored, dict) and {**stored, "checkpoint": ""} == {**asdict(options), "checkpoint": ""}


def _read_summary(paths: OutputPaths) -> dict[str, Any] | None:
    try:
        summary = read_json(paths.summary)
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and summary.get("schema") == SCHEMA else None


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error


def _remove(paths: Iterable[Path]) -> None:
    """Delete files that may be gone already."""
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, f"deleting {error.filename}") from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
