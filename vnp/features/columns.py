"""What else is known of each record, such as its family: columns of a dataset's table, or of one that a user gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vnp.errors import ChangedInputError, InputError, UsageError
from vnp.features.read import Features
from vnp.features.split import look_up, some
from vnp.files.extras import require_extra
from vnp.files.records import require_regular
from vnp.sequences.reading import input_digest
from vnp.sequences.samplesheet import table_rows

ORGANISMS = "organism_group"
"""The column that organism groups stand in."""


def column_of(features: Features, column: str, table: Path | None = None) -> list[str]:
    """A column for every record of features, in the order of ``Features.records``; empty where nothing is said.

    The table is tab-separated, with a heading whose first name is ``record``; None stands for the tables of the
    datasets that the features were made from.

    Raises:
        UsageError: the features are not of a dataset, and no table is given.
        InputError: a table cannot be read, has no such column, or knows no record.
        ChangedInputError: a dataset's table is another than the features were made from.
    """
    found = dict(_of_datasets(features, column) if table is None else _of_table(table, column))
    names = [name.decode() for name in features.records().name]
    values = [found.get(name, "") for name in names]
    if not any(values):
        where = "the dataset's table" if table is None else str(table)
        raise InputError(f"{where} has no {column} for any of the {len(names):,} records, such as {some(names[:1])}")
    return values


def in_units_of(features: Features, column: str, table: Path | None = None) -> Features:
    """The same rows, grouped by a column; a record of which it says nothing stays in its group.

    Raises:
        UsageError, InputError, ChangedInputError: as ``column_of``.
    """
    records = features.records()
    units = [value.encode() for value in column_of(features, column, table)]
    groups = [unit or group for unit, group in zip(units, records.group, strict=True)]
    return replace(features, group_of=dict(zip(records.ordinal.tolist(), groups, strict=True)))


def organisms_of(features: Features, organisms: Mapping[str, str] | None = None) -> list[str]:
    """The group of organisms of every record, in the order of ``Features.records``.

    ``organisms`` are by the name of a record or of its group; without them the column of the dataset tells.

    Raises:
        UsageError, InputError, ChangedInputError: as ``column_of``; or a record is in no group.
    """
    records = features.records()
    names = [name.decode() for name in records.name]
    if organisms is None:
        own = dict(zip(names, column_of(features, ORGANISMS), strict=True))
        return look_up(names, [own], "group of organisms")
    by_group = {name: organisms.get(group.decode()) for name, group in zip(names, records.group, strict=True)}
    return look_up(names, [organisms, by_group], "group of organisms")


def _of_table(path: Path, column: str) -> Iterator[tuple[str, str]]:
    rows = table_rows(path, "table of records")
    _, header = next(rows, (1, []))
    if not header or header[0] != "record" or column not in header:
        raise InputError(f"needs a heading with record and {column}, separated by tabs", path=path, line=1)
    place = header.index(column)
    seen: dict[str, str] = {}
    for line, cells in rows:
        if not cells:
            continue
        if len(cells) != len(header):
            raise InputError(f"has {len(cells)} columns, the heading {len(header)}", path=path, line=line)
        name, value = cells[0].strip(), cells[place].strip()
        if seen.setdefault(name, value) != value:
            raise InputError(f"says {value!r} of {name}, and {seen[name]!r} above", path=path, line=line)
    yield from seen.items()


def _of_datasets(features: Features, column: str) -> Iterator[tuple[str, str]]:
    inputs = [entry for entry in features.provenance["inputs"] if entry.get("dataset")]
    if not inputs:
        raise UsageError(
            f"{features.path} is not of a dataset, which would know the {column} of each record: give a table with the "
            f"columns record and {column}"
        )
    for entry in inputs:
        path = Path(entry["dataset"])
        prefix = "" if entry.get("prefix") is None else f"{entry['prefix']}:"
        yield from ((prefix + name, value) for name, value in _read_parquet(path, column, entry).items())


def _read_parquet(path: Path, column: str, entry: Mapping[str, str]) -> dict[str, str]:
    require_extra("parquet", "reading a dataset")
    from pyarrow import ArrowException, parquet

    try:
        require_regular(path)
        if input_digest(path) != entry.get("dataset_sha256"):
            raise ChangedInputError("is not the table that the features were made from; extract anew", path=path)
        names = parquet.read_schema(path).names
        if column not in names:
            raise InputError(f"has no column {column}; it has {', '.join(names)}", path=path)
        rows = parquet.read_table(path, columns=["name", column])
    except (OSError, ArrowException) as error:
        raise InputError(f"cannot be read as a dataset's table: {error}", path=path) from error
    return dict(zip(rows["name"].to_pylist(), (str(value or "") for value in rows[column].to_pylist()), strict=True))
