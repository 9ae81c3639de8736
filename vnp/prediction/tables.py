"""The tables of a prediction: their columns, and how rows become text and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from vnp.classifier.calibration import logistic
from vnp.errors import UsageError
from vnp.features.scores import NOT_COUNTED, Facts, Named, Scores
from vnp.files.durable import replacing
from vnp.files.tables import Numbers, open_text_table, table_lines
from vnp.prediction.calls import CALL_NAMES, SCORED_BY, Calls, Chunks, Judged
from vnp.prediction.regions import Region
from vnp.report.calls import HOST, RELIABILITY_NAMES, VIRAL
from vnp.sequences.ends import UNKNOWN
from vnp.sequences.frames import FRAME_TEXTS

Rows = TypeVar("Rows")
Values = Sequence[str] | np.ndarray
_ARROW = {"text": "string", "int": "int64", "ratio": "float64"}
_RATIO = "%.6g"
_FRAMES_HEADER = ("Sequence_ID", "Prediction", "score1", "score2")
_CHUNKS_HEADER = ("Modified_ID", "Is_Virus", "max_score_0", "max_score_1")
TOPOLOGIES = ("linear", "circular", "inverted_repeats")
"""By the sign of the terminal repeat."""
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
    """Write a table, some rows at a time, as tab-separated text and, if asked, as Parquet.

    Gives what takes rows; the files appear when the block ends without an error, StorageError where they cannot.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_text_table(text, [column.name for column in columns]))
        write_batch = _parquet_writer(columns, parquet, stack) if parquet is not None else None

        def add(rows: Rows) -> None:
            values = [column.values(rows) for column in columns]
            printed = [_printed(found, column.kind) for found, column in zip(values, columns, strict=True)]
            if len(values[0]):
                file.write(table_lines(printed))
                if write_batch is not None:
                    write_batch(values)

        yield add


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


def _printed(values: Values, kind: str) -> Sequence[str] | Numbers:
    if kind == "text":
        return list(values)
    numbers = np.asarray(values)
    if kind == "int":
        return Numbers("%d", numbers.tolist())
    unknown = np.isnan(numbers)
    if not unknown.any():
        return Numbers(_RATIO, numbers.tolist())
    return ["" if no else _RATIO % number for number, no in zip(numbers.tolist(), unknown.tolist(), strict=True)]


@contextmanager
def open_virnucpro_files(
    frames: Path, chunks: Path
) -> Iterator[Callable[[list[str], Float64[np.ndarray, "n"], Int64[np.ndarray, "n"]], None]]:
    """Write VirNucPro's files, batch by batch, so that what reads them goes on working.

    ``prediction_results.txt`` (``frames``) has a line for each frame: id, ``virus`` or ``others``, the scores of others
    and of virus. ``prediction_results_highestscore.csv`` (``chunks``), separated by tabs in spite of its name, has one
    for each chunk: its id, whether the highest score of virus over its frames is at least the highest of others, and
    both. VirNucPro knows no calibration: its scores are the raw ones here. Both files are in input order; VirNucPro
    sorts the second as text. Source of the formats: the public repository Li-Jing-1997/VirNucPro (Li et al., Briefings
    in Bioinformatics 2025, bbaf224) and programs that read its files.

    Yields:
        What takes the ids of frames, their scores, and a number for the chunk of each, rising; no chunk is cut.
    """
    with ExitStack() as stack:
        frame_file = stack.enter_context(open_text_table(frames, _FRAMES_HEADER))
        chunk_file = stack.enter_context(open_text_table(chunks, _CHUNKS_HEADER))

        def add(ids: list[str], virus: Float64[np.ndarray, "n"], chunk: Int64[np.ndarray, "n"]) -> None:
            if not ids:
                return
            others = 1 - virus
            first = np.flatnonzero(np.diff(chunk, prepend=-1))
            # Of two equal scores VirNucPro takes the first for a frame, which is others, and virus for a chunk.
            words = ["virus" if above else "others" for above in (virus > others).tolist()]
            frame_file.write(table_lines((ids, words, *_scores(others, virus))))
            low, high = (np.maximum.reduceat(scores, first) for scores in (others, virus))
            called = [ids[row][:-_FRAME_NAME] for row in first.tolist()]
            chunk_file.write(table_lines((called, list(map(str, (high >= low).tolist())), *_scores(low, high))))

        yield add


