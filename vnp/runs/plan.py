"""The plan: one streaming pass over the inputs, and a cut into shards of equal expected work.

Expected work is counted, not guessed: the pass finds the open frames of every chunk, so a shard's number of rows is
known before it is embedded and checked after. A shard is a run of consecutive units (chunks), so that the merged
file is in input order whatever the number of shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import h5py
import numpy as np

from vnp._durable import replacing
from vnp.errors import InputError, RunError
from vnp.features._image import whole_file
from vnp.runs._marks import Marks
from vnp.runs.request import PlannedInput, Totals
from vnp.runs.shard import START, Position, Shard
from vnp.runs.units import UnitBatch, batch_units, iter_records
from vnp.sequences.frames import count_open
from vnp.sequences.names import NameCheck
from vnp.sequences.samplesheet import InputFile

SCHEMA = "vnp-plan/1"

SHARD_TYPE = np.dtype(
    [
        ("input", "<i4"),
        ("record", "<i8"),
        ("chunk", "<i8"),
        ("offset", "<i8"),
        ("line", "<i8"),
        ("units", "<i8"),
        ("rows", "<i8"),
        ("tokens", "<i8"),
        ("bases", "<i8"),
    ]
)


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over the inputs found."""

    inputs: tuple[PlannedInput, ...]
    totals: Totals
    marks: Marks


def expected_tokens(rows: np.ndarray, residues: np.ndarray) -> np.ndarray:
    """Tokens of both encoders for chunks with so many open frames and residues.

    Protein: the residues and two special tokens a frame. DNA: byte-pair tokens hold 4.9 bases on average on
    genomes, and two special tokens a frame.
    """
    tokens: np.ndarray = residues + (residues * 3) // 5 + rows * 4
    return tokens


