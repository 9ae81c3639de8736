"""By what the mean log-odds of two mates should be multiplied before they are calibrated for the bases of both."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from vnp.encoders.models.sixframe import SixFrame
from vnp.finetune.calibration import LengthCalibration
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.genomes import TEST
from vnp.finetune.measure import draw, rows_of, viral_logits
from vnp.finetune.split import evidence_of
from vnp.metrics.metrics import binary_metrics

MATES = (100, 150, 250)
FACTORS = (1.0, 2**0.5, 2.0)
"""The mean as it is, what ``predict --pairs`` takes, and the sum."""
_BETWEEN = 100
_TRIED = np.linspace(0.8, 2.4, 81)


def mates_of(
    network: SixFrame, held: DeviceGenomes, mate: int, count: int
) -> tuple[Float64[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """Log-odds of both mates of fragments, 100 bases apart, and labels: of half of the test units."""
    chosen = (held.genomes.part == TEST) & ~evidence_of(held.genomes)
    size = 2 * mate + _BETWEEN
    pieces = draw(held, chosen & (held.genomes.lengths >= size), size, size, count, seed=31)
    start = np.stack((pieces.start, pieces.start + pieces.length - mate), axis=1).ravel()
    rows = rows_of(network, held, start, np.full(len(start), mate))
    with torch.inference_mode():
        logits = network.head(torch.from_numpy(rows).to(held.device)).float().cpu().numpy()
    return viral_logits(logits).astype(float).reshape(-1, 2), held.genomes.viral[pieces.record]


def best_factor(
    odds: Float64[np.ndarray, "n 2"], viral: Bool[np.ndarray, " n"], calibration: LengthCalibration, bases: int
) -> float:
    """The factor with the highest likelihood."""
    lost = [
        -np.log(np.maximum(np.where(viral, chance, 1 - chance), 1e-12)).mean()
        for chance in (_chance(odds, factor, calibration, bases) for factor in _TRIED)
    ]
    return float(_TRIED[int(np.argmin(lost))])


def pairs_table(found: dict[int, tuple[np.ndarray, np.ndarray]], calibration: LengthCalibration) -> str:
    """Accuracy and calibration error of each factor, as Markdown.

    Args:
        found: what ``mates_of`` gave for mates of so many bases.
        calibration: of windows.
    """
    lines = [
        "| bases of a mate | fragments | factor | right at one half | calibration error |",
        "|--:|--:|--:|--:|--:|",
    ]
    for mate, (odds, viral) in found.items():
        best = best_factor(odds, viral, calibration, 2 * mate)
        named = [*((factor, f"{factor:.2f}") for factor in FACTORS), (best, f"{best:.2f}, likeliest")]
        for factor, name in named:
            measured = binary_metrics(viral.astype(np.int8), _chance(odds, factor, calibration, 2 * mate)).values
            lines.append(f"| {mate} | {len(viral):,} | {name} | {measured['accuracy']:.3f} | {measured['ece']:.3f} |")
    return "\n".join(lines)


def _chance(
    odds: Float64[np.ndarray, "n 2"], factor: float, calibration: LengthCalibration, bases: int
) -> Float64[np.ndarray, " n"]:
    length: Int64[np.ndarray, " n"] = np.full(len(odds), bases)
    return calibration.probability(odds.mean(axis=1) * factor, length)
