"""Turns what stands on the command line, sequence files and samplesheets, into a list of input files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import InputError, UsageError
from vnp.sequences._readable import check_readable
from vnp.sequences._sheet import DELIMITERS, Columns, file_in_sheet, read_rows, require_utf8

UNLABELLED = -1
LABELS = {"viral": 1, "host": 0, "": UNLABELLED}
COLUMNS = ("path", "label", "group")
_SHEET = Columns("samplesheet", COLUMNS, "of which label and group may be left empty")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One sequence file.

    Attributes:
        path: absolute.
        label: 1 viral, 0 host, -1 unlabelled.
        group: the unit that is never split between training and test; None means each record is its own.
    """

    path: Path
    label: int = UNLABELLED
    group: str | None = None


def read_inputs(paths: Sequence[str | Path]) -> list[InputFile]:
    """List the input files in the order given.

    Args:
        paths: FASTA or FASTQ files, or samplesheets: names that end in ``.csv`` or ``.tsv``, with the columns path,
            label (viral, host or empty) and group (any name, or empty). Paths in a sheet are relative to the sheet.

    Raises:
        UsageError: no path was given, or one file twice.
        InputError: a file does not exist, or a samplesheet has a fault.
    """
    if not paths:
        raise UsageError("no input: give FASTA or FASTQ files, or a samplesheet (.csv or .tsv)")
    places: dict[Path, str] = {}
    inputs = []
    for path in map(Path, paths):
        is_sheet = path.suffix.lower() in DELIMITERS
        rows = _sheet(path) if is_sheet else iter([("the command line", InputFile(path.absolute()))])
        for place, item in rows:
            if not is_sheet:
                check_readable(path)
            require_utf8(item.path)
            real = item.path.resolve()
            if real in places:
                raise UsageError(f"{item.path} is given twice, in {places[real]} and in {place}; remove one")
            places[real] = place
            inputs.append(item)
    return inputs


def _sheet(path: Path) -> Iterator[tuple[str, InputFile]]:
    for line, row in read_rows(path, _SHEET):
        yield f"{path}, line {line}", _row(row, path, line)


def _row(row: dict[str, str], path: Path, line: int) -> InputFile:
    if not row["path"]:
        raise InputError("the path is empty", path=path, line=line)
    label = row["label"]
    if label.lower() not in LABELS:
        raise InputError(f"unknown label {label!r}: use viral, host, or leave it empty", path=path, line=line)
    return InputFile(file_in_sheet(row["path"], path, line), LABELS[label.lower()], row["group"] or None)
