"""Pairs of reads: two ends of one fragment, side by side, and which files hold them.

Mates are called alike, or ``NAME/1`` and ``NAME/2`` (or ``.1`` and ``.2``, ``_1`` and ``_2``).
Here they come out as ``NAME/1`` and ``NAME/2``, and the fragment is ``NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from vnp.errors import InputError, UsageError
from vnp.sequences.reading import read_records
from vnp.sequences.record import Record
from vnp.sequences.samplesheet import BOTH, FIRST, SECOND, InputFile

_SUFFIX = 2
_ENDS = {f"{mark}1": f"{mark}2" for mark in "/._"}
# reads_R1.fq.gz, reads_1.fastq, reads.1.fq and sequencers' reads_R1_001.fastq.gz
_FILE = re.compile(r"(?P<before>.+[._-][Rr]?)(?P<mate>[12])(?P<behind>(?:_\d{3})?\.\D.*)")


def fragment_of(first: str, second: str) -> str | None:
    """The name of the fragment that two reads are of; None where they are no mates."""
    if first == second:
        return first
    both = first[:-_SUFFIX], second[:-_SUFFIX]
    return both[0] if both[0] == both[1] and _ENDS.get(first[-_SUFFIX:]) == second[-_SUFFIX:] else None


def fragment_name(mate: bytes) -> bytes:
    """The name of the fragment, from that of a mate as it comes out here."""
    return mate[:-_SUFFIX]


def side_by_side(first: Iterator[Record], second: Iterator[Record], paths: tuple[Path, Path]) -> Iterator[Record]:
    """Mates of two files, one behind the other.

    Raises:
        InputError: two that should be mates are not, or one file has more than the other.
    """
    for number, (one, other) in enumerate(zip_longest(first, second), start=1):
        if one is None or other is None:
            longer, shorter = paths if other is None else paths[::-1]
            extra = one or other
            raise InputError(
                f"{_said(extra)} has no mate: {shorter} ends after {number - 1:,} reads. Were both files filtered "
                "together, and is one cut off?",
                path=longer,
            )
        yield from _named(one, other, f"{paths[0]} and {paths[1]}", f"read {number:,} of both files")


def in_turn(records: Iterator[Record], path: Path) -> Iterator[Record]:
    """Mates of one file, one behind the other there; ``InputError`` where a read is not followed by its mate."""
    number = 1
    for one in records:
        other = next(records, None)
        if other is None:
            raise InputError(f"{_said(one)} is the last read and has no mate", path=path)
        yield from _named(one, other, str(path), f"reads {number:,} and {number + 1:,}")
        number += 2


def _named(one: Record, other: Record, where: str, which: str) -> tuple[Record, Record]:
    name = fragment_of(one.name, other.name)
    if name is None:
        raise InputError(
            f"{which} should be mates and are not: {_said(one)} and {_said(other)}. Pairs are two files with mates in "
            "the same order, called alike but for _R1 and _R2 or given as path and path2 of a samplesheet, or one file "
            "where each read is followed by its mate ('samtools collate' brings those of BAM together). Mates are "
            "called alike, or end in /1 and /2",
            path=where,
        )
    # No place in the file: pairs are read from its start on, where it is known which read is the first of two.
    return (
        one._replace(name=f"{name}/1", offset=None),
        other._replace(name=f"{name}/2", offset=None),
    )


def _said(record: Record | None) -> str:
    assert record is not None
    return f"{record.name!r}" + (f" (line {record.line:,})" if record.line else "")


def arranged(files: Sequence[InputFile], *, pairs: bool) -> tuple[InputFile, ...]:
    """Files in the order in which they are read: those of a sample, and of pairs, one behind the other.

    With ``pairs`` reads are called with their mates: each file is one of two, or holds both mates in turn.

    Raises:
        UsageError: the two files of pairs are called otherwise, or not of one sample.
        InputError: a file cannot be read.
    """
    first_of: dict[str, int] = {}
    places = [
        place if file.sample is None else first_of.setdefault(file.sample, place) for place, file in enumerate(files)
    ]
    ordered = [files[at] for at in sorted(range(len(files)), key=lambda at: (places[at], at))]
    if not pairs:
        return tuple(ordered)
    matches = {file.path: _FILE.fullmatch(file.path.name) for file in ordered if file.mates is None}
    known = {(path.parent, *match.group("before", "behind", "mate")): path for path, match in matches.items() if match}
    by_path = {file.path: file for file in ordered}
    found: list[InputFile] = []
    used: set[Path] = set()
    for file in ordered:
        if file.path in used:
            continue
        match = matches.get(file.path)
        key = match and (file.path.parent, *match.group("before", "behind"))
        two = [known.get((*key, mate)) for mate in "12"] if key else []
        if file.mates is not None:
            found.append(file)
        elif two and all(two):
            found += _pair(*(by_path[path] for path in two if path))
            used |= {path for path in two if path}
        else:
            found.append(replace(file, mates=BOTH))
    if len(found) == 2 and all(file.mates == BOTH for file in found):
        names = [next((record.name for record in read_records(file.path)), "") for file in found]
        if fragment_of(*names) is not None:
            return tuple(_pair(*found))
    return tuple(found)


def _pair(one: InputFile, other: InputFile) -> list[InputFile]:
    if (one.sample, one.label, one.group) != (other.sample, other.label, other.group):
        raise UsageError(f"{one.path} and {other.path} hold pairs, and differ in sample, label or group")
    return [replace(one, mates=FIRST), replace(other, mates=SECOND)]
