"""What calls need of a classifier: one of ``train``, one of VirNucPro, or the native network's head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int64

from vnp.errors import FeatureError
from vnp.features.layout import FeatureLayout
from vnp.metrics.novelty import Novelty
from vnp.metrics.presets import Preset
from vnp.metrics.trust import HeldOut, Trust


class RowScorer(Protocol):
    """A classifier that is ready to score."""

    def logits(self, rows: Float[np.ndarray, "n width"]) -> Float32[np.ndarray, "n k"]:
        """A number for each kind and row; FeatureError where rows are of another width, or hold NaN or infinity."""

    def novelty(self, rows: Float[np.ndarray, "n width"]) -> Float16[np.ndarray, "n"]:
        """How far each row is from what the classifier was trained on; NaN where that was not kept."""


class Classifier(Protocol):
    """From rows to a probability of being viral, and what rows it reads."""

    @property
    def layout(self) -> FeatureLayout:
        """Columns of the rows that it reads, and whether a row is a frame or a chunk."""

    @property
    def encoders(self) -> Mapping[str, Mapping[str, Any]]:
        """Identity of the encoder of each part of the layout."""

    @property
    def chunk(self) -> int:
        """Bases of a chunk."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""

    @property
    def viral(self) -> tuple[str, ...]:
        """Those of the kinds that are viruses."""

    @property
    def rule(self) -> str:
        """How rows decide for their record, unless the user says otherwise; one of ``vnp.metrics.rules.RULES``."""

    @property
    def threshold(self) -> float:
        """Probability from which on a record is viral, where there are no presets."""

    @property
    def presets(self) -> Mapping[str, Preset]:
        """Thresholds by the names of ``vnp.metrics.presets``; there may be none."""

    @property
    def origin(self) -> str:
        """Where it comes from, in a word."""

    @property
    def calibrated(self) -> str:
        """How log-odds become a probability, in a word."""

    @property
    def balanced(self) -> bool:
        """Whether rates are told at the share of viruses that the records show, though nobody asks for it."""

    @property
    def trust(self) -> Trust:
        """How far its probabilities and calls can be trusted, as far as that was measured."""

    @property
    def held_out(self) -> list[HeldOut]:
        """How right it was on records that it was not trained on; empty where that was not kept."""

    @property
    def digest(self) -> str:
        """SHA-256 over its weights: two with the same one give the same logits."""

    def require(self, layout: FeatureLayout, encoders: Mapping[str, Mapping[str, Any]], chunk: int, where: str) -> None:
        """Make sure that rows are of the kind that it was trained on.

        ``encoders`` are identities of those that made the rows, by part; the message says ``where`` the rows belong.

        Raises:
            LayoutError: the columns are others; the message shows both.
            FeatureError: the encoders or the chunk are others; the message shows both.
        """

    def scorer(self, device: str = "auto") -> RowScorer:
        """Make it ready to score."""

    def probability(self, margin: Float64[np.ndarray, "n"], length: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """Calibrated probability of viral.

        ``margin`` is the log-odds of viral against all else, ``length`` the bases of what each speaks of.
        """


def distances(novelty: Novelty | None, rows: Float[np.ndarray, "n width"]) -> Float16[np.ndarray, "n"]:
    """What ``RowScorer.novelty`` gives."""
    return np.full(len(rows), np.nan, np.float16) if novelty is None else novelty.distance(rows)


_NOT_NUMERIC = {"precision"}
"""Parts of an encoder's identity that move its numbers less than a classifier can tell."""


def require_kind(
    classifier: Classifier, layout: FeatureLayout, encoders: Mapping[str, Mapping[str, Any]], chunk: int, where: str
) -> None:
    """What ``Classifier.require`` does, with its arguments."""
    classifier.layout.require(layout, here="the checkpoint was trained on", there=f"{where} has")
    if classifier.chunk != chunk:
        raise FeatureError(
            f"the checkpoint was trained on chunks of {classifier.chunk} bases, {where} has chunks of {chunk}. "
            f"Extract with --chunk {classifier.chunk}, or use a checkpoint for {chunk}"
        )
    for part, expected in classifier.encoders.items():
        given = encoders.get(part, {})
        differing = [key for key in expected if key not in _NOT_NUMERIC and given.get(key) != expected[key]]
        if differing:
            key = "name" if "name" in differing else differing[0]
            raise FeatureError(
                f"the {part} encoders differ.\n  the checkpoint was trained on {expected.get('name')} with {key} "
                f"{expected[key]!r}\n  {where} has {given.get('name')} with {key} {given.get(key)!r}"
            )


def margins(
    logits: Float[np.ndarray, "n k"], kinds: tuple[str, ...], viral: tuple[str, ...]
) -> Float64[np.ndarray, "n"]:
    """Log-odds of viral against all else: of the sums of the kinds of either, by the softmax of the logits."""
    is_viral = np.array([kind in viral for kind in kinds])
    wide = logits.astype(np.float64)
    found: Float64[np.ndarray, "n"] = _log_sum(wide[:, is_viral]) - _log_sum(wide[:, ~is_viral])
    return found


def _log_sum(values: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n"]:
    most: Float64[np.ndarray, "n"] = values.max(axis=1)
    if values.shape[1] > 1:
        most += np.log(np.exp(values - most[:, None]).sum(axis=1))
    return most
