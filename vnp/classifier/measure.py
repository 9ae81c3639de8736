"""How good a trained classifier is on a part of its rows: metrics with intervals, and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int8, Int64

from vnp.features.read import Features
from vnp.metrics.metrics import aggregate, binary_metrics, bootstrap_intervals, chunk_keys, with_intervals
from vnp.report.plots import Series, write_training_plots

_NOT_PLOTTED = ("rate", "seconds")


def measure(
    features: Features,
    rows: Int64[np.ndarray, "m"],
    label: Int8[np.ndarray, "n"],
    group: Int64[np.ndarray, "n"],
    probability: Float64[np.ndarray, "m"],
    threshold: float,
    seed: int,
) -> dict[str, Any]:
    """Metrics of frames, of chunks, and of records, where the surest frame decides, with intervals over groups.

    Args:
        features: what the rows are of.
        rows: numbers of the rows to measure.
        label: 1 viral, 0 host, of all rows.
        group: number of the group of all rows.
        probability: calibrated, of the rows to measure.
        threshold: from this probability on a row is called viral.
        seed: of the bootstrap.
    """
    record = _column(features, "record")[rows]
    chunk = chunk_keys(record, _column(features, "chunk")[rows].astype(np.int32))
    measured = {"frame": (label[rows], probability, group[rows])}
    for level, key in (("chunk", chunk), ("record", record)):
        found = aggregate(probability, key)
        measured[level] = (label[rows][found.first], found.probability, group[rows][found.first])
    return {
        level: with_intervals(
            binary_metrics(truth, estimate, threshold),
            bootstrap_intervals(truth, estimate, groups, threshold=threshold, seed=seed),
        )
        for level, (truth, estimate, groups) in measured.items()
    }


def plot(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    parts: Mapping[str, tuple[Int8[np.ndarray, "m"], Float64[np.ndarray, "m"]]],
    threshold: float,
) -> list[Path]:
    """Plots of a training, as SVG files.

    Args:
        folder: made if it is not there.
        history: see ``Fitted``.
        parts: label and calibrated probability of the rows of each part, the most important first.
        threshold: of a viral call.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    shown = [
        {key: value for key, value in row.items() if key not in _NOT_PLOTTED and value is not None} for row in history
    ]
    series = [Series(name, label, probability) for name, (label, probability) in parts.items()]
    folder.mkdir(parents=True, exist_ok=True)
    return write_training_plots(folder, shown, series, threshold)


def _column(features: Features, name: str) -> Int64[np.ndarray, "n"]:
    return np.concatenate([*features.number_windows(name)]).astype(np.int64)