def survey(
    files: Sequence[InputFile],
    chunk: int,
    *,
    prefix_ids: bool = False,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Survey:
    """Read every input once, streaming; memory does not grow with the input.

    Args:
        files: the inputs.
        chunk: bases of a chunk.
        prefix_ids: put each input's name in front of its records' names.
        progress: told how many bytes of the files were read since the last call.

    Raises:
        InputError: a file cannot be read, holds no record, or two records have the same name.
    """
    marks = Marks()
    planned: list[PlannedInput] = []
    prefixes = _prefixes(files) if prefix_ids else [None] * len(files)
    with NameCheck() as names:
        for index, (file, prefix) in enumerate(zip(files, prefixes, strict=True)):
            first = planned[-1].first_record + planned[-1].records if planned else 0
            planned.append(_survey_file(index, file, prefix, first, chunk, names, marks, progress))
        _refuse_duplicates(planned, names)
    records, bases = sum(entry.records for entry in planned), sum(entry.bases for entry in planned)
    return Survey(tuple(planned), Totals(records, bases, marks.units, marks.rows, marks.tokens), marks)


def _survey_file(
    index: int,
    file: InputFile,
    prefix: str | None,
    first_record: int,
    chunk: int,
    names: NameCheck,
    marks: Marks,
    progress: Callable[[int], None],
) -> PlannedInput:
    # Before the reading, so that a change while it is read shows as a change after it.
    stat = file.path.stat()
    hasher = _ReportingHash(progress)
    found = PlannedInput(
        path=str(file.path),
        label=file.label,
        group=file.group,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        sha256="",
        first_record=first_record,
        records=0,
        bases=0,
        prefix=prefix,
    )
    records = bases = 0
    start = Position(index, *START)
    for batch in batch_units(iter_records(file.path, start, hasher), chunk, index, start):
        whole = batch.ordinals >= records
        names.add([_checked_name(found, batch, first_record, i) for i in np.flatnonzero(whole).tolist()])
        records += int(whole.sum())
        bases += _count(batch, marks)
    if not records:
        raise InputError("holds no sequence", path=file.path)
    return replace(found, sha256=hasher.hexdigest(), records=records, bases=bases)


def _checked_name(entry: PlannedInput, batch: UnitBatch, first_record: int, index: int) -> str:
    """The name that no other record may have; one that cannot be used gets no row, so its name is free."""
    record = batch.records[index]
    if record.problem is None:
        return entry.record_name(record.name)
    return f"\0{first_record + int(batch.ordinals[index])}"


def _count(batch: UnitBatch, marks: Marks) -> int:
    """Add a batch's units to the marks; returns its bases."""
    rows_per_chunk, residues_per_chunk = count_open(batch.sequences, batch.chunks)
    spans = batch.chunks.end - batch.chunks.start
    units = len(batch)
    has_chunk = batch.unit_chunk >= 0
    rows, tokens, bases = (np.zeros(units, np.int64) for _ in range(3))
    rows[has_chunk] = rows_per_chunk
    tokens[has_chunk] = expected_tokens(rows_per_chunk.astype(np.int64), residues_per_chunk.astype(np.int64))
    bases[has_chunk] = spans
    numbers = batch.numbers().astype(np.int64)
    offsets = np.array([-1 if record.offset is None else record.offset for record in batch.records], np.int64)
    lines = np.array([-1 if record.line is None else record.line for record in batch.records], np.int64)
    marks.add(
        file=batch.input,
        record=batch.ordinals[batch.owner],
        chunk=np.maximum(numbers - 1, 0),
        offset=offsets[batch.owner],
        line=lines[batch.owner],
        rows=rows,
        tokens=tokens,
        bases=bases,
    )
    ends = np.flatnonzero(has_chunk & (numbers == batch.counts[batch.owner]))
    return int(sum(len(batch.records[i].sequence) for i in batch.owner[ends]))


class _ReportingHash:
    """A SHA-256 that reports how many bytes it was fed."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._hash = hashlib.sha256()
        self._report = report

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self._report(len(data))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _prefixes(files: Sequence[InputFile]) -> list[str | None]:
    """The files' names without folder and endings; the whole path where two would be the same."""
    stems = [file.path.name.split(".")[0] for file in files]
    if len(set(stems)) == len(stems):
        return list(stems)
    return [str(file.path) for file in files]


def _refuse_duplicates(inputs: Sequence[PlannedInput], names: NameCheck) -> None:
    """Raise if two records share a name; the check knows suspects only, so they are read again."""
    suspects = names.suspects()
    if not suspects:
        return
    wanted = {ordinal for group in suspects for ordinal in group}
    seen: dict[str, str] = {}
    for entry, ordinal, name, line in _named_records(inputs, wanted):
        where = f"{entry.path}, " + (f"line {line}" if line else f"record {ordinal - entry.first_record + 1}")
        if name in seen:
            raise InputError(
                f"two records are called {name!r}: {seen[name]} and {where}. "
                "Rename one, or put each file's name in front with --prefix-ids if they are in two files"
            )
        seen[name] = where


def _named_records(
    inputs: Sequence[PlannedInput], wanted: set[int]
) -> Iterator[tuple[PlannedInput, int, str, int | None]]:
    for index, entry in enumerate(inputs):
        if not any(entry.first_record <= ordinal < entry.first_record + entry.records for ordinal in wanted):
            continue
        for place, record in enumerate(iter_records(Path(entry.path), Position(index, *START))):
            if entry.first_record + place in wanted:
                yield entry, entry.first_record + place, entry.record_name(record.name), record.line


def write_plan(path: Path, shards: Sequence[Shard]) -> str:
    """Write ``plan.h5`` durably.

    Returns:
        SHA-256 of the file.
    """
    table = np.array([(*astuple(shard.start), *astuple(shard)[2:]) for shard in shards], SHARD_TYPE)
    with replacing(path) as temporary:
        with whole_file(temporary) as file:
            file.attrs["schema"] = SCHEMA
            file.create_dataset("shards", data=table, track_times=False)
        return hashlib.sha256(temporary.read_bytes()).hexdigest()


def read_plan(path: Path, sha256: str) -> list[Shard]:
    """Read ``plan.h5``.

    Raises:
        RunError: it is missing, or not the file that ``run.json`` names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; extract with --force starts the run anew") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RunError(f"{path} is not the plan that run.json names; extract with --force starts the run anew")
    with h5py.File(path, "r", locking=False) as file:
        table = file["shards"][:]
    places = len(fields(Position))
    return [Shard(number, Position(*row[:places]), *row[places:]) for number, row in enumerate(table.tolist())]
