"""Turns what stands on the command line, sequence files, datasets and samplesheets, into a list of input files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnp.errors import InputError, UsageError
from vnp.sequences._readable import check_readable
from vnp.sequences._sheet import DELIMITERS, Columns, read_rows, require_utf8

UNLABELLED = -1
LABELS = {"viral": 1, "host": 0, "": UNLABELLED}
COLUMNS = ("path", "label", "group")
DATASET_FASTA = "dataset.fna.gz"
DATASET_TABLE = "dataset.parquet"
_SHEET = Columns("samplesheet", COLUMNS, "of which label and group may be left empty")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One sequence file.

    Attributes:
        path: absolute.
        label: 1 viral, 0 host, -1 unlabelled.
        group: the unit that is never split between training and test; None means each record is its own.
        dataset: absolute path of the table that has label, unit, part and frames of each record, where the file is
            that of a dataset; label and group say nothing then.
    """

    path: Path
    label: int = UNLABELLED
    group: str | None = None
    dataset: Path | None = None

    @property
    def lacks_table(self) -> bool:
        """Whether it is called as the FASTA of a dataset is, but has no table beside it."""
        return self.dataset is None and self.path.name == DATASET_FASTA


def read_inputs(paths: Sequence[str | Path]) -> list[InputFile]:
    """List the input files in the order given.

    Args:
        paths: FASTA or FASTQ files; datasets, by their folder or one of its two files (``dataset.fna.gz`` beside
            ``dataset.parquet``); or samplesheets: names that end in ``.csv`` or ``.tsv``, with the columns path,
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
        rows = _sheet(path) if is_sheet else iter([("the command line", _input(path))])
        for place, item in rows:
            require_utf8(item.path)
            real = item.path.resolve()
            if real in places:
                raise UsageError(f"{item.path} is given twice, in {places[real]} and in {place}; remove one")
            places[real] = place
            inputs.append(item)
    return inputs


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


def _sheet(path: Path) -> Iterator[tuple[str, InputFile]]:
    for line, row in read_rows(path, _SHEET):
        yield f"{path}, line {line}", _row(row, path, line)


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
    if found.dataset is None:
        return replace(found, label=LABELS[label.lower()], group=row["group"] or None)
    if label or row["group"]:
        raise InputError(
            f"{row['path']} is a dataset, which has a label and a group for each record: leave both empty here",
            path=path,
            line=line,
        )
    return found
