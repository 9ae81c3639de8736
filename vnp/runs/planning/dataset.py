"""Reads the table of a dataset (``dataset.parquet``): one row for each frame, taken together by record."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from jaxtyping import Int64
from pyarrow import compute, parquet

from vnp.errors import InputError
from vnp.features.split import PARTS
from vnp.files.manifest import changed_file
from vnp.files.records import parse_json
from vnp.runs.planning.plan import Selection
from vnp.sequences.frames import FRAME_NAMES
from vnp.sequences.reading import input_digest

log = logging.getLogger(__name__)

SCHEMA = "vnp-dataset/1"
_COLUMNS = ("id", "name", "label", "unit", "frame", "split")
_CLASSES = ("host", "viral")
_BATCH = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The table of a dataset."""

    selection: Selection  # what it says of each record
    names: Int64[np.ndarray, "r"]  # a hash of each record's name, that of this process
    chunk: int  # bases of the longest record
    fasta_sha256: str  # of the FASTA that belongs to it


def read_dataset(table: Path, fasta: Path) -> Dataset:
    """Read a dataset's table and make sure that its FASTA is the one that was written with it.

    Memory grows by some 15 bytes a record, not with the table.

    Raises:
        InputError: the table cannot be used, or the FASTA is another.
    """
    try:
        _require_as_written(table)
        with parquet.ParquetFile(table) as file:
            about = _about(file, table)
            _require_fasta(fasta, table, about["fasta_sha256"])
            selection, names = _gather(_records(file, table), table)
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        raise InputError(f"cannot be read as a dataset's table: {error}", path=table) from error
    if len(selection) != about["records"]:
        raise InputError(
            f"has {len(selection):,} records in its rows and {about['records']:,} in its metadata; make the dataset "
            "again",
            path=table,
        )
    return Dataset(selection, names, about["chunk"], about["fasta_sha256"])


def _require_as_written(table: Path) -> None:
    """Compare the table with the record beside it; sets of earlier versions have none."""
    try:
        changed = changed_file(table.with_suffix(".json"), [table], InputError)
    except FileNotFoundError:
        log.warning("%s has no %s beside it: damage in it would not be seen", table, table.with_suffix(".json").name)
        return
    if changed is not None:
        raise InputError(
            "is not as it was written: it is damaged. Bring it back, or make the dataset again", path=table
        )


def _about(file: Any, table: Path) -> dict[str, Any]:
    """The file's own metadata, checked as far as it is used."""
    raw = (file.schema_arrow.metadata or {}).get(b"vnp")
    missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
    try:
        about = dict(parse_json(raw)) if raw is not None else {}
    except ValueError:
        about = {}
    if missing or about.get("schema") != SCHEMA:
        found = f"has the format {about['schema']!r}" if about.get("schema") else "is not the table of a dataset"
        lacking = f" (no column {', '.join(missing)})" if missing else ""
        raise InputError(
            f"{found}{lacking}; this version of vnp reads {SCHEMA!r}, as python -m jobs.dataset writes it", path=table
        )
    wanted = {"fasta_sha256": str, "records": int, "chunk": int}
    wrong = [name for name, kind in wanted.items() if not isinstance(about.get(name), kind)]
    if wrong:
        raise InputError(f"its metadata lacks {', '.join(wrong)}; make the dataset again", path=table)
    return about


def _require_fasta(fasta: Path, table: Path, sha256: str) -> None:
    found = input_digest(fasta)
    if found != sha256:
        raise InputError(
            f"is not the FASTA that {table.name} was written with (SHA-256 {found[:12]}… instead of {sha256[:12]}…): "
            "one of the two was changed. Put it back, or make the dataset again with: python -m jobs.dataset",
            path=fasta,
        )


