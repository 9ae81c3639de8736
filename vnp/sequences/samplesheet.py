"""Turns what stands on the command line, sequence files, datasets and samplesheets, into a list of input files.

A sheet is a table that a user writes by hand or with a spreadsheet program: CSV or TSV with named columns. Nothing
here loads numpy, so that a login node can look at its inputs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnp.errors import InputError, UsageError, storage_error
from vnp.files.claims import make_folder
from vnp.files.durable import protect, sync_file, sync_folder, temporary_name
from vnp.files.records import open_regular

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = {",": "commas", "\t": "tabs"}
UNLABELLED = -1
LABELS = {"viral": 1, "host": 0, "": UNLABELLED}
COLUMNS = ("path", "label", "group")
STANDARD_INPUT = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
DATASET_FASTA = "dataset.fna.gz"
DATASET_TABLE = "dataset.parquet"
_PIECE = 1 << 20
FIRST, SECOND, BOTH = "first", "second", "both"
"""Which mates of pairs a file holds."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a kind of table."""

    what: str  # what the table is called in messages
    required: tuple[str, ...]  # columns that must be there
    hint: str  # what a message about a missing column says after their names
    optional: tuple[str, ...] = ()  # columns that may be there; a row has an empty text where they are not


def table_rows(path: Path, what: str, separator: str = "\t") -> Iterator[tuple[int, list[str]]]:
    """Read a table of any user's, or of ours (``vnp.files.tables`` says how they are written).

    ``what`` it is, for messages: ``samplesheet``.

    Yields:
        The line, from 1, and its fields as they are; of a blank line none.

    Raises:
        InputError: the file cannot be read, or is not such a table.
    """
    try:
        # utf-8-sig, since spreadsheet programs write a byte-order mark.
        with (
            open_regular(path) as opened,
            io.TextIOWrapper(io.BufferedReader(opened), encoding="utf-8-sig", newline="") as file,
        ):
            reader = csv.reader(file, delimiter=separator, strict=True)
            for cells in reader:
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise InputError(f"the {what} is not UTF-8 text; save it as UTF-8", path=path) from error
    except csv.Error as error:
        raise InputError(f"not a table that can be read: {error}", path=path, line=reader.line_num) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error


def read_rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the rows of a table, without those that are blank.

    The name ends in ``.csv`` or ``.tsv``, in either case; columns that it must not have are passed over.

    Yields:
        The line, and the text of each column without the white space around it.

    Raises:
        InputError: the file cannot be read, or is not such a table, or has no rows.
    """
    check_readable(path)
    delimiter = DELIMITERS[path.suffix.lower()]
    rows = 0
    lines = table_rows(path, columns.what, delimiter)
    _, header = next(lines, (1, None))
    if header is None:
        names = ", ".join(columns.required)
        raise InputError(f"the {columns.what} is empty; it needs the columns {names}", path=path)
    places = _places(header, columns, path, delimiter)
    for line, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        rows += 1
        if len(cells) != len(header):
            raise InputError(f"has {len(cells)} columns, the header {len(header)}", path=path, line=line)
        row = dict.fromkeys(columns.optional, "")
        row.update((name, cells[place].strip()) for name, place in places.items())
        yield line, row
    if not rows:
        raise InputError(f"the {columns.what} has no rows below its header", path=path)


def _places(header: list[str], columns: Columns, path: Path, delimiter: str) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in columns.required if name not in names]
    if missing:
        hint = f"; are its columns separated by {_SEPARATORS[delimiter]}?" if len(names) == 1 else ""
        raise InputError(
            f"there is no column {' and none called '.join(missing)}: a {columns.what} has the columns "
            f"{', '.join(columns.required)}, {columns.hint}{hint}",
            path=path,
            line=1,
        )
    wanted = [name for name in (*columns.required, *columns.optional) if name in names]
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise InputError(f"two columns are called {twice[0]}; remove one", path=path, line=1)
    return {name: names.index(name) for name in wanted}


def check_readable(path: Path) -> None:
    """Refuse what is not a file that can be read again.

    Raises:
        InputError: the path is missing, a folder, a pipe, or may not be read.
    """
    if not path.exists():
        hint = "the link points nowhere" if path.is_symlink() else "check the path"
        raise InputError(f"there is no such file; {hint}", path=path)
    if path.is_dir():
        raise InputError("is a folder; give the FASTA, FASTQ or BAM files in it", path=path)
    if not path.is_file():
        raise InputError(
            "is not a regular file; inputs are read more than once: save it to a file first, or pipe it in and give -",
            path=path,
        )
    if not os.access(path, os.R_OK):
        raise InputError("may not be read; check its permissions", path=path)


def file_in_sheet(name: str, path: Path, line: int) -> Path:
    """The absolute path of a file that a table names, relative to the table's own folder.

    Raises:
        InputError: the name is empty, or the file cannot be read.
    """
    if not name:
        raise InputError("the path is empty", path=path, line=line)
    file = (path.absolute().parent / name).absolute()
    try:
        check_readable(file)
    except InputError as error:
        raise InputError(str(error), path=path, line=line) from error
    return file


def require_utf8(path: Path) -> None:
    """Refuse a path that no text file can hold: runs, tables and features tell where their records come from.

    Raises:
        InputError: the path is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        if "\\x" not in shown:
            raise InputError("this locale has not all letters of the path; set PYTHONUTF8=1", path=shown) from error
        raise InputError("the path is not UTF-8; rename the file or folder", path=shown) from error


