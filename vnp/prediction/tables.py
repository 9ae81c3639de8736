"""The files of a prediction that grow row by row: tables as text and as Parquet, and VirNucPro's two.

Of VirNucPro's, so that what reads them goes on working, ``prediction_results.txt`` has a line for each frame: id,
``virus`` or ``others``, the scores of others and of virus. ``prediction_results_highestscore.csv``, separated by tabs
in spite of its name, has one for each chunk: its id, whether the highest score of virus over its frames is at least the
highest of others, and both. VirNucPro knows no calibration: its scores are the raw ones here. Both files are in input
order; VirNucPro sorts the second as text. Source of the formats: the public repository Li-Jing-1997/VirNucPro (Li et
al., Briefings in Bioinformatics 2025, bbaf224) and programs that read its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TextIO, TypeVar

import numpy as np
from jaxtyping import Int64

from vnp.files.durable import replacing
from vnp.prediction.scores import Batch

Rows = TypeVar("Rows")
Values = Sequence[str] | np.ndarray
_ARROW = {"text": "string", "int": "int64", "ratio": "float64"}
_FRAMES_HEADER = "Sequence_ID\tPrediction\tscore1\tscore2\n"
_CHUNKS_HEADER = "Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\n"
_FRAME_NAME = 2
"""Characters that name the frame at the end of an id."""


@dataclass(frozen=True, slots=True)
class Column(Generic[Rows]):
    """A column of a table."""

    name: str  # in the first line
    kind: Literal["text", "int", "ratio"]  # what it holds; ``ratio`` is a number whose NaN means that there is none
    values: Callable[[Rows], Values]  # of some rows, one for each


@contextmanager
def open_table(
    columns: Sequence[Column[Rows]], text: Path, parquet: Path | None = None
) -> Iterator[Callable[[Rows], None]]:
    """Write a table, some rows at a time; its files appear when the block ends without an error.

    Args:
        columns: of the table.
        text: path of the tab-separated file.
        parquet: path of the Parquet file, or None.

    Yields:
        What takes rows.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with ExitStack() as stack:
        file = _opened(text, stack)
        file.write("\t".join(column.name for column in columns) + "\n")
        write_batch = _parquet_writer(columns, parquet, stack) if parquet is not None else None

        def add(rows: Rows) -> None:
            values = [column.values(rows) for column in columns]
            texts = [_texts(found, column.kind) for found, column in zip(values, columns, strict=True)]
            lines = list(map("\t".join, zip(*texts, strict=True)))
            if lines:
                file.write("\n".join(lines) + "\n")
                if write_batch is not None:
                    write_batch(values)

        yield add


def _opened(path: Path, stack: ExitStack) -> TextIO:
    temporary = stack.enter_context(replacing(path))
    return stack.enter_context(temporary.open("x", encoding="utf-8", newline=""))


def _parquet_writer(columns: Sequence[Column[Any]], path: Path, stack: ExitStack) -> Callable[[Sequence[Values]], None]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    schema = arrow.schema([(column.name, _ARROW[column.kind]) for column in columns])
    temporary = stack.enter_context(replacing(path))
    writer = stack.enter_context(parquet.ParquetWriter(temporary, schema, compression="zstd"))

    def write(values: Sequence[Values]) -> None:
        arrays = [
            arrow.array(found, type=field.type, from_pandas=True) for found, field in zip(values, schema, strict=True)
        ]
        writer.write_batch(arrow.RecordBatch.from_arrays(arrays, schema=schema))

    return write


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


@contextmanager
def open_virnucpro_files(frames: Path, chunks: Path) -> Iterator[Callable[[Batch, Int64[np.ndarray, "m"]], None]]:
    """Write VirNucPro's files, batch by batch; they appear when the block ends without an error."""
    with ExitStack() as stack:
        frame_file, chunk_file = _opened(frames, stack), _opened(chunks, stack)
        frame_file.write(_FRAMES_HEADER)
        chunk_file.write(_CHUNKS_HEADER)

        def add(batch: Batch, first: Int64[np.ndarray, "m"]) -> None:
            if not len(batch):
                return
            virus = batch.score
            others = 1 - virus
            ids = [name.decode() for name in batch.ids]
            frame_file.writelines(
                # Of two equal scores VirNucPro takes the first for a frame, which is others, and virus for a chunk.
                f"{name}\t{'virus' if high > low else 'others'}\t{low:.8g}\t{high:.8g}\n"
                for name, low, high in zip(ids, others.tolist(), virus.tolist(), strict=True)
            )
            highest = zip(
                first.tolist(),
                np.maximum.reduceat(others, first).tolist(),
                np.maximum.reduceat(virus, first).tolist(),
                strict=True,
            )
            chunk_file.writelines(
                f"{ids[row][:-_FRAME_NAME]}\t{high >= low}\t{low:.8g}\t{high:.8g}\n" for row, low, high in highest
            )

        yield add
