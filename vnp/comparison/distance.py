"""How much is called right by the distance to the nearest genome that was trained on.

The distance is average nucleotide identity as skani estimates it (``vnp.sequences.identity``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from vnp.classifier.model import CLASSES
from vnp.classifier.split import read_split
from vnp.comparison.contest import Progress
from vnp.comparison.contestants import SPLIT
from vnp.comparison.results import Results, Section
from vnp.errors import FeatureError, InputError, UsageError
from vnp.features.read import Features
from vnp.features.split import TRAIN
from vnp.metrics.metrics import binary_metrics
from vnp.report.plots import as_svg, draw_by_class, figure
from vnp.sequences.identity import Relatives
from vnp.sequences.reading import read_records

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
        FeatureError: the inputs are not those of the features.
        InputError: one cannot be read.
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
                low, high = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
                beside = own | (one.label != label)
                auc = binary_metrics(one.label[beside], one.probability[beside]).to_json()["roc_auc"]
                groups = len(set(group[own].tolist()))
                found.append(
                    AtDistance(
                        one.name, label, name, int(own.sum()), groups, float(right.mean()), float(low), float(high), auc
                    )
                )
    return found


def _nearest(
    features: Features, trained: set[str], asked: Sequence[str], progress: Progress
) -> dict[str, float | None]:
    """The identity of each record that is asked about to the nearest of the groups that were trained on."""
    records = features.records()
    names = [name.decode() for name in records.name]
    groups = [group.decode() for group in records.group]
    place = dict(zip(records.ordinal.tolist(), range(len(names)), strict=True))
    wanted = set(asked)
    relatives = Relatives("--distance")
    found: dict[str, float | None] = {}
    held: list[tuple[str, bytes]] = []
    paths = [Path(entry["path"]) for entry in features.provenance["inputs"]]
    ordinal = 0
    with progress("reading genomes", len(paths), "files") as bar:
        for number, path in enumerate(paths, start=1):
            for record in read_records(path):
                at = place.get(ordinal)
                ordinal += 1
                if at is None:
                    continue
                if not names[at].endswith(record.name) or int(records.length[at]) != len(record.sequence):
                    raise FeatureError(
                        f"{path} has changed since {features.path} was made: {record.name} is not {names[at]}"
                    )
                if names[at] in wanted:
                    held.append((names[at], record.sequence))
                elif groups[at] in trained:
                    relatives.add(record.sequence)
            bar.to(number)
    if missing := wanted - {name for name, _ in held}:
        raise InputError(f"no input of {features.path} has the record {min(missing)}: --distance reads them again")
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
        [_json(one) for one in found],
        [as_svg(made)],
    )


def _json(one: AtDistance) -> dict[str, Any]:
    own = {"contestant": one.contestant, "class": CLASSES[one.label], "nearest": one.nearest, "records": one.records}
    return {**own, "groups": one.groups, "right": one.right, "interval": [one.low, one.high], "roc_auc": one.roc_auc}