_SHEET = Columns("samplesheet", COLUMNS, "of which label and group may be left empty", ("sample", "path2"))
_OF_ANY = Columns("samplesheet", COLUMNS[:1], "and may have sample and path2", (*COLUMNS[1:], "sample", "path2"))
_WORD = re.compile(r"[.+-]*\w[\w.+-]*")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One sequence file."""

    path: Path  # absolute
    label: int = UNLABELLED  # 1 viral, 0 host, -1 unlabelled
    # the unit that is never split between training and test; None means each record is its own
    group: str | None = None
    # absolute path of the table that has label, unit, part and frames of each record, where the file is that of a
    # dataset; label and group say nothing then
    dataset: Path | None = None
    sample: str | None = None  # of which its records are; put in front of their names
    # ``FIRST`` or ``SECOND`` reads of pairs, the second behind the first, or ``BOTH`` in turn; None: no pairs
    mates: str | None = None


def read_inputs(paths: Sequence[str | Path], spool: Path | None = None, *, labels: bool = True) -> list[InputFile]:
    """List the input files in the order given.

    Args:
        paths: FASTA, FASTQ or BAM files; datasets, by their folder or one of its two files (``dataset.fna.gz`` beside
            ``dataset.parquet``); or samplesheets: names that end in ``.csv`` or ``.tsv``, with the columns path,
            label (viral, host or empty) and group (any name, or empty), and if wished sample (one word) and path2 (of
            the second reads of pairs). Paths in a sheet are relative to the sheet. ``-`` is standard input.
        spool: folder that keeps standard input as a file; None where there is no place for one.
        labels: whether samplesheets must have the columns label and group; they may have them all the same.

    Raises:
        UsageError: no path was given, or one file twice, or standard input where it cannot be kept or is a terminal.
        InputError: a file does not exist, a samplesheet has a fault, or standard input is empty.
        StorageError: standard input cannot be kept; nothing of it stays.
    """
    if not paths:
        raise UsageError("no input: give FASTA, FASTQ or BAM files, or a samplesheet (.csv or .tsv)")
    places: dict[Path, str] = {}
    inputs = []
    for path in map(Path, paths):
        rows: Iterable[tuple[str, InputFile]]
        if str(path) in STANDARD_INPUT:
            rows = [("standard input", InputFile(_spooled(spool)))]
        elif path.suffix.lower() in DELIMITERS:
            rows = (
                (f"{path}, line {line}", file)
                for line, row in read_rows(path, _SHEET if labels else _OF_ANY)
                for file in _mates(row, path, line)
            )
        else:
            rows = [("the command line", _input(path))]
        for place, item in rows:
            require_utf8(item.path)
            real = item.path.resolve()
            if real in places:
                where = f"in {places[real]}" + ("" if places[real] == place else f" and in {place}")
                raise UsageError(f"{item.path} is given twice, {where}; remove one")
            places[real] = place
            inputs.append(item)
    protect(path for item in inputs for path in (item.path, item.dataset) if path is not None)
    return inputs


def _spooled(folder: Path | None) -> Path:
    """Standard input as a file that is called after its SHA-256: inputs are read more than once, and elsewhere too."""
    if folder is None:
        raise UsageError("standard input can be read only once, and here is no run to keep it in: save it to a file")
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is a terminal or closed: give files, or pipe sequences in")
    folder = folder.absolute()
    make_folder(folder)
    temporary = temporary_name(folder / "stdin")
    found = hashlib.sha256()
    try:
        with temporary.open("xb") as file:
            while piece := sys.stdin.buffer.read(_PIECE):
                found.update(piece)
                file.write(piece)
            size = file.tell()
        if not size:
            raise InputError("standard input is empty")
        path = folder / f"stdin-{found.hexdigest()[:16]}"
        sync_file(temporary)
        os.replace(temporary, path)  # noqa: PTH105  the same bytes under the same name
        sync_folder(folder)
    except OSError as error:
        raise storage_error(error, f"writing standard input to {folder}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def lost_tables(files: Iterable[InputFile]) -> list[str]:
    """Warnings of inputs that look like a dataset without its table, and what that means."""
    return [
        f"warning: {file.path} has no {DATASET_TABLE} beside it, so it is taken as plain FASTA: every open frame "
        "becomes a row, and none has a label, unit or part of a split"
        for file in files
        if file.dataset is None and file.path.name == DATASET_FASTA
    ]


def _input(path: Path) -> InputFile:
    """A file, or a dataset by its folder or one of its files."""
    folder = path if path.is_dir() else path.parent
    fasta, table = (folder / name for name in (DATASET_FASTA, DATASET_TABLE))
    if path.is_dir() and not fasta.exists() and not table.exists():
        raise InputError(
            f"is a folder without {DATASET_FASTA} and {DATASET_TABLE}, which make a dataset; give the FASTA or FASTQ "
            "files in it",
            path=path,
        )
    if path.suffix.lower() == ".parquet" and path.name != DATASET_TABLE:
        raise InputError(
            f"is a table, not sequences; the files of a dataset are called {DATASET_FASTA} and {DATASET_TABLE}",
            path=path,
        )
    if not path.is_dir() and path.name not in (DATASET_FASTA, DATASET_TABLE):
        check_readable(path)
        return InputFile(path.absolute())
    check_readable(fasta)
    if path.name != DATASET_TABLE and not table.exists():
        return InputFile(fasta.absolute())
    check_readable(table)
    return InputFile(fasta.absolute(), dataset=table.absolute())


def _mates(row: dict[str, str], path: Path, line: int) -> list[InputFile]:
    """The file of a row, or its two."""
    first = _row(row, path, line)
    if not row["path2"]:
        return [first]
    second = _row({**row, "path": row["path2"]}, path, line)
    if first.dataset is not None or second.dataset is not None:
        raise InputError("path2 is for reads, not for a dataset", path=path, line=line)
    return [replace(first, mates=FIRST), replace(second, mates=SECOND)]


def _row(row: dict[str, str], path: Path, line: int) -> InputFile:
    if not row["path"]:
        raise InputError("the path is empty", path=path, line=line)
    label = row["label"]
    if label.lower() not in LABELS:
        raise InputError(f"unknown label {label!r}: use viral, host, or leave it empty", path=path, line=line)
    try:
        found = _input((path.absolute().parent / row["path"]).absolute())
    except InputError as error:
        raise InputError(str(error), path=path, line=line) from error
    sample = row["sample"] or None
    if sample is not None and not _WORD.fullmatch(sample):
        raise InputError(
            f"the sample {sample!r} is not one word of letters, digits, _, ., + and -, which names of records take",
            path=path,
            line=line,
        )
    if not row["group"].isprintable():
        raise InputError(f"the group {row['group']!r} holds a character that is none to print", path=path, line=line)
    found = replace(found, sample=sample)
    if found.dataset is None:
        return replace(found, label=LABELS[label.lower()], group=row["group"] or None)
    if label or row["group"]:
        raise InputError(
            f"{row['path']} is a dataset, which has a label and a group for each record: leave both empty here",
            path=path,
            line=line,
        )
    return found