def _gather(parts: Iterator[dict[str, np.ndarray | list[str]]], table: Path) -> tuple[Selection, np.ndarray]:
    """Put the records together, with units as numbers."""
    numbers: dict[str, int] = {}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("label", "split", "frames", "unit", "names")}
    for part in parts:
        places = np.array([numbers.setdefault(name, len(numbers)) for name in part.pop("units")], np.int32)
        part["unit"] = places[np.asarray(part["unit"])]
        for name, values in columns.items():
            values.append(np.asarray(part[name]))
    if not columns["label"]:
        raise InputError("has no rows: nothing was chosen for this dataset", path=table)
    whole = {name: np.concatenate(values) for name, values in columns.items()}
    names = whole.pop("names")
    return Selection(0, **whole, units=[name.encode() for name in numbers]), names


def _records(file: Any, table: Path) -> Iterator[dict[str, np.ndarray | list[str]]]:
    """Rows some at a time, those of a record always together, each time as columns over records."""
    rest = None
    done = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=list(_COLUMNS)):
        rows = arrow.Table.from_batches([batch]).select(_COLUMNS)
        rows = rows if rest is None else arrow.concat_tables([rest, rows])
        starts = _starts(rows)
        # The last record may go on in the next batch.
        whole = int(starts[-1]) if len(starts) else 0
        if whole:
            yield _take(rows.slice(0, whole), starts[:-1], table, done)
        rest = rows.slice(whole)
        done += whole
    if rest is not None and rest.num_rows:
        yield _take(rest, _starts(rest), table, done)


def _starts(rows: Any) -> Int64[np.ndarray, "r"]:
    """The first row of each record."""
    if not rows.num_rows:
        return np.zeros(0, np.int64)
    names = rows["name"].combine_chunks()
    changed = compute.not_equal(names.slice(1), names.slice(0, len(names) - 1)).fill_null(True)
    return np.flatnonzero(np.r_[True, changed.to_numpy(zero_copy_only=False)])


def _take(rows: Any, starts: Int64[np.ndarray, "r"], table: Path, done: int) -> dict[str, np.ndarray | list[str]]:
    """Columns over records, once it is sure that all rows of a record say the same."""
    names, units = rows["name"].combine_chunks(), rows["unit"].combine_chunks().dictionary_encode()
    frame = _codes(rows, "frame", FRAME_NAMES, table, done)
    per_row = {
        "label": _codes(rows, "label", _CLASSES, table, done),
        "split": _codes(rows, "split", PARTS, table, done),
        "unit": units.indices.fill_null(-1).to_numpy(zero_copy_only=False),
    }
    owner = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, rows.num_rows]))
    for column, values in per_row.items():
        _refuse(values != values[starts][owner], rows, table, done, f"has another {column} than the record's first row")
    _refuse(per_row["unit"] < 0, rows, table, done, "has no unit")
    rising = np.diff(owner * len(FRAME_NAMES) + frame, prepend=-1) > 0
    _refuse(~rising, rows, table, done, "repeats a frame, or frames are not in the order F1 F2 F3 R1 R2 R3")
    expected = compute.binary_join_element_wise(names, rows["frame"].combine_chunks(), "_chunk_1")
    same = compute.equal(rows["id"].combine_chunks(), expected).fill_null(False).to_numpy(zero_copy_only=False)
    _refuse(~same, rows, table, done, "has an id that does not fit its name and frame")
    first = names.take(starts).to_pylist()
    return {
        **{name: values[starts] for name, values in per_row.items()},
        "frames": np.bitwise_or.reduceat(np.uint8(1) << frame.astype(np.uint8), starts),
        "units": units.dictionary.to_pylist(),
        "names": np.fromiter(map(hash, first), np.int64, len(first)),
    }


def _codes(rows: Any, column: str, values: tuple[str, ...], table: Path, done: int) -> np.ndarray:
    """Texts as their places among the allowed ones, int8."""
    found = compute.index_in(rows[column].combine_chunks().cast(arrow.string()), arrow.array(values))
    codes: np.ndarray = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int8)
    _refuse(codes < 0, rows, table, done, f"has a {column} that is none of {', '.join(values)}")
    return codes


def _refuse(bad: np.ndarray, rows: Any, table: Path, done: int, what: str) -> None:
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"row {done + place + 1:,} {what}; make the dataset again", path=table, record=rows["name"][place].as_py()
        )
