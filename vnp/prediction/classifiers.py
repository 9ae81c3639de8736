"""Classifiers by the name that users give them, and how a task scores its rows by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from vnp.native.classifier import NativeClassifier, WindowScorer, digest_of
from vnp.prediction.cascade import Settling
from vnp.runs.request import NATIVE, ClassifierChoice, PlannedInput, Request

if TYPE_CHECKING:
    from vnp.runs.making.encoders import Arithmetic, RunEncoders
    from vnp.runs.making.pipeline import Scoring
    from vnp.runs.units import Prepared, Settled, UnitBatch


def find_classifier(name: str) -> tuple[Classifier, str]:
    """A classifier, and the SHA-256 of what it is made of: ``native``, a checkpoint, or a folder of ``finetune``.

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
    """The classifier that a run was planned with; FeatureError where another one lies there now."""
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
    native = native_of(choice) if choice.native is not None else None
    return lambda encoders: TaskScoring(bring_back(choice), native, request, encoders.arithmetic)


class TaskScoring:
    """Scores the rows of a block as they would be stored."""

    def __init__(
        self,
        classifier: Classifier,
        native: NativeClassifier | None,
        request: Request,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        self._layout = classifier.layout
        self._scorer: RowScorer = classifier.scorer(request.device)
        self._native = native
        self._settling: Settling | None = None
        if native is None or request.classifier is None or request.beside is None:
            return
        # Which must be the same in all tasks, whatever else is left open.
        precision = "auto" if arithmetic is None else arithmetic.precision.get(NATIVE, "auto")
        self._windows = WindowScorer(native, request.device, precision, request.store)
        if request.classifier.cascade is not None:
            self._settling = Settling(request.classifier.cascade, native, self._windows, request.chunk, request.beside)

    def settle(self, units: Sequence[UnitBatch], inputs: Sequence[PlannedInput]) -> Settled | None:
        """Find what the native network settles of a block; None where nobody asks for it."""
        return None if self._settling is None else self._settling.settle(units, inputs)

    def score(self, prepared: Prepared, arrays: Mapping[str, np.ndarray]) -> Scores:
        """Score a block; where the native network scores chunks, its logits stand behind those of the rows."""
        rows, beside = prepared.rows, prepared.beside
        joined_parts = join_parts(self._layout, arrays)
        logits, novelty = self._scorer.logits(joined_parts), self._scorer.novelty(joined_parts)
        own = Scores(rows.record, rows.chunk, rows.frame, rows.start, rows.end, logits, novelty)
        if self._native is None or beside is None:
            return own
        kinds = len(self._native.kinds)
        of_chunks, far = np.zeros((0, kinds), np.float32), np.zeros(0, np.float16)
        if beside.dna:
            of_chunks, far = self._windows.score(beside.dna)
        frame = np.full(len(beside.dna), -1, np.int8)
        parts = [Scores(beside.record, beside.chunk, frame, beside.start, beside.end, of_chunks, far)]
        if prepared.settled is not None:
            parts.append(prepared.settled.windows)
        every = replace(own, logits=np.pad(logits, ((0, 0), (0, kinds))))
        for part in parts:
            every = every.followed_by(replace(part, logits=np.pad(part.logits, ((0, 0), (logits.shape[1], 0)))))
        return every.some(np.lexsort((every.frame, every.chunk, every.record)))


def native_of(choice: ClassifierChoice) -> NativeClassifier:
    """The native classifier that a run was planned with; FeatureError where the one of this version is another."""
    if digest_of(None) != choice.native:
        raise FeatureError("the native model of this vnp is another than that of the run: predict anew with --force")
    return NativeClassifier()


def join_parts(layout: FeatureLayout, arrays: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n width"]:
    """Rows of a layout, of the arrays that shards hold."""
    parts = [arrays[part.source] for part in layout.parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
