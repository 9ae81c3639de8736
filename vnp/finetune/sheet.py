"""Reads the list of genomes to train from: a samplesheet with the columns path, label and group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vnp.encoders.models.sixframe import KINDS, VIRAL_KINDS
from vnp.errors import InputError
from vnp.sequences.samplesheet import Columns, file_in_sheet, read_rows

_SHEET = Columns(
    what="sheet of genomes",
    required=("path", "label", "group"),
    hint="",
    optional=("unit", "kind", "sample"),
)
_LABELS = {"viral": True, "host": False}


@dataclass(frozen=True, slots=True)
class GenomeFile:
    """One row of the sheet.

    Attributes:
        path: a FASTA file.
        viral: its label.
        group: organisms that crops are drawn from alike, such as ``archaea``.
        unit: what is never split, such as a genome with its plasmids; the file's name where the sheet has none.
        kinds: the ``KINDS`` that its records may be, one bit each; all of its label's where the sheet tells none.
        sample: the collection that it is of; empty where that is not told.
    """

    path: Path
    viral: bool
    group: str
    unit: str
    kinds: int
    sample: str


def read_sheet(path: Path) -> list[GenomeFile]:
    """Read a sheet of genomes.

    The columns path, label (viral or host) and group are needed; unit, kind (one of ``KINDS``, or several with ``|``
    between them where it is one of those) and sample may be there. Paths are relative to the sheet.

    Raises:
        InputError: the sheet, a row, or a file it names cannot be used, or one of both labels is missing.
    """
    files = []
    for line, row in read_rows(path, _SHEET):
        label = row["label"].lower()
        if label not in _LABELS:
            raise InputError(f"label {row['label']!r}: training needs viral or host", path=path, line=line)
        if not row["group"]:
            raise InputError("the group is empty; name the kind of organism", path=path, line=line)
        file = file_in_sheet(row["path"], path, line)
        viral = _LABELS[label]
        kinds = _kinds(row["kind"], viral, path, line)
        files.append(GenomeFile(file, viral, row["group"], row["unit"] or file.name, kinds, row["sample"]))
    for name, viral in _LABELS.items():
        if not any(file.viral is viral for file in files):
            raise InputError(f"no row is {name}; training needs both labels", path=path)
    return files


def kinds_of(viral: bool) -> int:
    """The bits of all kinds of a label."""
    viruses = (1 << VIRAL_KINDS) - 1
    return viruses if viral else (1 << len(KINDS)) - 1 - viruses


def _kinds(text: str, viral: bool, path: Path, line: int) -> int:
    if not text:
        return kinds_of(viral)
    bits = 0
    for name in text.split("|"):
        if name not in KINDS:
            raise InputError(f"unknown kind {name!r}: use {', '.join(KINDS)}", path=path, line=line)
        bits |= 1 << KINDS.index(name)
    if bits & ~kinds_of(viral):
        raise InputError(f"kind {text!r} does not go with the label", path=path, line=line)
    return bits
