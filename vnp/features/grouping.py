"""Which group each record is in, from a table beside the sequences."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from vnp.errors import InputError

_NAMED = 5


def read_groups(path: Path) -> dict[str, str]:
    """Read which group each record is in.

    Args:
        path: a tab-separated file of two columns, the record's name and its group; a first line that begins with
            ``record`` or ``#`` is a heading.

    Raises:
        InputError: the file cannot be read, a line has not two columns, or a record stands in two groups.
    """
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, cells in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
                if not cells or (line == 1 and (cells[0] == "record" or cells[0].startswith("#"))):
                    continue
                if len(cells) != 2 or not all(cell.strip() for cell in cells):
                    raise InputError(
                        f"has {len(cells)} columns; give record and group, with a tab", path=path, line=line
                    )
                record, group = (cell.strip() for cell in cells)
                if found.setdefault(record, group) != group:
                    raise InputError(f"puts {record} into {group} and into {found[record]}", path=path, line=line)
    except UnicodeDecodeError as error:
        raise InputError("is not UTF-8 text", path=path) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error
    if not found:
        raise InputError("names no record", path=path)
    return found


def look_up(names: Sequence[str], sources: Sequence[Mapping[str, str | None]], what: str) -> list[str]:
    """The group of every record, from the first source that knows it.

    Args:
        names: of the records.
        sources: groups by name.
        what: what is looked up, for the message.

    Raises:
        InputError: some have none.
    """
    found = [next((source[name] for source in sources if source.get(name)), None) for name in names]
    missing = [name for name, value in zip(names, found, strict=True) if value is None]
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(names):,} records have no {what} in the file given: {some(missing)}. Add a "
            "line for each, with the record's name, a tab, and its group"
        )
    return [value for value in found if value is not None]


def some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
