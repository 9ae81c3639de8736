"""Turns what stands on the command line, sequence files and samplesheets, into a list of input files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import InputError, UsageError
from vnp.sequences._readable import check_readable

UNLABELLED = -1
LABELS = {"viral": 1, "host": 0, "": UNLABELLED}
COLUMNS = ("path", "label", "group")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = {",": "commas", "\t": "tabs"}


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
        is_sheet = path.suffix.lower() in _DELIMITERS
        rows = _sheet(path) if is_sheet else iter([("the command line", InputFile(path.absolute()))])
        for place, item in rows:
            if not is_sheet:
                check_readable(path)
            _require_utf8(item.path)
            real = item.path.resolve()
            if real in places:
                raise UsageError(f"{item.path} is given twice, in {places[real]} and in {place}; remove one")
            places[real] = place
            inputs.append(item)
    return inputs


def _require_utf8(path: Path) -> None:
    """Refuse a path that no text file can hold: runs, tables and features tell where their records come from."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError("the path is not UTF-8; rename the file or folder", path=shown) from error


def _sheet(path: Path) -> Iterator[tuple[str, InputFile]]:
    check_readable(path)
    delimiter = _DELIMITERS[path.suffix.lower()]
    rows = 0
    try:
        # utf-8-sig, since spreadsheet programs write a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, None)
            if header is None:
                raise InputError(f"the samplesheet is empty; it needs the columns {', '.join(COLUMNS)}", path=path)
            columns = _columns(header, path, delimiter)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    rows += 1
                    yield f"{path}, line {reader.line_num}", _row(cells, header, columns, path, reader.line_num)
    except UnicodeDecodeError as error:
        raise InputError("the samplesheet is not UTF-8 text; save it as UTF-8", path=path) from error
    except csv.Error as error:
        raise InputError(f"not a table that can be read: {error}", path=path, line=reader.line_num) from error
    if not rows:
        raise InputError("the samplesheet has no rows below its header", path=path)


def _columns(header: list[str], path: Path, delimiter: str) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        hint = f"; are its columns separated by {_SEPARATORS[delimiter]}?" if len(names) == 1 else ""
        raise InputError(
            f"there is no column {' and none called '.join(missing)}: a samplesheet has the columns "
            f"{', '.join(COLUMNS)}, of which label and group may be left empty{hint}",
            path=path,
            line=1,
        )
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise InputError(f"two columns are called {twice[0]}; remove one", path=path, line=1)
    return {name: names.index(name) for name in COLUMNS}


def _row(cells: list[str], header: list[str], columns: dict[str, int], path: Path, line: int) -> InputFile:
    if len(cells) != len(header):
        raise InputError(f"has {len(cells)} columns, the header {len(header)}", path=path, line=line)
    name, label, group = (cells[columns[column]].strip() for column in COLUMNS)
    if not name:
        raise InputError("the path is empty", path=path, line=line)
    if label.lower() not in LABELS:
        raise InputError(f"unknown label {label!r}: use viral, host, or leave it empty", path=path, line=line)
    file = (path.absolute().parent / name).absolute()
    try:
        check_readable(file)
    except InputError as error:
        raise InputError(str(error), path=path, line=line) from error
    return InputFile(file, LABELS[label.lower()], group or None)
