"""Loads the bundled network and scores records with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vnp.encoders.models.sixframe import AMBIGUOUS, base_codes
from vnp.encoders.spec import spec
from vnp.encoders.windows import SixFrameEncoder
from vnp.finetune.folder import Trained, read_folder
from vnp.finetune.measure import cut, kind_of, viral_logits

FOLDER = Path(__file__).parent
WEIGHTS_SHA256 = spec("sixframe").pins["model.safetensors"]
SHORTEST_RECORD = 100
"""Bases of the shortest record that is scored."""


def load_native() -> Trained:
    """Read the bundled network; each caller has its own, to put on its own device.

    Raises:
        WeightsError: a file is missing, damaged, or not the one that this version came with.
    """
    return read_folder(FOLDER, weights_sha256=WEIGHTS_SHA256)


@dataclass(frozen=True, slots=True, eq=False)
class RecordScores:
    """What is said of each record.

    Attributes:
        scored: whether anything is: not of records that are too short or all ambiguous.
        logit: the mean over its windows of the log-odds of virus against host; NaN where nothing is said.
        windows: how many there were.
        probability: that it is viral, where half of all records are; NaN where nothing is said.
        kind: the likeliest of ``KINDS`` by the mean of its windows' logits, among those of the likelier label; -1 where
            nothing is said.
    """

    scored: Bool[np.ndarray, " n"]
    logit: Float64[np.ndarray, " n"]
    windows: Int64[np.ndarray, " n"]
    probability: Float64[np.ndarray, " n"]
    kind: Int64[np.ndarray, " n"]


class RecordScorer:
    """Scores records of any length.

    Args:
        trained: the network; the bundled one where None.
        device: such as ``cpu`` or ``cuda``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """

    def __init__(self, trained: Trained | None = None, *, device: str = "cpu", precision: str = "fp32") -> None:
        self.trained = load_native() if trained is None else trained
        self.encoder = SixFrameEncoder(self.trained.network, device=device, precision=precision)

    def score(self, sequences: Sequence[str]) -> RecordScores:
        """Score records; each one's result depends on its own sequence alone.

        Args:
            sequences: DNA in letters of either case.
        """
        window = self.trained.window
        lengths = np.array([len(one) for one in sequences], np.int64)
        scored = np.array([_readable(one) for one in sequences], np.bool_)
        pieces: list[str] = []
        owner: list[int] = []
        for index in np.flatnonzero(scored).tolist():
            for start in cut(int(lengths[index]), window).tolist():
                pieces.append(sequences[index][start : start + window])
                owner.append(index)
        of = np.array(owner, np.int64)
        logits = self.encoder.logits(pieces)
        windows = np.bincount(of, minlength=len(sequences))
        share = np.where(scored, windows, np.nan)
        logit = np.bincount(of, weights=viral_logits(logits), minlength=len(sequences)) / share
        by_kind = np.zeros((len(sequences), logits.shape[1]))
        np.add.at(by_kind, of, logits)
        probability = np.full(len(sequences), np.nan)
        probability[scored] = self.trained.calibration.probability(logit[scored], lengths[scored])
        kind = np.where(scored, kind_of(by_kind.astype(np.float32), probability > 0.5), -1)
        return RecordScores(scored, logit, windows.astype(np.int64), probability, kind)


def _readable(sequence: str) -> bool:
    return len(sequence) >= SHORTEST_RECORD and bool((base_codes(sequence) != AMBIGUOUS).any())
