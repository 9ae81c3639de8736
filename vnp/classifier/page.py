"""The page of a training: how good the classifier is, how training went, how calibrated it is, and where it errs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.fit import Fitted
from vnp.classifier.scored import Scored
from vnp.features.read import Features
from vnp.features.split import PARTS, TEST, VALIDATION
from vnp.metrics.metrics import METRICS, Interval
from vnp.metrics.reliability import LEVELS
from vnp.report.measured import (
    INTERVAL,
    LEVEL_TERMS,
    METRIC_TERMS,
    Cell,
    Part,
    Table,
    joined,
    measured_page,
    number,
    span,
)

_MOST_GROUPS = 30
_CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "validation_f1")
_GAP = 0.05


def by_group(features: Features, part: Scored, threshold: float, organisms: Sequence[str] | None) -> list[list[Cell]]:
    """Rows of a table of how many records of each group are called right, the worst group first.

    Groups are those of organisms where they are known, else input files, or of one file the groups of the split. From
    ``threshold`` on a record is called viral by its surest row.
    """
    records = features.records()
    names = list(organisms or ())
    if not names:
        files = [Path(entry["path"]).name for entry in features.provenance.get("inputs", ())]
        names = [files[at] for at in records.input] if files else []
    if len(set(names)) < 2:
        names = [text.decode() for text in records.group]
    viral = part.viral
    right = (part.records.probability >= threshold) == viral
    own: dict[str, list[int]] = {}
    for at, one in enumerate(part.place.tolist()):
        own.setdefault(names[one] or "(none)", []).append(at)
    worst_first = sorted(own.items(), key=lambda one: (right[one[1]].mean(), -len(one[1]), one[0]))
    return [
        [name, _label(viral[some]), f"{len(some):,}", f"{right[some].sum():,}", f"{right[some].mean():.1%}"]
        for name, some in worst_first
    ]


def _label(viral: np.ndarray) -> str:
    return "viral" if viral.all() else "both" if viral.any() else "host"


def training_page(
    name: str, checkpoint: Checkpoint, fitted: Fitted, groups: Sequence[Sequence[Cell]], plots: Sequence[Path],
    files: Sequence[tuple[str, str]],
) -> str:  # fmt: skip
    """One HTML page that needs nothing else.

    ``files`` has the names of the files beside the page, and what they hold.
    """
    metrics = checkpoint.metrics
    part = PARTS[TEST] if PARTS[TEST] in metrics else PARTS[VALIDATION]
    whole = metrics[part]["record"]
    drawn = {path.stem: _drawing(path) for path in plots if path.suffix == ".svg"}
    return measured_page(
        f"Training of {name}",
        f"{whole['count']:,} held-out records, {whole['viral']:,} of them viral",
        list(_words(checkpoint, fitted, part)),
        [] if part == PARTS[TEST] else ["There is no test part: what is measured here was watched in training."],
        [
            Part("How good it is", [_metrics_table(metrics)], _some(drawn, "roc", "precision_recall", "scores")),
            Part(
                "How training went",
                plots=_some(drawn, "curves"),
                hint=f"The best epoch, {fitted.best_epoch}, is marked: its weights are kept. Accuracy in training is "
                "of some of its rows, measured as the others are, after the epoch.",
            ),
            Part("Calls against labels", [], _some(drawn, "confusion")),
            Part("Calibration", list(_calibration(checkpoint)), _some(drawn, "reliability")),
            Part(
                f"By group, of the {part} part",
                [Table(["group", "label", "records", "right", "share"], groups[:_MOST_GROUPS])],
                hint=f"The {_MOST_GROUPS} of {len(groups):,} with most wrong." if len(groups) > _MOST_GROUPS else "",
            ),
            Part("Epoch by epoch", [_epochs(fitted)], folded=True),
        ],
        [*METRIC_TERMS, INTERVAL, *LEVEL_TERMS, *_TERMS],
        list(_facts(checkpoint)),
        files,
    )


_TERMS = [
    ("loss", "mean surprise at the labels (log-loss): less is better; in training it is weighted as the classes are"),
    ("validation", "rows that are not trained on; where their loss is least, training is at its best"),
    ("test", "rows that nothing was chosen by"),
    ("calibration", "turns scores into probabilities that hold: of those of 0.9, nine in ten are viral"),
    ("reliability", "high, medium or low: bins of calls by how often such calls were wrong on validation records"),
]


def _drawing(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _some(drawn: Mapping[str, str], *kinds: str) -> list[str]:
    return [drawing for kind in kinds for name, drawing in drawn.items() if name.startswith(kind)]


def _words(checkpoint: Checkpoint, fitted: Fitted, part: str) -> Iterator[str]:
    found = checkpoint.metrics[part]["record"]
    area = f", and the ROC-AUC is {joined(_value(found, 'roc_auc'))}" if found["roc_auc"] is not None else ""
    yield (
        f"Of {found['count']:,} records of the {part} part, {found['accuracy']:.1%} are called right{area}: "
        f"{found['false_negatives']:,} of {found['viral']:,} viral ones are called host, "
        f"{found['false_positives']:,} of {found['count'] - found['viral']:,} hosts are called viral."
    )
    why = "then the validation loss no longer fell" if fitted.stopped_early else "more were not asked for"
    yield f"The best of {len(fitted.history)} epochs is {fitted.best_epoch}; {why}."
    best = fitted.history[fitted.best_epoch - 1] if fitted.best_epoch else {}
    train, watched = best.get("train_accuracy"), best.get("validation_accuracy")
    if train is not None and watched is not None:
        apart = "which is much less: it learnt by heart" if train - watched > _GAP else "which is about as many"
        yield f"In that epoch {train:.1%} of training rows are right and {watched:.1%} of validation rows, {apart}."
    kind = checkpoint.calibration.kind
    yield (
        "Probabilities are scores as they are."
        if kind == "none"
        else f"Probabilities are calibrated ({kind}), and off by {number(found['ece'])} on the mean in the {part} part."
    )


def _value(found: Mapping[str, Any], metric: str) -> tuple[str, str]:
    low, high = found["intervals"][metric] or (None, None)
    nan = float("nan")
    return number(found[metric]), span(Interval(nan if low is None else low, nan if high is None else high))


def _metrics_table(metrics: Mapping[str, Any]) -> Table:
    order = [part for part in (PARTS[TEST], PARTS[VALIDATION]) if part in metrics]
    shown = [(part, level) for part in order for level in ("record", "chunk", "frame")]
    rows: list[list[Cell]] = [["number", *(f"{metrics[part][level]['count']:,}" for part, level in shown)]]
    rows += [
        [metric.title, *(_value(metrics[part][level], metric.name) for part, level in shown)] for metric in METRICS
    ]
    return Table(["", *(f"{part} {level}s" for part, level in shown)], rows)


def _epochs(fitted: Fitted) -> Table:
    rows: list[list[Cell]] = []
    for row in fitted.history:
        mark = " (best)" if row["epoch"] == fitted.best_epoch else ""
        rows.append([f"{row['epoch']}{mark}", *(number(row.get(name)) for name in _CURVES), f"{row['seconds']:.1f}"])
    return Table(["epoch", *(name.replace("_", " ") for name in _CURVES), "seconds"], rows)


def _calibration(checkpoint: Checkpoint) -> Iterator[Table]:
    if losses := checkpoint.calibration.log_loss:
        rows: list[list[Cell]] = [
            [kind, f"{loss:.4f}", "used" if kind == checkpoint.calibration.kind else ""] for kind, loss in losses
        ]
        yield Table(["kind", "held-out log-loss", ""], rows)
    reliability = checkpoint.trust.reliability
    if reliability is not None:
        rows = []
        for level, name in LEVELS.items():
            seen = reliability.measured.get(name)
            wrong = "-" if seen is None or seen.wrong is None else f"{seen.wrong:.1%}"
            rows.append([name, reliability.condition(level), f"{seen.calls:,}" if seen else "0", wrong])
        yield Table(["reliability", "what it takes", "calls", "wrong"], rows, reliability.measured_on.capitalize())
    if checkpoint.presets:
        rows = [[name, f"{preset.specificity:.2%}"] for name, preset in checkpoint.presets.items()]
        yield Table(["preset", "held-out hosts left alone"], rows, "Presets")


def _facts(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    training = checkpoint.training
    yield "rows", f"{training['rows']:,} trained on, {checkpoint.layout}, chunks of {checkpoint.chunk} bases"
    for part, identity in checkpoint.encoders.items():
        yield f"{part} encoder", " ".join(str(identity[key]) for key in ("name", "revision") if identity.get(key))
    parts = ", ".join(
        f"{name} {part['rows']:,} rows ({part['viral']:,} viral) of {part['groups']:,} groups"
        for name, part in checkpoint.split["parts"].items()
    )
    yield "split", f"by {checkpoint.split['kind']}: {parts}"
    yield "recipe", ", ".join(f"{name} {value}" for name, value in training["recipe"].items())
    yield "seed", f"{training['seed']}, on {training['device']}"
    yield "data", f"SHA-256 {training['data']}"
    yield "weights", f"SHA-256 {checkpoint.digest}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in checkpoint.code.items())
