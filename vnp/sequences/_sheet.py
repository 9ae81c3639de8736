"""Tables that a user writes by hand or with a spreadsheet program: CSV or TSV with named columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import InputError
from vnp.sequences._readable import check_readable

DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = {",": "commas", "\t": "tabs"}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a kind of table.

    Attributes:
        what: what the table is called in messages.
        required: columns that must be there.
        hint: what a message about a missing column says after their names.
        optional: columns that may be there; a row has an empty text where they are not.
    """

    what: str
    required: tuple[str, ...]
    hint: str
    optional: tuple[str, ...] = ()


def read_rows(path: Path, columns: Columns) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the rows of a table, without those that are blank.

    Args:
        path: a name that ends in ``.csv`` or ``.tsv``, in either case.
        columns: what it must and may have; others are passed over.

    Yields:
        The line, and the text of each column without the white space around it.

    Raises:
        InputError: the file cannot be read, or is not such a table, or has no rows.
    """
    check_readable(path)
    delimiter = DELIMITERS[path.suffix.lower()]
    rows = 0
    try:
        # utf-8-sig, since spreadsheet programs write a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, None)
            if header is None:
                names = ", ".join(columns.required)
                raise InputError(f"the {columns.what} is empty; it needs the columns {names}", path=path)
            places = _places(header, columns, path, delimiter)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                rows += 1
                if len(cells) != len(header):
                    raise InputError(
                        f"has {len(cells)} columns, the header {len(header)}", path=path, line=reader.line_num
                    )
                row = dict.fromkeys(columns.optional, "")
                row.update((name, cells[place].strip()) for name, place in places.items())
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise InputError(f"the {columns.what} is not UTF-8 text; save it as UTF-8", path=path) from error
    except csv.Error as error:
        raise InputError(f"not a table that can be read: {error}", path=path, line=reader.line_num) from error
    if not rows:
        raise InputError(f"the {columns.what} has no rows below its header", path=path)


def require_utf8(path: Path) -> None:
    """Refuse a path that no text file can hold: runs, tables and features tell where their records come from.

    Raises:
        InputError: the path is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError("the path is not UTF-8; rename the file or folder", path=shown) from error


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
