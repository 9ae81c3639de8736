"""The head of the native network as a classifier of rows that its body, the encoder ``sixframe``, makes of windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64

from vnp.classifier.cascade import Other
from vnp.classifier.checkpoint import in_batches
from vnp.classifier.classifier import distances, margins, require_kind
from vnp.encoders.device import choose_device
from vnp.encoders.models.sixframe import KINDS, VIRAL_KINDS
from vnp.encoders.registry import Encoder, describe, load
from vnp.encoders.spec import spec
from vnp.encoders.windows import SixFrameEncoder
from vnp.features.layout import FULL, FeatureLayout, make_layout
from vnp.files.hashing import file_sha256
from vnp.files.records import read_json
from vnp.finetune.folder import CONFIG, METRICS, Trained, read_folder
from vnp.metrics.rules import MEAN_LOGIT
from vnp.metrics.trust import HeldOut
from vnp.native.model import FOLDER, load_native
from vnp.runs.request import NATIVE

ENCODER = "sixframe"


class NativeClassifier:
    """A network of ``finetune``: the bundled one, or that of a folder.

    Args:
        folder: what ``finetune`` wrote; None for the bundled one.

    Raises:
        WeightsError: a file is missing, damaged, or not the one that this version came with.
    """

    rule = MEAN_LOGIT
    calibrated = "by length"
    threshold = 0.5
    balanced = True
    kinds = KINDS
    viral = KINDS[:VIRAL_KINDS]

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._trained: Trained = load_native() if folder is None else read_folder(folder)
        self.origin = NATIVE if folder is None else ENCODER
        self.chunk = self._trained.window
        self.digest = str(self._trained.config["weights_sha256"])
        self.presets = self._trained.presets
        self.trust = self._trained.trust

    @cached_property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """What its body is."""
        return {"dna": dict(describe(ENCODER, "dna", self.folder))}

    @property
    def held_out(self) -> list[HeldOut]:
        """How right it was on contigs of the test units, by their length."""
        try:
            measured = read_json((self.folder or FOLDER) / METRICS)["contigs"]
            spans = sorted((int(name.split("-")[0]), int(name.split("-")[1]), one) for name, one in measured.items())
            return [
                HeldOut(f"contigs of {low:,} to {high:,} bases", one["contigs"], one["accuracy"], one["ece"])
                for low, high, one in spans
                if one["accuracy"] is not None and one["ece"] is not None
            ]
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            # It is there for people, and no call depends on it.
            return []

    @property
    def layout(self) -> FeatureLayout:
        """Rows of windows, as the body gives them."""
        return make_layout(FULL, dna=(ENCODER, int(self._trained.config["width"])), protein=None)

    def require(self, layout: FeatureLayout, encoders: Mapping[str, Mapping[str, Any]], chunk: int, where: str) -> None:
        """Make sure that rows are those of its body, of windows no longer than it was trained on."""
        require_kind(self, layout, encoders, max(chunk, self.chunk), where)

    def windows(self, device: str = "auto") -> Callable[[Sequence[str]], Float32[np.ndarray, "n k"]]:
        """Make the whole network ready; what it gives are the logits of windows."""
        return SixFrameEncoder(self._trained.network, device=choose_device(device)).logits

    def scorer(self, device: str = "auto") -> HeadScorer:
        """Make its head ready."""
        return HeadScorer(self._trained, choose_device(device))

    def probability(self, margin: Float64[np.ndarray, "n"], length: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """Calibrated probability of mean log-odds of records or windows of these lengths."""
        return self._trained.calibration.probability(margin, length)


class WindowScorer:
    """The bundled network, ready to score windows of DNA as rows of theirs would be scored; threads may share it.

    The precision is that of its body; ``store`` is the dtype that rows have in between.
    """

    def __init__(self, classifier: NativeClassifier, device: str, precision: str = "auto", store: str = "float16"):
        self._classifier, self._device, self._precision, self._store = classifier, device, precision, store
        self._lock = Lock()
        self._loaded: tuple[Encoder, HeadScorer] | None = None

    def score(self, dna: Sequence[str]) -> tuple[Float32[np.ndarray, "n k"], Float16[np.ndarray, "n"]]:
        """Logits of the kinds, and how far each window is from what the network was trained on."""
        with self._lock:
            if self._loaded is None:
                # Only now: many inputs have no such window.
                encoder = load(ENCODER, molecule="dna", device=self._device, precision=self._precision)
                self._loaded = encoder, self._classifier.scorer(self._device)
            encoder, head = self._loaded
            rows = encoder.embed(dna).astype(self._store)
            return head.logits(rows), head.novelty(rows)


def other_of(device: str) -> Other:
    """The bundled network, as a training needs it to measure how it agrees with a checkpoint."""
    classifier = NativeClassifier()
    scorer = WindowScorer(classifier, device)

    def of(dna: Sequence[str]) -> Float64[np.ndarray, "w"]:
        return margins(scorer.score(dna)[0], classifier.kinds, classifier.viral)

    return Other(digest_of(None), classifier.chunk, spec(ENCODER, "dna").shortest, of)


class HeadScorer:
    """The head, ready to score rows."""

    def __init__(self, trained: Trained, device: torch.device) -> None:
        self._trust = trained.trust
        self._head = trained.network.head.to(device).eval()
        self._width = int(trained.config["width"])
        self._device = device

    def logits(self, rows: Float[np.ndarray, "n width"]) -> Float32[np.ndarray, "n k"]:
        """Logits of the kinds, of each row."""
        return in_batches(self._head, rows, self._width, self._device)

    def novelty(self, rows: Float[np.ndarray, "n width"]) -> Float16[np.ndarray, "n"]:
        """How far each row is from what the network was trained on; NaN where that was not kept."""
        return distances(self._trust.novelty, rows)


def digest_of(folder: Path | None) -> str:
    """SHA-256 of a configuration, which names that of the weights, the calibration and the presets."""
    return file_sha256((folder or FOLDER) / CONFIG)
