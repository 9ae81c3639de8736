"""Everything that ``jobs.predict`` writes, in one pass over the rows and one over the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int64

from vnp.errors import ChangedInputError
from vnp.features.table import Records
from vnp.files.durable import replacing
from vnp.files.tables import open_text_table, table_lines
from vnp.metrics.rules import find_rule
from vnp.prediction.calls import (
    CALL_NAMES,
    CALLED,
    SHORT,
    UNSCORED,
    Calls,
    Chunks,
    Tally,
    decide,
    reliability_levels,
    score_chunks,
)
from vnp.prediction.options import TABLES, OutputPaths, PredictOptions
from vnp.prediction.scores import (
    Batch,
    Reasons,
    batches,
    planned_inputs,
    record_lengths,
    record_windows,
)
from vnp.report.calls import HOST, NO_CALL, RELIABILITY_NAMES, VIRAL, Report, render
from vnp.runs.planning.plan import check_inputs
from vnp.runs.request import PlannedInput, versions
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import FRAME_TEXTS
from vnp.sequences.reading import read_records

if TYPE_CHECKING:
    from vnp.classifier.checkpoint import Checkpoint
    from vnp.features.read import Features

SCHEMA = "vnp-predictions/1"
Progress = Callable[[str, int], None]
"""Told what is being done (``scoring`` or ``writing``) and how many rows were done since the last call."""
_FASTA_LINE = 80
Rows = TypeVar("Rows")
Values = Sequence[str] | np.ndarray
_ARROW = {"text": "string", "int": "int64", "ratio": "float64"}
_FRAMES_HEADER = ("Sequence_ID", "Prediction", "score1", "score2")
_CHUNKS_HEADER = ("Modified_ID", "Is_Virus", "max_score_0", "max_score_1")


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
        file = stack.enter_context(open_text_table(text, [column.name for column in columns]))
        write_batch = _parquet_writer(columns, parquet, stack) if parquet is not None else None

        def add(rows: Rows) -> None:
            values = [column.values(rows) for column in columns]
            texts = [_texts(found, column.kind) for found, column in zip(values, columns, strict=True)]
            if texts[0]:
                file.write(table_lines(texts))
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
    """Write VirNucPro's files, batch by batch, so that what reads them goes on working.

    ``prediction_results.txt`` (``frames``) has a line for each frame: id, ``virus`` or ``others``, the scores of others
    and of virus. ``prediction_results_highestscore.csv`` (``chunks``), separated by tabs in spite of its name, has one
    for each chunk: its id, whether the highest score of virus over its frames is at least the highest of others, and
    both. VirNucPro knows no calibration: its scores are the raw ones here. Both files are in input order; VirNucPro
    sorts the second as text. Source of the formats: the public repository Li-Jing-1997/VirNucPro (Li et al., Briefings
    in Bioinformatics 2025, bbaf224) and programs that read its files.

    Yields:
        What takes rows, of which no chunk is cut, and the row of each chunk's first frame, rising.
    """
    with ExitStack() as stack:
        frame_file = stack.enter_context(open_text_table(frames, _FRAMES_HEADER))
        chunk_file = stack.enter_context(open_text_table(chunks, _CHUNKS_HEADER))

        def add(batch: Batch, first: Int64[np.ndarray, "m"]) -> None:
            if not len(batch):
                return
            virus = batch.score
            others = 1 - virus
            ids = [name.decode() for name in batch.ids]
            # Of two equal scores VirNucPro takes the first for a frame, which is others, and virus for a chunk.
            words = ["virus" if above else "others" for above in (virus > others).tolist()]
            frame_file.write(table_lines((ids, words, *_scores(others, virus))))
            low, high = (np.maximum.reduceat(scores, first) for scores in (others, virus))
            called = [ids[row].removesuffix(FRAME_TEXTS[batch.frame[row]]) for row in first.tolist()]
            chunk_file.write(table_lines((called, list(map(str, (high >= low).tolist())), *_scores(low, high))))

        yield add


def _scores(*columns: np.ndarray) -> list[list[str]]:
    return [list(map("{:.8g}".format, column.tolist())) for column in columns]


class _FrameRows(NamedTuple):
    """Rows of the table of frames."""

    batch: Batch
    ids: list[str]
    records: list[str]


class _ChunkRows(NamedTuple):
    """Rows of the table of chunks."""

    chunks: Chunks
    records: list[str]
    start: np.ndarray
    end: np.ndarray
    viral: np.ndarray


class _RecordRows(NamedTuple):
    """Rows of the table of records: the window of all records that they are, and what is known of them."""

    window: slice
    records: Records
    names: list[str]
    calls: Calls
    reasons: list[str]


FRAMES: tuple[Column[_FrameRows], ...] = (
    Column("frame_id", "text", lambda rows: rows.ids),
    Column("record", "text", lambda rows: rows.records),
    Column("chunk", "int", lambda rows: rows.batch.chunk),
    Column("frame", "text", lambda rows: [FRAME_TEXTS[frame] for frame in rows.batch.frame.tolist()]),
    Column("start", "int", lambda rows: rows.batch.start),
    Column("end", "int", lambda rows: rows.batch.end),
    Column("score", "ratio", lambda rows: rows.batch.score),
    Column("probability", "ratio", lambda rows: rows.batch.probability),
)
CHUNKS: tuple[Column[_ChunkRows], ...] = (
    Column("record", "text", lambda rows: rows.records),
    Column("chunk", "int", lambda rows: rows.chunks.chunk),
    Column("start", "int", lambda rows: rows.start),
    Column("end", "int", lambda rows: rows.end),
    Column("n_frames", "int", lambda rows: rows.chunks.frames),
    Column("score", "ratio", lambda rows: rows.chunks.score),
    Column("probability", "ratio", lambda rows: rows.chunks.probability),
    Column("call", "text", lambda rows: [CALL_NAMES[VIRAL if viral else HOST] for viral in rows.viral.tolist()]),
)
PREDICTIONS: tuple[Column[_RecordRows], ...] = (
    Column("name", "text", lambda rows: rows.names),
    Column("length", "int", lambda rows: rows.records.length),
    Column("n_chunks", "int", lambda rows: rows.records.chunks),
    Column("n_scored", "int", lambda rows: rows.calls.scored[rows.window]),
    Column("score", "ratio", lambda rows: rows.calls.score[rows.window]),
    Column("probability", "ratio", lambda rows: rows.calls.probability[rows.window]),
    Column("call", "text", lambda rows: [CALL_NAMES[call] for call in rows.calls.call[rows.window].tolist()]),
    Column("fdr", "ratio", lambda rows: rows.calls.fdr[rows.window]),
    Column("agreement", "ratio", lambda rows: rows.calls.agreement[rows.window]),
    Column(
        "reliability", "text",
        lambda rows: [RELIABILITY_NAMES[level] for level in rows.calls.reliability[rows.window].tolist()],
    ),
    Column("reason", "text", lambda rows: rows.reasons),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Writing:
    """One prediction on its way to the disk."""

    features: Features
    options: PredictOptions
    checkpoint: Checkpoint
    paths: OutputPaths
    progress: Progress

    def run(self, scores: np.ndarray) -> dict[str, Any]:
        """Write tables, sequences and the report; returns the summary, with the size of every file."""
        paths, options = self.paths, self.options
        lengths, inputs = record_lengths(self.features), planned_inputs(self.features)
        written = [paths.scores, paths.report, *map(paths.table, TABLES)]
        with ExitStack() as stack:
            tally = self._write_rows(scores, lengths, stack)
            calls = decide(tally, lengths, self.features.chunk, options)
            names, reasons = self._write_records(calls, stack)
            if options.fasta:
                write_called(inputs, calls.call == VIRAL, stack.enter_context(replacing(paths.fasta)))
                written.append(paths.fasta)
            about = self._about(calls, inputs, reasons)
            levels = reliability_levels(self.checkpoint.chunk)
            report = Report(about, calls, names, find_rule(options.rule).sentence, levels)
            stack.enter_context(replacing(paths.report)).write_text(render(report), encoding="utf-8")
        if options.parquet:
            written += map(paths.parquet, TABLES)
        if options.virnucpro:
            written += [paths.virnucpro_frames, paths.virnucpro_chunks]
        sizes = {path.name: path.stat().st_size for path in paths.results() if path in written and path.exists()}
        return {**about, "files": sizes}

    def _table(self, name: str, columns: Sequence[Column[Rows]], stack: ExitStack) -> Callable[[Rows], None]:
        parquet = self.paths.parquet(name) if self.options.parquet else None
        return stack.enter_context(open_table(columns, self.paths.table(name), parquet))

    def _write_rows(self, scores: np.ndarray, lengths: np.ndarray, stack: ExitStack) -> Tally:
        tally = Tally(len(lengths), self.options.rule, self.options.threshold)
        add_frames = self._table("frames", FRAMES, stack)
        add_chunks = self._table("chunks", CHUNKS, stack)
        add_virnucpro = None
        if self.options.virnucpro:
            files = open_virnucpro_files(self.paths.virnucpro_frames, self.paths.virnucpro_chunks)
            add_virnucpro = stack.enter_context(files)
        for batch in batches(self.features, scores):
            found = score_chunks(batch, self.options.rule)
            tally.add(batch, found)
            ids = [name.decode() for name in batch.ids]
            records = [name.rpartition("_chunk_")[0] for name in ids]
            add_frames(_FrameRows(batch, ids, records))
            start, end = _spans(found, lengths, Chunking(self.features.chunk))
            viral = found.probability >= self.options.threshold
            add_chunks(_ChunkRows(found, [records[row] for row in found.first.tolist()], start, end, viral))
            if add_virnucpro is not None:
                add_virnucpro(batch, found.first)
            self.progress("writing", len(batch))
        return tally

    def _write_records(self, calls: Calls, stack: ExitStack) -> tuple[list[tuple[int, str]], Counter[str]]:
        """Write the table of records; returns place and name of the best, and how often there is which reason."""
        add = self._table("predictions", PREDICTIONS, stack)
        no_rows, counts, best = Reasons(self.features), Counter[str](), calls.best()
        names: dict[int, str] = {}
        for records in record_windows(self.features, len(calls.length)):
            window = slice(int(records.ordinal[0]), int(records.ordinal[-1]) + 1)
            found = [name.decode() for name in records.name]
            reasons = [
                self._reason(record, why, no_rows)
                for record, why in enumerate(calls.why[window].tolist(), window.start)
            ]
            # A message about a letter at a base is one of its kind; counted is what it is about.
            counts.update(reason.partition(" at ")[0] for reason in reasons if reason)
            add(_RecordRows(window, records, found, calls, reasons))
            names |= {at: found[at - window.start] for at in best if window.start <= at < window.stop}
        return [(at, names[at]) for at in best], counts

    def _reason(self, record: int, why: int, no_rows: Reasons) -> str:
        """Why a record has no call; empty where it has one."""
        if why == CALLED:
            return ""
        if why == UNSCORED:
            return no_rows.of(record)
        if why == SHORT:
            return f"shorter than {self.options.min_length:,} bases"
        return f"false discovery rate above {self.options.max_fdr:g}"

    def _about(self, calls: Calls, inputs: Sequence[PlannedInput], reasons: Counter[str]) -> dict[str, Any]:
        checkpoint, features = self.checkpoint, self.features
        viral = calls.call == VIRAL
        return {
            "schema": SCHEMA,
            "run": features.run,
            "settings": asdict(self.options),
            "counts": {
                "records": len(calls.call),
                "bases": int(calls.length.sum()),
                "viral": int(viral.sum()),
                "viral_bases": int(calls.length[viral].sum()),
                "host": int((calls.call == HOST).sum()),
                "no_call": int((calls.call == NO_CALL).sum()),
                "scored": int((calls.scored > 0).sum()),
                "chunks": int(calls.scored.sum()),
                "frames": features.rows,
            },
            "expected_false_calls": round(float((1 - calls.probability[viral]).sum()), 3),
            "no_call_reasons": dict(reasons.most_common(20)),
            "inputs": [
                {"path": entry.path, "records": entry.records, "bases": entry.bases, "sha256": entry.sha256}
                for entry in inputs
            ],
            "classifier": {
                "digest": checkpoint.digest,
                "origin": checkpoint.origin,
                "layout": str(features.layout),
                "chunk": checkpoint.chunk,
                "calibration": checkpoint.calibration.kind,
                "encoders": {part: dict(identity) for part, identity in checkpoint.encoders.items()},
            },
            "versions": versions(),
        }


def _spans(found: Chunks, lengths: np.ndarray, chunking: Chunking) -> tuple[np.ndarray, np.ndarray]:
    """Where chunks start and end on their records."""
    low, high = int(found.record[0]), int(found.record[-1]) + 1
    lengths = lengths[low:high]
    before = np.cumsum(counts := chunking.count(lengths)) - counts
    place = before[found.record - low] + found.chunk - 1
    table = chunking.cut(lengths, first=int(place[0]), last=int(place[-1]) + 1)
    at = place - place[0]
    return table.start[at], table.end[at]


def write_called(inputs: Sequence[PlannedInput], called: Bool[np.ndarray, "r"], path: Path) -> int:
    """Write the records that were called; the caller gives a temporary name.

    Names are those of the run, bases are upper case as vnp reads them, 80 a line.
    """
    wanted = [entry for entry in inputs if called[_records(entry)].any()]
    check_inputs(wanted)
    with path.open("xb") as file:
        return sum(_write_input(entry, called[_records(entry)], file) for entry in wanted)


def _records(entry: PlannedInput) -> slice:
    return slice(entry.first_record, entry.first_record + entry.records)


def _write_input(entry: PlannedInput, called: Bool[np.ndarray, "r"], file: BinaryIO) -> int:
    bases = 0
    left = int(called.sum())
    for record, chosen in zip(read_records(entry.path), called.tolist(), strict=False):
        if not chosen:
            continue
        file.write(f">{entry.record_name(record.name)}\n".encode())
        sequence = record.sequence
        lines = [sequence[first : first + _FASTA_LINE] for first in range(0, len(sequence), _FASTA_LINE)]
        file.write(b"\n".join(lines) + b"\n")
        bases += len(sequence)
        left -= 1
        if not left:
            return bases
    raise ChangedInputError("has fewer records than when it was embedded: extract it anew", path=entry.path)
