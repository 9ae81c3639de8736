"""Reads cut from longer sequences: how a classifier does on pieces as short as a sequencer gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from vnp.errors import InputError, UsageError
from vnp.files.durable import replacing, write_text
from vnp.files.tables import table_text
from vnp.sequences.reading import Record, read_records
from vnp.sequences.record import reverse_complement
from vnp.sequences.samplesheet import InputFile

_LABELS = {1: "viral", 0: "host", -1: ""}


def cut_reads(
    inputs: Sequence[InputFile],
    folder: Path,
    *,
    length: int,
    most: int,
    groups: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    seed: int = 0,
) -> tuple[int, int]:
    """Cut reads at random places of either strand, without errors, and write a samplesheet of them.

    A record gives one read for each ``length`` bases that it has, but not more than ``most``. A read is called
    ``{record}:{first}-{last}``, 1-based, with ``:r`` behind it if it is of the reverse strand.

    Args:
        folder: gets ``samplesheet.csv``, ``groups.tsv``, and a file of reads for each input.
        groups: group of a record that must not be split, by its name; by default the one of its file, or the record.
        only: groups to cut from, such as those of the test part; all by default.

    Returns:
        How many reads there are, and of how many records.

    Raises:
        UsageError: two inputs have the same name, or lie where the reads go.
        InputError: an input cannot be read, a record has no group, or no record is as long as a read.
        StorageError: the disk is full or cannot be written.
    """
    names = [f"{entry.path.name.split('.')[0]}.fna" for entry in inputs]
    if len(set(names)) < len(names):
        raise UsageError("two inputs have the same file name; rename one")
    if {(folder / name).resolve() for name in names} & {entry.path.resolve() for entry in inputs}:
        raise UsageError(f"the reads would be written over the inputs in {folder}; choose another folder")
    chance = np.random.default_rng(seed)
    group_of: dict[str, str] = {}
    lines: list[tuple[str, str, str]] = []
    records = 0
    for entry, name in zip(inputs, names, strict=True):
        text: list[bytes] = []
        for record in read_records(entry.path):
            if record.problem:
                continue
            group = _group(record.name, entry, groups)
            if (only is None or group in only) and len(record.sequence) >= length:
                records += 1
                cut = _cut(record, length, most, chance)
                group_of |= dict.fromkeys(cut, group)
                text += [b">%s\n%s\n" % (called.encode(), bases) for called, bases in cut.items()]
        if text:
            lines.append((name, _LABELS[entry.label], ""))
            with replacing(folder / name) as temporary:
                temporary.write_bytes(b"".join(text))
    if not group_of:
        raise InputError(f"no record has {length} bases, or none is of the groups asked for")
    sheet, table = folder / "samplesheet.csv", folder / "groups.tsv"
    write_text(table, table_text(group_of.items()))
    write_text(sheet, table_text([("path", "label", "group"), *lines], ","))
    return len(group_of), records


def _cut(record: Record, length: int, most: int, chance: np.random.Generator) -> dict[str, bytes]:
    """Reads of a record by name; a place that comes twice counts once."""
    sequence = record.sequence
    count = min(most, len(sequence) // length)
    found = {}
    for start in chance.integers(len(sequence) - length + 1, size=count).tolist():
        bases, strand = sequence[start : start + length], ""
        if chance.integers(2):
            bases, strand = reverse_complement(bases), ":r"
        found[f"{record.name}:{start + 1}-{start + length}{strand}"] = bases
    return found


def _group(name: str, entry: InputFile, groups: Mapping[str, str] | None) -> str:
    if groups is None:
        return entry.group or name
    if name not in groups:
        raise InputError("has no group in the file given", path=entry.path, record=name)
    return groups[name]
