"""Deals rows out to training, validation and test so that what resembles each other stays together.

A group (a genome, a set of segments) is never cut: chunks of one genome on both sides of a split let a classifier
recognise the genome instead of the virus. Groups of each class are dealt out separately, so that every part has its
share of both. Groups that are nearly the same genome can be found first, so that they stay on one side.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int8, Int64

from vnp.classifier.model import CLASSES
from vnp.errors import ChangedInputError, FeatureError, InputError
from vnp.features.read import Features
from vnp.features.split import PARTS, TEST, TRAIN, VALIDATION, deal, shares_of_parts, some
from vnp.features.table import Records
from vnp.files.tables import table_text
from vnp.runs.planning.plan import check_inputs, planned_records
from vnp.runs.request import PlannedInput
from vnp.sequences.identity import SHORTEST, clusters_of_genomes
from vnp.sequences.samplesheet import table_rows

FILE_DIGEST = "file_sha256"
"""Key of a checkpoint's split: SHA-256 of the table that was written beside it."""
_FEW_GROUPS = 20
_DEAL_ANEW = "Try another --seed, or name more groups in the samplesheet's column group"
_MAKE_ANEW = "Make the dataset of more genomes, or deal its units out anew with --split group"


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Where each row goes."""

    # ``group``, ``random`` (rows on their own, which leaks), ``dataset`` (it came with the data), or ``file``
    kind: Literal["group", "random", "dataset", "file"]
    part: Int8[np.ndarray, "n"]  # of each row: 0 train, 1 validation, 2 test
    group: Int64[np.ndarray, "n"]  # number of each row's group, an index into ``names``
    names: Sequence[str]  # of the groups
    seed: int | None  # of the dealing; None where a file or the data decided
    joined: int = 0  # groups that were kept together with another one, by ``--dedupe``

    def rows(self, part: int) -> Int64[np.ndarray, "m"]:
        """Numbers of the rows of a part, ascending."""
        return np.flatnonzero(self.part == part)

    def summary(self, label: Int8[np.ndarray, "n"]) -> dict[str, Any]:
        """Counts of rows, classes and groups in each part, and a digest of the whole."""
        parts = {}
        for number, name in enumerate(PARTS):
            rows = self.rows(number)
            parts[name] = {
                "rows": len(rows),
                "viral": int((label[rows] == 1).sum()),
                "groups": len(np.unique(self.group[rows])),
            }
        digest = hashlib.sha256(self.part.tobytes()).hexdigest()
        return {"kind": self.kind, "seed": self.seed, "joined": self.joined, "sha256": digest, "parts": parts}

    def text(self, ids: Sequence[str]) -> str:
        """``group``, ``part`` (or, where a group is cut, ``id``, ``part``) as TSV, fit for ``--split FILE``."""
        whole = self._by_group()
        key = "id" if whole is None else "group"
        pairs = zip(ids, self.part.tolist(), strict=True) if whole is None else whole.items()
        return table_text([(key, "part"), *((name, PARTS[part]) for name, part in pairs)])

    def doubts(self, label: Int8[np.ndarray, "n"], record: Int64[np.ndarray, "n"]) -> Iterator[str]:
        """What makes measures on this split worth less than they look; the record is the number of each row's."""
        if self.kind != "random" and (single := single_records(self.group, record)):
            yield single
        for kind, name in enumerate(CLASSES):
            groups = len(np.unique(self.group[label == kind]))
            if groups < _FEW_GROUPS:
                yield (
                    f"only {groups:,} groups are {name}: what is measured on the few of them that are held out says "
                    "little of others"
                )

    def cut_groups(self) -> list[str]:
        """Groups with rows in more than one part."""
        lowest, highest = self._reach()
        return [self.names[number] for number in np.flatnonzero(lowest != highest).tolist()]

    def _reach(self) -> tuple[Int64[np.ndarray, "groups"], Int64[np.ndarray, "groups"]]:
        """The lowest and the highest part of each group."""
        lowest, highest = (np.full(len(self.names), value, np.int64) for value in (len(PARTS), -1))
        np.minimum.at(lowest, self.group, self.part)
        np.maximum.at(highest, self.group, self.part)
        return lowest, highest

    def _by_group(self) -> dict[str, int] | None:
        """The part of each group, or None if a group is cut."""
        lowest, highest = self._reach()
        return None if (lowest != highest).any() else dict(zip(self.names, lowest.tolist(), strict=True))


