"""Trains without one group of organisms after the other: how well is called what resembles nothing that was seen?

Each classifier is compared with the one of the common split, which saw the group's other units: on the group's records,
beside those of the other class in the test part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.model import CLASSES
from vnp.classifier.split import read_split
from vnp.classifier.train import Training, train
from vnp.comparison._cases import Table, lift, make_cases, read_table
from vnp.comparison.contest import Progress, score_rows
from vnp.comparison.contestants import LEFT_OUT, SPLIT, CompareOptions, Contestant, model_path
from vnp.comparison.results import Section
from vnp.errors import UsageError
from vnp.features.split import PARTS, TEST, TRAIN, VALIDATION
from vnp.files.durable import write_text
from vnp.files.tables import table_text
from vnp.metrics.metrics import binary_metrics

_HEADER = (
    "contestant", "left_out", "class", "groups", "records", "roc_auc", "right",
    "seen_groups", "seen_records", "seen_roc_auc", "seen_right",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One classifier on records of a group, beside those of the other class in the test part."""

    groups: int  # units of the group of organisms
    records: int  # its records
    roc_auc: float | None  # of all; None where there are none of the group
    right: float | None  # share of the group's records that are called right


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A group of organisms, by a classifier that never saw it and by one that saw others of its units."""

    contestant: str
    group: str
    label: int  # 1 viral, 0 host
    unseen: Measured  # on all its records
    seen: Measured  # on its records in the test part of the common split


def leave_out(
    contestants: Sequence[Contestant],
    organisms: Mapping[str, str],
    options: CompareOptions,
    folder: Path,
    progress: Progress,
) -> tuple[list[LeftOut], list[str]]:
    """Train each contestant without each group, after ``contest`` has trained all with the common split in the folder.

    Contestants with a checkpoint of their own take no part. ``organisms`` has the group of each record, by its name;
    empty for one that is never left out.

    Returns:
        A row a contestant and group, and the reasons for which groups could not be left out.

    Raises:
        UsageError: nobody is trained, or the split deals out single rows.
        FeatureError: a classifier cannot be trained.
    """
    trained = [one for one in contestants if one.checkpoint is None]
    if not trained:
        raise UsageError("--leave-out trains anew, so it needs a contestant without a checkpoint")
    key, part_of = read_split(folder / SPLIT)
    if key != "group":
        raise UsageError("--leave-out goes with a split that keeps groups together, not with --split random")
    rows: list[LeftOut] = []
    notes: list[str] = []
    for one in trained:
        table = read_table(one.name, one.features)
        part = np.array([part_of[name] for name in table.groups()])
        of_record = [organisms.get(name, "") for name in table.frames.names]
        of_frame = np.array(of_record, object)[table.frames.record]
        label = table.frames.label[table.frames.record]
        whole = Checkpoint.load(model_path(folder, one.name))
        for name in sorted({each for each in of_frame.tolist() if each}):
            own = of_frame == name
            kind = int(2 * label[own].sum() >= own.sum())
            units = set(np.array(table.groups(), object)[own].tolist())
            moved = {unit: TEST if unit in units else number for unit, number in part_of.items()}
            left = np.array([moved[unit] for unit in table.groups()])
            if any(len(np.unique(label[left == number])) < 2 for number in (TRAIN, VALIDATION)):
                note = f"{name} is not left out: without it training or validation would have one class only."
                notes += [note] if note not in notes else []
                continue
            out = model_path(folder, f"{one.name} without {name}")
            split = out.with_suffix(".given.tsv")
            lines = [("group", "part"), *((unit, PARTS[number]) for unit, number in moved.items())]
            write_text(split, table_text(lines))
            training = Training(recipe=options.recipe, split=split, seed=options.seed)
            with progress(f"without {name}", None, "epochs"):
                without = train(one.features, out, training, options.device, force=True).checkpoint
            split.unlink()
            others = (label != kind) & (part == TEST)
            tested = own & (part == TEST)
            rows.append(
                LeftOut(
                    one.name, name, kind,
                    _measure(without, table, own, others, kind, options, progress),
                    _measure(whole, table, tested, others, kind, options, progress),
                )
            )  # fmt: skip
    return rows, notes


def _measure(
    checkpoint: Checkpoint,
    table: Table,
    own: Bool[np.ndarray, "n"],
    others: Bool[np.ndarray, "n"],
    kind: int,
    options: CompareOptions,
    progress: Progress,
) -> Measured:
    chosen = np.flatnonzero(own | others)
    frames = table.frames.only(chosen)
    scores = score_rows(checkpoint, table.features, table.row[chosen], options.device, progress)
    cases = make_cases(frames, "record")
    probability: Float64[np.ndarray, "m"] = lift(frames, scores, "record", options.rule)
    mine = np.isin(cases.record, np.unique(table.frames.record[own]))
    if not mine.any():
        return Measured(0, 0, None, None)
    auc = binary_metrics(cases.label, probability, checkpoint.threshold).to_json()["roc_auc"]
    right = (probability[mine] >= checkpoint.threshold) == bool(kind)
    return Measured(len(np.unique(cases.group[mine])), int(mine.sum()), auc, float(right.mean()))


def write_left_out(rows: Sequence[LeftOut], folder: Path) -> Path:
    """Write ``left_out.tsv``; a number that is not defined is empty."""
    path = folder / LEFT_OUT
    write_text(path, table_text([_HEADER, *map(_cells, rows)]))
    return path


def _cells(row: LeftOut) -> list[str]:
    numbers = [
        "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
        for one in (row.unseen, row.seen)
        for value in (one.groups, one.records, one.roc_auc, one.right)
    ]
    return [row.contestant, row.group, CLASSES[row.label], *numbers]


def left_out_section(rows: Sequence[LeftOut]) -> Section:
    """The same for the page and the JSON of the comparison."""
    return Section(
        "left_out",
        "Trained without a group, beside trained with others of it (seen)",
        [name.replace("_", " ") for name in _HEADER],
        [_cells(row) for row in rows],
        [
            {
                "contestant": row.contestant, "group": row.group, "class": CLASSES[row.label],
                "unseen": asdict(row.unseen), "seen": asdict(row.seen),
            }
            for row in rows
        ],
    )  # fmt: skip
