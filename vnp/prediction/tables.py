"""Tables of any length: tab-separated text, and the same as Parquet where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from vnp.files.durable import replacing


class Column(NamedTuple):
    """A column: its name, and what it holds. ``ratio`` is a number whose NaN means that there is none."""

    name: str
    kind: Literal["text", "int", "ratio"]


FRAMES = (
    Column("frame_id", "text"),
    Column("record", "text"),
    Column("chunk", "int"),
    Column("frame", "text"),
    Column("start", "int"),
    Column("end", "int"),
    Column("score", "ratio"),
    Column("probability", "ratio"),
)
CHUNKS = (
    Column("record", "text"),
    Column("chunk", "int"),
    Column("start", "int"),
    Column("end", "int"),
    Column("n_frames", "int"),
    Column("score", "ratio"),
    Column("probability", "ratio"),
    Column("call", "text"),
)
PREDICTIONS = (
    Column("name", "text"),
    Column("length", "int"),
    Column("n_chunks", "int"),
    Column("n_scored", "int"),
    Column("score", "ratio"),
    Column("probability", "ratio"),
    Column("call", "text"),
    Column("fdr", "ratio"),
    Column("agreement", "ratio"),
    Column("reliability", "text"),
    Column("reason", "text"),
)

Values = Sequence[str] | np.ndarray
_ARROW = {"text": "string", "int": "int64", "ratio": "float64"}


class Table:
    """Writes one table, some rows at a time; its files appear when it is closed without an error.

    Args:
        columns: of the table.
        text: path of the tab-separated file.
        parquet: path of the Parquet file, or None.

    Raises:
        StorageError: the disk is full or cannot be written.
    """

    def __init__(self, columns: Sequence[Column], text: Path, parquet: Path | None = None) -> None:
        self._columns = columns
        self._text_path = text
        self._parquet_path = parquet
        self._stack = ExitStack()
        self._parquet: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._text_path))
            self._file = stack.enter_context(temporary.open("x", encoding="utf-8", newline=""))
            self._file.write("\t".join(column.name for column in self._columns) + "\n")
            if self._parquet_path is not None:
                import pyarrow as arrow
                import pyarrow.parquet as parquet

                self._schema = arrow.schema([(column.name, _ARROW[column.kind]) for column in self._columns])
                temporary = stack.enter_context(replacing(self._parquet_path))
                self._parquet = stack.enter_context(parquet.ParquetWriter(temporary, self._schema, compression="zstd"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, values: Mapping[str, Values]) -> None:
        """Write rows.

        Args:
            values: for each column as many texts or numbers.
        """
        columns = [_texts(values[column.name], column.kind) for column in self._columns]
        lines = list(map("\t".join, zip(*columns, strict=True)))
        if lines:
            self._file.write("\n".join(lines) + "\n")
        if lines and self._parquet is not None:
            import pyarrow as arrow

            arrays = [
                arrow.array(values[column.name], type=_ARROW[column.kind], from_pandas=True) for column in self._columns
            ]
            self._parquet.write_batch(arrow.RecordBatch.from_arrays(arrays, schema=self._schema))


def _texts(values: Values, kind: str) -> Sequence[str]:
    if kind == "text":
        return list(values)
    numbers = np.asarray(values)
    if kind == "int":
        return list(map(str, numbers.tolist()))
    texts = list(map("{:.6g}".format, numbers.tolist()))
    for place in np.flatnonzero(np.isnan(numbers)).tolist():
        texts[place] = ""
    return texts
