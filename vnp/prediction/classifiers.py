"""Classifiers by the name that users give them, and how a task scores its rows by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float16, Float32

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.classifier import Classifier, RowScorer
from vnp.encoders.registry import Encoder, load
from vnp.errors import FeatureError, storage_error
from vnp.features.layout import FeatureLayout
from vnp.features.scores import Scores
from vnp.files.hashing import file_sha256
from vnp.native.classifier import ENCODER, NativeClassifier, digest_of
from vnp.runs.request import NATIVE, ClassifierChoice, Request

if TYPE_CHECKING:
    from vnp.runs.making.encoders import Arithmetic, RunEncoders
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
        self._request = request
        # Which must be the same in all tasks, whatever else is left open.
        self._precision = "auto" if arithmetic is None else arithmetic.precision.get(NATIVE, "auto")
        self._beside: tuple[Encoder, RowScorer] | None = None

    def score(self, prepared: Prepared, arrays: Mapping[str, np.ndarray]) -> Scores:
        """Score a block; where the native network scores chunks, its logits stand behind those of the rows."""
        rows, beside = prepared.rows, prepared.beside
        joined_parts = join_parts(self._layout, arrays)
        logits, novelty = self._scorer.logits(joined_parts), self._scorer.novelty(joined_parts)
        own = Scores(rows.record, rows.chunk, rows.frame, rows.start, rows.end, logits, novelty)
        if self._native is None or beside is None:
            return own
        width = logits.shape[1]
        joined = np.zeros((len(own) + len(beside.dna), width + len(self._native.kinds)), np.float32)
        joined[: len(own), :width] = logits
        far = np.zeros(0, np.float16)
        if beside.dna:
            joined[len(own) :, width:], far = self._of_chunks(self._native, beside.dna)
        frame = np.full(len(beside.dna), -1, np.int8)
        columns = [
            np.concatenate(both)
            for both in (
                (rows.record, beside.record), (rows.chunk, beside.chunk), (rows.frame, frame),
                (rows.start, beside.start), (rows.end, beside.end), (novelty, far),
            )
        ]  # fmt: skip
        order = np.lexsort((columns[2], columns[1], columns[0]))
        record, chunk, frames, start, end, distance = (column[order] for column in columns)
        return Scores(record, chunk, frames, start, end, joined[order], distance)

    def _of_chunks(
        self, native: NativeClassifier, dna: list[str]
    ) -> tuple[Float32[np.ndarray, "c k"], Float16[np.ndarray, "c"]]:
        if self._beside is None:
            # Only now: many inputs have no such chunk.
            device = self._request.device
            self._beside = (
                load(ENCODER, molecule="dna", device=device, precision=self._precision),
                native.scorer(device),
            )
        encoder, head = self._beside
        rows = encoder.embed(dna).astype(self._request.store)
        return head.logits(rows), head.novelty(rows)


def native_of(choice: ClassifierChoice) -> NativeClassifier:
    """The native classifier that a run was planned with.

    Raises:
        FeatureError: the one of this version is another.
    """
    if digest_of(None) != choice.native:
        raise FeatureError("the native model of this vnp is another than that of the run: predict anew with --force")
    return NativeClassifier()


def join_parts(layout: FeatureLayout, arrays: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n width"]:
    """Rows of a layout, of the arrays that shards hold."""
    parts = [arrays[part.source] for part in layout.parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
