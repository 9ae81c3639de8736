"""A contest of feature files and checkpoints: one split, one set of held-out rows, every contestant on the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int64

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.model import CLASSES
from vnp.classifier.train import Training, Watcher, train
from vnp.comparison._cases import Cases, Frames, Table, align, lift, make_cases, read_table
from vnp.comparison._heldout import hold_out
from vnp.comparison.comparison import compare
from vnp.comparison.contestants import SPLIT, CompareOptions, Contestant, model_path, require_sense, with_parts
from vnp.comparison.results import Disagreement, Results
from vnp.features.read import Features
from vnp.metrics.aggregation import LEVELS
from vnp.report.plots import Series

_FEW_GROUPS = 10
_SHOWN = ("kind", "temperature", "offset", "log_loss")


class Bar(Protocol):
    """What shows how far something is."""

    def to(self, done: float) -> None:
        """Say how much is done in all."""


Progress = Callable[[str, float | None, str], AbstractContextManager[Bar]]
"""Begins to show something: what, how many there are, and of what."""


def contest(contestants: Sequence[Contestant], options: CompareOptions, folder: Path, progress: Progress) -> Results:
    """Train those who have no checkpoint, score all on the same held-out rows, and compare."""
    require_sense(contestants, options)
    tables, same_frames = align([read_table(one.name, one.features, options.organisms) for one in contestants])
    held, split, notes = hold_out(contestants, tables, same_frames, options, folder / SPLIT)
    frames = [table.frames.only(kept) for table, kept in zip(tables, held, strict=True)]
    entries: list[dict[str, Any]] = []
    scores: dict[str, tuple[int, Float64[np.ndarray, "n"]]] = {}
    for place, one in enumerate(contestants):
        rows = tables[place].row[held[place]]
        for entered in with_parts(one, options.parts):
            checkpoint = _checkpoint(entered, options, folder, progress)
            scores[entered.name] = (place, _score(checkpoint, entered.features, rows, options.device, progress))
            entries.append(_about(entered, checkpoint))
    about = {
        "contestants": entries,
        "split": split,
        "rule": options.rule,
        "seed": options.seed,
        "replicates": options.replicates,
    }
    notes = [*_notes(tables, same_frames), *notes]
    return _compare(frames, scores, LEVELS if same_frames else ("record",), options, about, notes, progress)


def _compare(
    frames: Sequence[Frames],
    scores: Mapping[str, tuple[int, Float64[np.ndarray, "n"]]],
    levels: Sequence[str],
    options: CompareOptions,
    about: dict[str, Any],
    notes: list[str],
    progress: Progress,
) -> Results:
    thresholds = {entry["name"]: entry["threshold"] for entry in about["contestants"]}
    compared, series = [], {}
    with progress("comparing", len(levels), "levels") as bar:
        for number, level in enumerate(levels, start=1):
            cases, lifted = _level(frames, scores, level, options.rule)
            compared.append(
                compare(cases, lifted, thresholds=thresholds, replicates=options.replicates, seed=options.seed)
            )
            series[level] = [Series(name, cases.label, probability) for name, probability in lifted.items()]
            bar.to(number)
    for number, name in enumerate(CLASSES):
        groups = len(np.unique(cases.group[cases.label == number]))
        if groups < _FEW_GROUPS:
            notes.append(f"Only {groups} groups of the class {name} are held out: intervals over so few say little.")
    # The last level is that of records.
    disagreements = _disagreements(frames[0], cases, lifted, thresholds)
    return Results(about, notes, compared, series, disagreements, len(cases))


def _notes(tables: Sequence[Table], same_frames: bool) -> list[str]:
    notes = [
        f"{table.name}: {table.unlabelled:,} rows have no label and are left out."
        for table in tables
        if table.unlabelled
    ]
    if not same_frames:
        chunks = ", ".join(f"{table.name} {table.features.chunk}" for table in tables)
        notes.append(
            f"The chunks differ ({chunks} bases), so only records are compared, those that all have scores of."
        )
    return notes


def _checkpoint(one: Contestant, options: CompareOptions, folder: Path, progress: Progress) -> Checkpoint:
    if one.checkpoint is not None:
        checkpoint = Checkpoint.load(one.checkpoint)
        encoders = one.features.provenance.get("encoders", {})
        checkpoint.require(one.features.layout, encoders, one.features.chunk, str(one.features.path))
        return checkpoint
    training = Training(recipe=options.recipe, split=folder / SPLIT, seed=options.seed)
    out = model_path(folder, one.name)
    with progress(f"training {one.name}", None, "epochs") as bar:
        watcher = Watcher(epoch=lambda history: bar.to(len(history)))
        return train(one.features, out, training, options.device, force=True, watcher=watcher).checkpoint


def _score(
    checkpoint: Checkpoint, features: Features, rows: Int64[np.ndarray, "n"], device: torch.device, progress: Progress
) -> Float64[np.ndarray, "n"]:
    """Calibrated probabilities of some rows, in their order."""
    scorer = checkpoint.scorer(device.type)
    wanted = np.zeros(features.rows, bool)
    wanted[rows] = True
    found = np.full(features.rows, np.nan)
    with progress("scoring", features.rows, "rows") as bar:
        for first, window in features.stored_windows():
            kept = np.flatnonzero(wanted[first : first + len(window)])
            if len(kept):
                found[first + kept] = scorer.scores(window[kept]).probability
            bar.to(first + len(window))
    chosen: Float64[np.ndarray, "n"] = found[rows]
    return chosen


def _level(
    frames: Sequence[Frames], scores: Mapping[str, tuple[int, Float64[np.ndarray, "n"]]], level: str, rule: str
) -> tuple[Cases, dict[str, Float64[np.ndarray, "m"]]]:
    """The cases of a level that all contestants have scores of, and those scores."""
    cases = [make_cases(one, level) for one in frames]
    lifted = {name: lift(frames[place], score, level, rule) for name, (place, score) in scores.items()}
    if level != "record":
        return cases[0], lifted
    both = cases[0].record
    for one in cases[1:]:
        both = np.intersect1d(both, one.record)
    chosen = [np.searchsorted(one.record, both) for one in cases]
    return cases[0].only(chosen[0]), {name: lifted[name][chosen[place]] for name, (place, _) in scores.items()}


def _disagreements(
    frames: Frames, cases: Cases, lifted: Mapping[str, Float64[np.ndarray, "m"]], thresholds: Mapping[str, float]
) -> list[Disagreement]:
    calls = {name: probability >= thresholds[name] for name, probability in lifted.items()}
    stacked = np.stack(list(calls.values()))
    found = []
    for place in np.flatnonzero(stacked.any(axis=0) & ~stacked.all(axis=0)).tolist():
        record = int(cases.record[place])
        found.append(
            Disagreement(
                name=frames.names[record],
                length=int(frames.length[record]),
                label=int(frames.label[record]),
                group=frames.group[record],
                organism=frames.organism[record],
                probabilities={name: float(probability[place]) for name, probability in lifted.items()},
                calls={name: bool(call[place]) for name, call in calls.items()},
            )
        )
    return found


def _about(one: Contestant, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": one.name,
        "features": str(one.features.path),
        "rows": one.features.rows,
        "layout": str(one.features.layout),
        "chunk": one.features.chunk,
        "checkpoint": None if one.checkpoint is None else str(one.checkpoint),
        "threshold": checkpoint.threshold,
        "calibration": {key: value for key, value in asdict(checkpoint.calibration).items() if key in _SHOWN},
        "training": checkpoint.training,
        "split": checkpoint.split,
    }
