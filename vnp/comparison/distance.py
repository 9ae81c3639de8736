"""How much is called right by the distance to the nearest genome that was trained on.

The distance is average nucleotide identity as skani estimates it (``vnp.sequences.identity``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vnp.classifier.model import CLASSES
from vnp.classifier.split import read_split, record_sequences
from vnp.comparison.contest import Progress
from vnp.comparison.contestants import SPLIT
from vnp.comparison.results import Results, Section
from vnp.errors import UsageError
from vnp.features.read import Features
from vnp.features.split import TRAIN
from vnp.metrics.metrics import binary_metrics, wilson
from vnp.report.plots import as_svg, draw_by_class, figure
from vnp.sequences.identity import Relatives

EDGES = (0.99, 0.95, 0.9, 0.8)
NEAREST = ("99 to 100 %", "95 to 99 %", "90 to 95 %", "80 to 90 %", "farther, or none")
"""Classes of identity to the nearest genome that was trained on, the nearest first."""


@dataclass(frozen=True, slots=True)
class AtDistance:
    """A classifier on the held-out records of one class that are so far from what was trained on."""

    contestant: str
    label: int  # 1 viral, 0 host
    nearest: str  # one of ``NEAREST``
    records: int
    groups: int  # that these are of
    right: float  # share that is called right
    low: float  # of the 95 % interval of Wilson, over records
    high: float
    roc_auc: float | None  # beside all held-out records of the other class; None where there are none


def measure_distance(features: Features, results: Results, folder: Path, progress: Progress) -> list[AtDistance]:
    """Sort the compared records by their distance to what was trained on, and measure each classifier on them.

    The features are the first contestant's, whose input files are read again; ``folder`` is where ``contest`` wrote the
    split.

    Raises:
        UsageError: no split says what was trained on, it deals out rows, or pyskani is missing.
        ChangedInputError: an input is gone or has changed.
    """
    if not (folder / SPLIT).exists():
        raise UsageError("--distance needs to know what was trained on: give --split the .split.tsv of the checkpoint")
    key, part_of = read_split(folder / SPLIT)
    if key != "group":
        raise UsageError("--distance goes with a split that keeps groups together, not with --split random")
    nearest = _nearest(features, {name for name, part in part_of.items() if part == TRAIN}, results.names, progress)
    identity = np.array([nearest[name] or 0.0 for name in results.names])
    bins = np.searchsorted(-np.array(EDGES), -identity)
    group = np.array(results.groups, object)
    thresholds = {entry["name"]: entry["threshold"] for entry in results.about["contestants"]}
    found = []
    for one in results.series["record"]:
        for label in (1, 0):
            for number, name in enumerate(NEAREST):
                own = (one.label == label) & (bins == number)
                if not own.any():
                    continue
                right = (one.probability[own] >= thresholds[one.name]) == bool(label)
                low, high = wilson(int(right.sum()), len(right))
                beside = own | (one.label != label)
                auc = binary_metrics(one.label[beside], one.probability[beside]).to_json()["roc_auc"]
                groups = len(set(group[own].tolist()))
                found.append(
                    AtDistance(one.name, label, name, int(own.sum()), groups, float(right.mean()), low, high, auc)
                )
    return found


def _nearest(
    features: Features, trained: set[str], asked: Sequence[str], progress: Progress
) -> dict[str, float | None]:
    """The identity of each record that is asked about to the nearest of the groups that were trained on."""
    records = features.records()
    names = [name.decode() for name in records.name]
    wanted = set(asked)
    relatives = Relatives("--distance")
    held: list[tuple[str, bytes]] = []
    with progress("reading genomes", len(names), "records") as bar:
        for number, (place, sequence) in enumerate(record_sequences(features, records), start=1):
            if names[place] in wanted:
                held.append((names[place], sequence))
            elif records.group[place].decode() in trained:
                relatives.add(sequence)
            bar.to(number)
    found: dict[str, float | None] = {}
    with progress("comparing genomes", len(held), "records") as bar:
        for number, (name, sequence) in enumerate(held, start=1):
            found[name] = relatives.identity(sequence)
            bar.to(number)
    return found


def distance_section(found: Sequence[AtDistance]) -> Section:
    """The table, curves and JSON of distances."""
    rows = [
        [
            one.contestant, CLASSES[one.label], one.nearest, f"{one.records:,}", f"{one.groups:,}",
            f"{one.right:.3f}", f"{one.low:.3f}-{one.high:.3f}", "-" if one.roc_auc is None else f"{one.roc_auc:.3f}",
        ]
        for one in found
    ]  # fmt: skip
    made, panels = figure(1, 2)
    for axes, label in zip(panels, (1, 0), strict=True):
        lines: dict[str, list[tuple[int, float, float, float]]] = {}
        for one in found:
            if one.label == label:
                lines.setdefault(one.contestant, []).append((NEAREST.index(one.nearest), one.right, one.low, one.high))
        draw_by_class(axes, NEAREST, lines, f"{CLASSES[label]} records called right")
    return Section(
        "distance",
        "By identity to the nearest genome trained on",
        ["", "class", "nearest", "records", "groups", "right", "95 %", "ROC-AUC"],
        rows,
        [
            {
                "contestant": one.contestant, "class": CLASSES[one.label], "nearest": one.nearest,
                "records": one.records, "groups": one.groups, "right": one.right, "interval": [one.low, one.high],
                "roc_auc": one.roc_auc,
            }
            for one in found
        ],
        [as_svg(made)],
    )  # fmt: skip
