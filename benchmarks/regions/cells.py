"""What windows and genes of 1,000 bases say for a virus: the weights of ``vnp.prediction.stretches``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from benchmarks.regions.genomes import Genome, plant
from vnp.classifier.classifier import margins
from vnp.files.durable import replacing
from vnp.finetune.genomes import TEST, VALIDATION, Genomes, within
from vnp.native.classifier import NativeClassifier
from vnp.prediction.genes import find_genes
from vnp.prediction.regions import Score, log_odds
from vnp.prediction.stretches import CELL, WINDOW, Track

_RUN, _LEAST = 5_000, 300
_LETTERS = bytes.maketrans(bytes(range(5)), b"ACGTN")


def print_weights(genomes: Genomes, out: Path, checkpoint: str, device: str) -> None:
    """Fit weights to held-out phages in held-out bacteria, each genome judged by those of all others.

    Log-odds of windows are kept in ``windows-DIGEST.npz`` of the folder.
    """
    classifier = NativeClassifier(None if checkpoint == "native" else Path(checkpoint))
    path = out / f"windows-{classifier.digest[:12]}.npz"
    known = dict(np.load(path)) if path.exists() else {}
    said, viral, genome_of = [], [], []
    score = classifier.windows(device)
    for number, genome in enumerate(one for part in (VALIDATION, TEST) for one in plant(genomes, part)):
        for of_cells, of_viral in _cells(genome, number, classifier, score, known):
            said.append(of_cells)
            viral.append(of_viral)
            genome_of += [number] * len(of_viral)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished, unfinished.open("xb") as file:
        np.savez(file, **known)
    rows, truth = np.concatenate(said), np.concatenate(viral)
    chance = cross_val_predict(
        LogisticRegression(), rows, truth, groups=genome_of, cv=LeaveOneGroupOut(), method="predict_proba"
    )
    fitted = LogisticRegression().fit(rows, truth)
    print(f"{len(truth):,} cells of {len(set(genome_of))} genomes, {truth.mean():.0%} viral")
    print(f"log-loss, each genome left out: {log_loss(truth, chance):.4f}")
    for name, weight in zip(("windows of the run", "finer windows", "genes"), fitted.coef_[0], strict=True):
        print(f"{name:>20} {weight:+.2f}")
    print(f"{'constant':>20} {fitted.intercept_[0]:+.2f}")


def _cells(
    genome: Genome, number: int, classifier: NativeClassifier, score: Score, known: dict[str, np.ndarray]
) -> list[tuple[Float64[np.ndarray, "m 3"], Bool[np.ndarray, " m"]]]:
    text = genome.codes.tobytes().translate(_LETTERS).decode("ascii")

    def odds(key: str, start: Int64[np.ndarray, " w"], size: int) -> Float64[np.ndarray, " w"]:
        if key not in known:
            logits = score([text[at : at + size] for at in start.tolist()])
            known[key] = log_odds(classifier, margins(logits, classifier.kinds, classifier.viral))
        return known[key]

    start = np.arange(0, len(text) - _LEAST, _RUN)
    run = odds(f"{number}", start, _RUN)
    track = Track(
        start, np.minimum(start + _RUN, len(text)), run, len(text), lambda: find_genes(genome.codes)
    )  # fmt: skip
    viral, unknown = (
        within(np.stack((one[:, 0], one[:, 1] - one[:, 0]), axis=1), len(text))
        for one in (genome.viral, genome.unknown)
    )
    found = []
    for first, behind in track.looked_at():
        finer = np.arange(first, max(first + 1, behind - WINDOW + 1), CELL)
        edges, _, said = track.cells((first, behind), finer, odds(f"{number}.{first}.{behind}", finer, WINDOW))
        middle = ((edges[1:] + edges[:-1]) // 2).astype(np.int64)
        counted = ~unknown[middle]
        found.append((said[counted], viral[middle[counted]]))
    return found