def _scores(*columns: np.ndarray) -> list[Numbers]:
    return [Numbers("%.8g", column.tolist()) for column in columns]


class FrameRows(NamedTuple):
    """Rows of the table of frames."""

    rows: Scores
    judged: Judged
    ids: list[str]
    records: list[str]


class ChunkRows(NamedTuple):
    """Rows of the table of chunks."""

    chunks: Chunks
    records: list[str]
    viral: Bool[np.ndarray, "m"]


class RecordRows(NamedTuple):
    """Rows of the table of records: the window of all records that they are, and what is known of them."""

    window: slice
    records: Named
    facts: Facts
    names: list[str]
    samples: list[str]
    sources: list[str]
    calls: Calls
    kinds: tuple[str, ...]
    reasons: list[str]


def topologies(repeat: Int32[np.ndarray, "r"]) -> list[str]:
    """What the terminal repeats of records mean; empty where nobody looked."""
    return ["" if one == UNKNOWN else TOPOLOGIES[(one > 0) - (one < 0)] for one in repeat.tolist()]


def known_repeats(repeat: Int32[np.ndarray, "r"]) -> Int32[np.ndarray, "r"]:
    """Terminal repeats, 0 where nobody looked."""
    return np.where(repeat == UNKNOWN, np.int32(0), repeat)


def gc_share(records: Named, facts: Facts) -> Float64[np.ndarray, "r"]:
    """G and C among the known bases of records; NaN where there are none, or nobody counted."""
    known = records.length - facts.ambiguous
    counted = np.where(facts.gc == NOT_COUNTED, np.nan, facts.gc)
    share: Float64[np.ndarray, "r"] = counted / np.where(known > 0, known, np.nan)
    return share


def n_share(records: Named, facts: Facts) -> Float64[np.ndarray, "r"]:
    """Letters that are no known base among those of records; NaN where nobody counted."""
    counted = np.where(facts.ambiguous == NOT_COUNTED, np.nan, facts.ambiguous)
    share: Float64[np.ndarray, "r"] = counted / np.maximum(records.length, 1)
    return share


def looked_up(names: dict[int, str] | Sequence[str], codes: np.ndarray) -> list[str]:
    """Texts by their numbers."""
    if len(codes) and (codes == codes[0]).all():
        return [names[int(codes[0])]] * len(codes)
    return [names[code] for code in codes.tolist()]