def single_records(group: Int64[np.ndarray, "n"], record: Int64[np.ndarray, "n"]) -> str:
    """What to say where each group is one record, by the numbers of each row's; else nothing."""
    pairs = np.unique(np.stack([group, record], axis=1), axis=0)
    groups, records = np.unique(pairs[:, 0], return_counts=True)
    if (records > 1).any():
        return ""
    return (
        f"each of the {len(groups):,} groups is a single record: pieces of one genome, or genomes that are nearly the "
        "same, may stand on both sides. Name genomes in the samplesheet's column group, or take --units or --dedupe"
    )


def split_named(text: str) -> Literal["auto", "group", "random"] | Path:
    """What a user calls a split: one of three words, or a file; InputError where it is neither."""
    if text in ("auto", "group", "random"):
        return cast(Literal["auto", "group", "random"], text)
    path = Path(text)
    if not path.is_file():
        raise InputError("is neither auto, group nor random nor a file that says who is in which part", path=path)
    return path


def text_digest(text: str) -> str:
    """SHA-256 of a split's table, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def number_groups(groups: Sequence[str]) -> tuple[list[str], Int64[np.ndarray, "n"]]:
    """Distinct names in order of their first row, and the index of every row's."""
    places: dict[str, int] = {}
    numbers = np.fromiter((places.setdefault(name, len(places)) for name in groups), np.int64, len(groups))
    return list(places), numbers


def split_groups(
    label: Int8[np.ndarray, "n"],
    groups: Sequence[str],
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    clusters: Mapping[str, int] | None = None,
) -> Split:
    """Split by group, stratified by label: each part gets its share of the groups of each class.

    A group with both classes counts as the one that it has more of. Groups of a cluster go to the same part.
    """
    shares = shares_of_parts(validation, test)
    names, group = number_groups(groups)
    unit_of_group = np.arange(len(names))
    if clusters is not None:
        _, unit_of_group = np.unique([clusters[name] for name in names], return_inverse=True)
    unit = unit_of_group[group]
    units = int(unit_of_group.max()) + 1
    viral = np.bincount(unit, weights=label, minlength=units) * 2 >= np.bincount(unit, minlength=units)
    part_of_unit = np.zeros(units, np.int8)
    chance = np.random.default_rng([seed, 0])
    for number in (1, 0):
        own = np.flatnonzero(viral == bool(number))
        if len(own) < len(shares):
            raise FeatureError(
                f"groups of the class {CLASSES[number]}: {len(own)}, too few to give one to each of "
                f"{', '.join(PARTS[part] for part in shares)}. Name more groups in the samplesheet's column group, "
                "leave out the test part (--test 0), or split by row (--split random), which leaks"
            )
        part_of_unit[chance.permutation(own)] = deal(len(own), shares)
    split = Split("group", part_of_unit[unit], group, names, seed, joined=len(names) - units)
    _require_classes(split, label, shares)
    return split


def split_as(
    how: Literal["auto", "group", "random"] | Path,
    label: Int8[np.ndarray, "n"],
    groups: Sequence[str],
    ids: Callable[[], Sequence[str]],
    *,
    validation: float,
    test: float,
    seed: int,
    clusters: Mapping[str, int] | None = None,
) -> Split:
    """Split in one of these ways, or as a file says.

    Raises:
        FeatureError: there are too few groups, or a part would lack a class.
        InputError: a split file cannot be used.
        UsageError: the shares leave nothing to train on.
    """
    if isinstance(how, Path):
        return split_from_file(how, label, groups, ids())
    if how == "random":
        return split_rows(label, groups, validation=validation, test=test, seed=seed)
    return split_groups(label, groups, validation=validation, test=test, seed=seed, clusters=clusters)


