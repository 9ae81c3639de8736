"""Classifiers by the name that users give them, and how a task scores its rows by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.classifier import Classifier, RowScorer
from vnp.errors import FeatureError, storage_error
from vnp.features.layout import FeatureLayout
from vnp.features.scores import Scores
from vnp.files.hashing import file_sha256
from vnp.native.classifier import NativeClassifier, digest_of
from vnp.runs.request import NATIVE, ClassifierChoice, Request

if TYPE_CHECKING:
    from vnp.runs.making.encoders import RunEncoders
    from vnp.runs.making.pipeline import Scoring
    from vnp.runs.units import Prepared


def find_classifier(name: str) -> tuple[Classifier, str]:
    """A classifier, and the SHA-256 of what it is made of.

    Args:
        name: ``native``, the path of a checkpoint, or a folder of ``finetune``.

    Raises:
        FeatureError: the file is no checkpoint, or is damaged.
        WeightsError: the folder holds no network, or a damaged one.
        StorageError: it cannot be read.
    """
    path = Path(name)
    if name != NATIVE and not path.is_dir():
        return Checkpoint.load(path), _sha256(path)
    folder = None if name == NATIVE else path
    return NativeClassifier(folder), digest_of(folder)


def bring_back(choice: ClassifierChoice) -> Classifier:
    """The classifier that a run was planned with.

    Raises:
        FeatureError: another one lies there now.
    """
    classifier, sha256 = find_classifier(choice.name)
    if sha256 != choice.sha256:
        raise FeatureError(
            "is another checkpoint than when the prediction was asked for: bring it back, or predict anew with --force",
            path=choice.name,
        )
    return classifier


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error


def scoring_of(request: Request) -> Callable[[RunEncoders], Scoring] | None:
    """What gives rows their scores in the tasks of a run; None if it has no classifier."""
    choice = request.classifier
    if choice is None:
        return None
    return lambda _encoders: TaskScoring(bring_back(choice), request.device)


class TaskScoring:
    """Scores the rows of a block as they would be stored."""

    def __init__(self, classifier: Classifier, device: str) -> None:
        self._layout = classifier.layout
        self._scorer: RowScorer = classifier.scorer(device)

    def score(self, prepared: Prepared, arrays: Mapping[str, np.ndarray]) -> Scores:
        """Score a block."""
        rows = prepared.rows
        logits = self._scorer.logits(join_parts(self._layout, arrays))
        return Scores(rows.record, rows.chunk, rows.frame, rows.start, rows.end, logits)


def join_parts(layout: FeatureLayout, arrays: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n width"]:
    """Rows of a layout, of the arrays that shards hold."""
    parts = [arrays[part.source] for part in layout.parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
