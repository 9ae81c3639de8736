"""The rows that a contest is decided on: none of them was trained on by anybody."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int8

from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.split import (
    FILE_DIGEST,
    Split,
    read_split,
    split_as,
    split_of_data,
)
from vnp.classifier.train import outputs_of
from vnp.comparison._cases import Table
from vnp.comparison.contestants import CompareOptions, Contestant
from vnp.errors import FeatureError, UsageError, storage_error
from vnp.features.split import TEST, some
from vnp.files.durable import write_text

_LEAKS = "The split is by row: pieces of one genome were trained on and tested on, so the numbers are too good."


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
    note = f"compared on the {int((unseen & kept).sum()):,} of {len(unseen):,} rows that it was not trained on.{doubt}"
    if key == "id":
        return unseen, f"{note} {_LEAKS}"
    if kept.all():
        return unseen, note
    clash = list(dict.fromkeys(mine[row] for row in np.flatnonzero(kept & ~unseen).tolist()))
    if not clash:
        return unseen, f"none of the groups held out is in its training or validation ({path.name}).{doubt}"
    return unseen, (
        f"warning: {len(clash):,} groups held out here were in its training or validation ({path.name}), so their rows "
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
