"""A contest of feature files and checkpoints: one split, one set of held-out rows, every contestant on the same.

None of the rows that it is decided on was trained on by anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int8, Int64

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.model import CLASSES
from vnp.classifier.seen import seen_by_encoder, stranger
from vnp.classifier.split import FILE_DIGEST, Split, read_split, single_records, split_as, split_of_data
from vnp.classifier.train import Training, Watcher, outputs_of, train
from vnp.comparison._cases import Cases, Frames, Table, align, lift, make_cases, read_table
from vnp.comparison.comparison import compare
from vnp.comparison.contestants import SPLIT, CompareOptions, Contestant, model_path, require_sense, with_parts
from vnp.comparison.results import Disagreement, Results
from vnp.errors import FeatureError, UsageError, storage_error
from vnp.features.read import Features
from vnp.features.split import TEST, TRAIN, VALIDATION, some
from vnp.files.durable import write_text
from vnp.metrics.rules import LEVELS
from vnp.report.plots import Series
from vnp.runs.request import versions

_FEW_GROUPS = 10
_LEAKS = "The split is by row: pieces of one genome were trained on and tested on, so the numbers are too good."
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
            checkpoint = _checkpoint(entered, options, folder, progress, notes)
            scores[entered.name] = (place, score_rows(checkpoint, entered.features, rows, options.device, progress))
            entries.append(_about(entered, checkpoint))
    about = {
        "contestants": entries,
        "split": split,
        "versions": versions(),
        "rule": options.rule,
        "seed": options.seed,
        "replicates": options.replicates,
    }
    notes = list(dict.fromkeys([*_notes(tables, same_frames), *notes]))
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
    records = cases.record.tolist()
    return Results(
        about, notes, compared, series, disagreements, len(cases),
        names=[frames[0].names[one] for one in records], groups=[frames[0].group[one] for one in records],
    )  # fmt: skip


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


def _checkpoint(
    one: Contestant, options: CompareOptions, folder: Path, progress: Progress, notes: list[str]
) -> Checkpoint:
    """The one that is there, or trained; what its training warns of goes to the notes."""
    if one.checkpoint is not None:
        checkpoint = Checkpoint.load(one.checkpoint)
        encoders = one.features.provenance.get("encoders", {})
        checkpoint.require(one.features.layout, encoders, one.features.chunk, str(one.features.path))
        return checkpoint
    training = Training(recipe=options.recipe, split=folder / SPLIT, seed=options.seed)
    out = model_path(folder, one.name)
    with progress(f"training {one.name}", None, "epochs") as bar:
        watcher = Watcher(epoch=lambda history: bar.to(len(history)), warn=lambda text: notes.append(text))
        return train(one.features, out, training, options.device, force=True, watcher=watcher).checkpoint


def score_rows(
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
                found[first + kept] = scorer.probability(window[kept])
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


def hold_out(
    contestants: Sequence[Contestant],
    tables: Sequence[Table],
    same_frames: bool,
    options: CompareOptions,
    split_file: Path,
) -> tuple[list[Bool[np.ndarray, "n"]], dict[str, Any] | None, list[str]]:
    """Deal the rows out, and leave out what a checkpoint was trained on.

    Returns:
        For each table, which of its frames are left to compare on; a summary of the common split, None where nothing is
        trained; and what a reader must know of it.
    """
    kept = [np.ones(len(table.frames), bool) for table in tables]
    notes: list[str] = []
    summary = None
    given = _given(tables, options)
    to_train = any(one.checkpoint is None for one in contestants)
    if given or to_train:
        split = _split(tables[0], options, given, to_train)
        summary = split.summary(tables[0].frames.label[tables[0].frames.record])
        split_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(split_file, split.text(tables[0].ids()))
        kept = [part == TEST for part in _parts(split, tables, same_frames)]
        if split.kind == "random":
            notes.append(_LEAKS)
        elif single := single_records(split.group, tables[0].frames.record):
            notes.append(single)
        if given:
            rows = int(kept[0].sum())
            if not rows:
                raise FeatureError(
                    "the split that came with the data has no test part to compare on. Make the dataset with a --test "
                    "above 0, or deal its units out anew with --split group"
                )
            notes.append(f"Compared on the test part of the split that came with the data: {rows:,} rows.")
    elif options.split != "auto" and any((table.part >= 0).any() for table in tables):
        notes.append(f"The data brings a split of its own, which --split {options.split} overrides.")
    for place, one in enumerate(contestants):
        if one.checkpoint is not None and not options.everything:
            unseen, note = _unseen(one.checkpoint, tables[place], kept[place])
            notes.append(f"{one.name}: {note}")
            shared = _shared(unseen, place, tables, same_frames)
            kept = [mine & theirs for mine, theirs in zip(kept, shared, strict=True)]
    for place, table in enumerate(tables):
        seen = None if options.everything else seen_by_encoder(table.features)
        if seen is not None:
            own = ~np.isin(seen[table.row], (TRAIN, VALIDATION))
            rows = int((kept[place] & ~own).sum())
            left = f"on the units of {rows:,} rows, which are left out" if rows else "on none of the units compared"
            notes.append(f"{table.name}: {stranger(seen) or f'its encoder was fine-tuned {left}'}.")
            shared = _shared(own, place, tables, same_frames)
            kept = [mine & theirs for mine, theirs in zip(kept, shared, strict=True)]
    for table, mask in zip(tables, kept, strict=True):
        if not mask.any():
            raise FeatureError(
                f"no row of {table.name} is left that no contestant was trained on. Give --split the .split.tsv that "
                "lies beside a checkpoint, or --all to compare on every row all the same"
            )
    return kept, summary, notes


def _given(tables: Sequence[Table], options: CompareOptions) -> bool:
    """Whether the split that came with the data decides."""
    return options.split == "auto" and not options.everything and any((table.part >= 0).any() for table in tables)


def _split(table: Table, options: CompareOptions, given: bool, to_train: bool) -> Split:
    """The common split, of the first table's frames."""
    label = table.frames.label[table.frames.record]
    groups = table.groups()
    if given:
        return split_of_data(table.part, label, groups, to_train=to_train)
    return split_as(
        options.split, label, groups, table.ids,
        validation=options.validation, test=options.test, seed=options.seed,
    )  # fmt: skip