def split_rows(
    label: Int8[np.ndarray, "n"], groups: Sequence[str], *, validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> Split:
    """Split row by row, stratified by label, as VirNucPro does. Chunks of one genome stand on both sides: it leaks."""
    names, group = number_groups(groups)
    rows = [str(row) for row in range(len(label))]
    by_row = split_groups(label, rows, validation=validation, test=test, seed=seed)
    return replace(by_row, kind="random", group=group, names=names)


def split_from_file(path: Path, label: Int8[np.ndarray, "n"], groups: Sequence[str], ids: Sequence[str]) -> Split:
    """Take a split that was written before or elsewhere: TSV with the columns ``group`` (or ``id``) and ``part``."""
    key, stored = read_split(path)
    keys = groups if key == "group" else ids
    missing = [name for name in dict.fromkeys(keys) if name not in stored]
    if missing:
        raise FeatureError(f"{path} says nothing of {len(missing)} of the {key}s: {some(missing)}")
    names, group = number_groups(groups)
    split = Split("file", np.array([stored[name] for name in keys], np.int8), group, names, None)
    _require_classes(split, label, _present(split))
    return split


def _require_classes(
    split: Split, label: Int8[np.ndarray, "n"], parts: Mapping[int, float], remedy: str = _DEAL_ANEW
) -> None:
    for part in parts:
        found = np.unique(label[split.rows(part)])
        if len(found) < 2:
            having = f"only {CLASSES[int(found[0])]} rows" if len(found) else "no rows"
            raise FeatureError(f"the part {PARTS[part]} would have {having}. {remedy}")


def split_of_data(
    part: Int8[np.ndarray, "n"], label: Int8[np.ndarray, "n"], groups: Sequence[str], *, to_train: bool = True
) -> Split:
    """Take the split that came with the data, as that of a dataset does; ``part`` is -1 where a row has none."""
    names, group = number_groups(groups)
    without = part < 0
    if without.any():
        lacking = [names[number] for number in np.unique(group[without]).tolist()]
        raise FeatureError(
            f"{int(without.sum()):,} of {len(part):,} rows came without a split, those of {some(lacking)}, beside "
            "rows of a dataset, which has one. Extract the dataset alone, or say who goes where: --split group deals "
            "all groups out anew, --split FILE takes a table with the columns group and part"
        )
    split = Split("dataset", part.astype(np.int8), group, names, None)
    cut = split.cut_groups()
    if cut:
        raise FeatureError(
            f"{len(cut):,} units are in more than one part of the split that came with the data: {some(cut)}. They "
            "are of datasets that were not made alike, or --groups joins what the dataset kept apart: make them from "
            "the same sheet with the same seed, or deal them out anew with --split group"
        )
    if to_train:
        _require_classes(split, label, _present(split), _MAKE_ANEW)
    return split


def _present(split: Split) -> dict[int, float]:
    """The parts that a split must have rows in: all, where it has a test part."""
    return {part: 0.0 for part in (TRAIN, VALIDATION, TEST) if part != TEST or (split.part == TEST).any()}


def read_split(path: Path) -> tuple[str, dict[str, int]]:
    """Read a split that was written."""
    table = table_rows(path, "split")
    _, header = next(table, (1, []))
    if len(header) < 2 or header[0] not in ("group", "id") or "part" not in header:
        raise InputError("a split has the columns group (or id) and part, separated by tabs", path=path, line=1)
    column = header.index("part")
    stored: dict[str, int] = {}
    for line, fields in table:
        if not fields:
            continue
        if len(fields) <= column or fields[column] not in PARTS:
            found = fields[column] if len(fields) > column else ""
            raise InputError(f"the part is {found!r}; it must be one of {', '.join(PARTS)}", path=path, line=line)
        if stored.setdefault(fields[0], PARTS.index(fields[column])) != PARTS.index(fields[column]):
            raise InputError(f"{fields[0]!r} was given another part above", path=path, line=line)
    return header[0], stored


def clusters_of_groups(features: Features, *, progress: Callable[[int], None] = lambda _groups: None) -> dict[str, int]:
    """Number the clusters that groups form when those of high identity (ANI) are joined.

    The sequences are read from the inputs that the features' provenance names; 15 % of one group must align for skani
    to tell.
    """
    genomes = _genomes(features)
    sizes = {name: sum(map(len, contigs)) for name, contigs in genomes.items()}
    return clusters_of_genomes(sizes, genomes.__getitem__, asked_by="--dedupe", progress=progress)


def _genomes(features: Features) -> dict[str, list[bytes]]:
    """The sequences of each group; those too short for a sketch are left out, the group stays."""
    records = features.records()
    genomes: dict[str, list[bytes]] = defaultdict(list)
    for place, sequence in record_sequences(features, records):
        contigs = genomes[records.group[place].decode()]
        if len(sequence) >= SHORTEST:
            contigs.append(sequence)
    for group in features.groups():
        genomes.setdefault(group, [])
    return dict(genomes)


def record_sequences(features: Features, records: Records) -> Iterator[tuple[int, bytes]]:
    """Place and bases of every record of the run, read anew from the inputs that the features' provenance names.

    Raises:
        ChangedInputError: one is gone or has changed.
    """
    inputs = [PlannedInput(**entry) for entry in features.provenance["inputs"]]
    check_inputs(inputs)
    for number, entry in enumerate(inputs):
        own = np.flatnonzero(records.input == number)
        # To the end of the file, where its bytes are known to be those that were planned.
        for record, place in zip(planned_records(entry), chain(own.tolist(), repeat(None)), strict=False):
            if place is None:
                continue
            stored = records.name[place].decode()
            if entry.record_name(record.name) != stored:
                raise ChangedInputError(
                    f"has this record where {stored!r} was embedded", path=entry.path, record=record.name
                )
            yield place, record.sequence