FRAMES: tuple[Column[FrameRows], ...] = (
    Column("frame_id", "text", lambda rows: rows.ids),
    Column("record", "text", lambda rows: rows.records),
    Column("chunk", "int", lambda rows: rows.rows.chunk),
    Column("frame", "text", lambda rows: looked_up(FRAME_TEXTS, rows.rows.frame)),
    Column("start", "int", lambda rows: rows.rows.start),
    Column("end", "int", lambda rows: rows.rows.end),
    Column("score", "ratio", lambda rows: logistic(rows.judged.margin)),
    Column("probability", "ratio", lambda rows: rows.judged.probability),
)
CHUNKS: tuple[Column[ChunkRows], ...] = (
    Column("record", "text", lambda rows: rows.records),
    Column("chunk", "int", lambda rows: rows.chunks.chunk),
    Column("start", "int", lambda rows: rows.chunks.start),
    Column("end", "int", lambda rows: rows.chunks.end),
    Column("n_frames", "int", lambda rows: rows.chunks.frames),
    Column("score", "ratio", lambda rows: rows.chunks.score),
    Column("probability", "ratio", lambda rows: rows.chunks.probability),
    Column("call", "text", lambda rows: [CALL_NAMES[VIRAL if viral else HOST] for viral in rows.viral.tolist()]),
    Column("scored_by", "text", lambda rows: looked_up(SCORED_BY, rows.chunks.by)),
)
PREDICTIONS: tuple[Column[RecordRows], ...] = (
    Column("name", "text", lambda rows: rows.names),
    Column("sample", "text", lambda rows: rows.samples),
    Column("source", "text", lambda rows: rows.sources),
    Column("length", "int", lambda rows: rows.records.length),
    Column("gc", "ratio", lambda rows: gc_share(rows.records, rows.facts)),
    Column("n_share", "ratio", lambda rows: n_share(rows.records, rows.facts)),
    Column("topology", "text", lambda rows: topologies(rows.facts.repeat)),
    Column("terminal_repeat", "int", lambda rows: np.abs(known_repeats(rows.facts.repeat))),
    Column("n_chunks", "int", lambda rows: rows.records.chunks),
    Column("n_scored", "int", lambda rows: rows.calls.scored[rows.window]),
    Column("score", "ratio", lambda rows: rows.calls.score[rows.window]),
    Column("probability", "ratio", lambda rows: rows.calls.probability[rows.window]),
    Column("call", "text", lambda rows: looked_up(CALL_NAMES, rows.calls.call[rows.window])),
    Column("kind", "text", lambda rows: looked_up((*rows.kinds, ""), rows.calls.kind[rows.window])),
    Column("fdr", "ratio", lambda rows: rows.calls.fdr[rows.window]),
    Column("agreement", "ratio", lambda rows: rows.calls.agreement[rows.window]),
    Column("novelty", "ratio", lambda rows: rows.calls.novelty[rows.window]),
    Column("reliability", "text", lambda rows: looked_up(RELIABILITY_NAMES, rows.calls.reliability[rows.window])),
    Column("scored_by", "text", lambda rows: looked_up(SCORED_BY, rows.calls.by[rows.window])),
    Column("reason", "text", lambda rows: rows.reasons),
    Column("description", "text", lambda rows: [text.decode() for text in rows.facts.description]),
)
ALL = "all"
"""In place of the names of columns."""


def chosen_columns(names: str) -> Sequence[Column[RecordRows]]:
    """Columns of the table of records: ``all``, or some separated by commas; the name of the record comes first.

    Raises:
        UsageError: there is no such column, or one is named twice.
    """
    if names == ALL:
        return PREDICTIONS
    known = {column.name: column for column in PREDICTIONS}
    words = [word.strip() for word in names.split(",") if word.strip()]
    if unknown := [word for word in words if word not in known]:
        raise UsageError(f"--columns: predictions.tsv has no column {unknown[0]!r}; it has {', '.join(known)}")
    if twice := [word for word in known if words.count(word) > 1]:
        raise UsageError(f"--columns names {twice[0]} twice")
    return [known["name"], *(known[word] for word in words if word != "name")]


REGION_COLUMNS: tuple[Column[Sequence[Region]], ...] = (
    Column("region", "text", lambda rows: [one.name for one in rows]),
    Column("record", "text", lambda rows: [one.record for one in rows]),
    Column("start", "int", lambda rows: np.array([one.start for one in rows])),
    Column("end", "int", lambda rows: np.array([one.end for one in rows])),
    Column("length", "int", lambda rows: np.array([one.end - one.start for one in rows])),
    Column("record_length", "int", lambda rows: np.array([one.record_length for one in rows])),
    Column("place", "text", lambda rows: [one.place for one in rows]),
    Column("n_windows", "int", lambda rows: np.array([one.windows for one in rows])),
    Column("mean_score", "ratio", lambda rows: logistic(np.array([one.mean for one in rows]))),
    Column("best_score", "ratio", lambda rows: logistic(np.array([one.best for one in rows]))),
    Column("probability", "ratio", lambda rows: np.array([one.probability for one in rows])),
    Column("found_by", "text", lambda rows: [one.found_by for one in rows]),
    Column("kind", "text", lambda rows: [one.kind for one in rows]),
    Column("host", "text", lambda rows: [one.host for one in rows]),
)