def _parts(split: Split, tables: Sequence[Table], same_frames: bool) -> list[Int8[np.ndarray, "n"]]:
    """The part of every frame of every table."""
    if same_frames:
        return [split.part for _ in tables]
    if split.kind == "random":
        raise UsageError("a split by row needs the same frames; these contestants have chunks of different sizes")
    of_group = dict(zip((split.names[number] for number in split.group.tolist()), split.part.tolist(), strict=True))
    return [np.array([of_group.get(group, -1) for group in table.groups()], np.int8) for table in tables]


def _unseen(checkpoint: Path, table: Table, kept: Bool[np.ndarray, "n"]) -> tuple[Bool[np.ndarray, "n"], str]:
    """Which frames a classifier was not trained on, by the split that lies beside it, and what to say of it."""
    path = outputs_of(checkpoint).split
    everything = np.ones(len(table.frames), bool)
    if not path.exists():
        return everything, f"there is no {path.name} beside it, so what it was trained on is taken to be other data."
    key, stored = read_split(path)
    doubt = _doubt(checkpoint, path)
    seen = {name for name, part in stored.items() if part != TEST}
    mine = table.ids() if key == "id" else table.groups()
    unseen = np.fromiter((name not in seen for name in mine), bool, len(mine))
    if key != "id" and table.features.group_of is not None:
        # It may have been trained on these rows by the groups that they were extracted with.
        first = table.features.as_extracted().groups()
        unseen &= np.fromiter((first[row] not in seen for row in table.row.tolist()), bool, len(mine))
    note = f"compared on the {int((unseen & kept).sum()):,} of {len(unseen):,} rows that it was not trained on.{doubt}"
    if key == "id":
        return unseen, f"{note} {_LEAKS}"
    if kept.all():
        return unseen, note
    clash = list(dict.fromkeys(mine[row] for row in np.flatnonzero(kept & ~unseen).tolist()))
    if not clash:
        return unseen, f"none of the groups held out is in its training or validation ({path.name}).{doubt}"
    return unseen, (
        f"{len(clash):,} groups held out here were in its training or validation ({path.name}), so their rows "
        f"are left out: {some(clash)}. Sets that are to be compared are made from one sheet with one seed.{doubt}"
    )


def _doubt(checkpoint: Path, path: Path) -> str:
    """What to say where nothing shows that a classifier was trained on the split beside it; else nothing."""
    expected = Checkpoint.load(checkpoint).split.get(FILE_DIGEST)
    if expected is None:
        return f" It does not say which split it was trained on; {path.name} is taken to be that."
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    if found != expected:
        raise FeatureError(
            f"{path} is not the split that {checkpoint} was trained on: it was changed, or is another training's. Put "
            "back the one that was written with it, train anew, or compare on every row with --all"
        )
    return ""


def _shared(
    unseen: Bool[np.ndarray, "n"], place: int, tables: Sequence[Table], same_frames: bool
) -> list[Bool[np.ndarray, "m"]]:
    """The same choice in every table; where frames differ, of whole records."""
    if same_frames:
        return [unseen for _ in tables]
    whole = np.ones(len(tables[place].frames.names), bool)
    whole[tables[place].frames.record[~unseen]] = False
    return [whole[table.frames.record] for table in tables]
