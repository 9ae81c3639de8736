r"""Tables as text: every TSV and CSV that is written goes through here.

The dialect is Python's ``excel-tab``, which pandas and R's ``read.delim`` and ``read.table`` read by their defaults: a
field that holds a quote, an apostrophe, a ``#`` or the separator stands between double quotes, and a double quote in it
is written twice. No field holds a line end or a control character other than the tab: they are written as ``\n``,
``\x1b`` and so on, so that a line is a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

from vnp.files.durable import replacing

TAB = "\t"
# R begins a quoted text at either mark, anywhere in a field, and a comment at a #.
_MARKS = "\"'#"
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) != TAB}


class Numbers(NamedTuple):
    """A column of numbers."""

    mark: str  # how ``%`` prints one
    values: Sequence[int] | Sequence[float]


def table_lines(columns: Sequence[Sequence[str] | Numbers], separator: str = TAB) -> str:
    """The lines of some rows, each with its line end.

    There are as many texts or numbers in each column, and two columns at least.
    """
    # All fields of all rows are put into one text at once, which takes half as long as joining them row by row.
    count, marks, fields = 0, list[str](), list[Sequence[object]]()
    for column in columns:
        mark, values = column if isinstance(column, Numbers) else ("%s", _safe(column, separator))
        count = len(values)
        if values and values.count(values[0]) == count:
            # Of reads most columns are: one chunk, one length.
            marks.append((mark % values[0]).replace("%", "%%"))
        else:
            marks.append(mark)
            fields.append(values)
    line = separator.join(marks) + "\n"
    return line * count % tuple(chain.from_iterable(zip(*fields, strict=True)))


def table_text(rows: Iterable[Sequence[str]], separator: str = TAB) -> str:
    """A small table, given row by row, its header first."""
    return table_lines(list(zip(*rows, strict=True)), separator)


@contextmanager
def open_text_table(path: Path, header: Sequence[str]) -> Iterator[TextIO]:
    """Write a table that appears when the block ends without an error; what ``table_lines`` gives is written to it.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8", newline="") as file:
        file.write(table_lines([[name] for name in header]))
        yield file


def _safe(column: Sequence[str], separator: str) -> Sequence[str]:
    """The fields of a column; in most columns nothing is to be done, which one look at all of its letters tells."""
    whole = "".join(column)
    if not whole.isprintable():
        column = [text.translate(_CONTROLS) for text in column]
    marks = {*_MARKS, separator}
    if not any(mark in whole for mark in marks):
        return column
    return [text if marks.isdisjoint(text) else '"' + text.replace('"', '""') + '"' for text in column]


def columns(rows: Sequence[Sequence[str]], width: int = 80) -> list[str]:
    """Lines of a table for a terminal, its header first; the first column stands to the left.

    Columns that do not fit beside the others follow in a table below, with the first one again.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    tables: list[list[int]] = [[]]
    for place, own in enumerate(widths[1:], 1):
        if tables[-1] and widths[0] + sum(2 + widths[other] for other in tables[-1]) + 2 + own > width:
            tables.append([])
        tables[-1].append(place)
    lines: list[str] = []
    for shown in tables:
        lines += [""] * bool(lines)
        lines += ["  ".join([row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in shown)]) for row in rows]
    return lines
