"""One streaming pass over the inputs of a run: what they hold, and where they can be cut into shards.

Expected work is counted, not guessed: the pass finds the open frames of every chunk, or which chunks can be rows, so a
shard's number of rows is known before it is embedded and checked after.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from vnp.errors import InputError, UsageError
from vnp.runs.planning.options import DEFAULT_CHUNK
from vnp.runs.planning.plan import Selection, records_of, stamped
from vnp.runs.request import PlannedInput, Position, Shard, Totals
from vnp.runs.units import UnitBatch, batch_units
from vnp.sequences.frames import count_open, count_whole
from vnp.sequences.names import NameCheck
from vnp.sequences.opening import block_digest
from vnp.sequences.reading import input_digest
from vnp.sequences.samplesheet import FIRST, SECOND, InputFile

if TYPE_CHECKING:
    from vnp.runs.planning.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over the inputs found."""

    inputs: tuple[PlannedInput, ...]
    totals: Totals  # what they hold
    marks: Marks  # where they can be cut
    chunk: int  # bases of a chunk
    selections: Mapping[int, Selection]  # what datasets say of their records, by the index of the input
    blocks: tuple[UInt64[np.ndarray, "b"], ...]  # the digests of each file's blocks


def expected_tokens(rows: np.ndarray, residues: np.ndarray) -> np.ndarray:
    """Tokens of both encoders for chunks with so many open frames and residues.

    Protein: the residues and two special tokens a frame. DNA: byte-pair tokens hold 4.9 bases on average on
    genomes, and two special tokens a frame. Rows of chunks have the second half alone.
    """
    tokens: np.ndarray = residues + (residues * 3) // 5 + rows * 4
    return tokens


def survey(
    files: Sequence[InputFile],
    chunk: int | None,
    *,
    prefix_ids: bool = False,
    shortest: int | None = None,
    default_chunk: int = DEFAULT_CHUNK,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Survey:
    """Read every input once, streaming; memory grows with the records of datasets alone, by some 15 bytes each.

    A ``chunk`` of None is ``default_chunk``, or with datasets the bases of their longest record. ``shortest`` is None
    where rows are open frames; else every chunk of so many bases or more is one row. ``progress`` is told how many
    bytes of the files were read since the last call.

    Raises:
        InputError: a file cannot be read, holds no record, two records have the same name, or the files of a dataset
            do not belong together.
        UsageError: ``chunk`` is smaller than a record of a dataset, or pyarrow is needed for one and missing.
    """
    datasets = _read_datasets(files)
    chunk = _decide_chunk(chunk, default_chunk, files, datasets)
    marks = Marks()
    named = prefixes(files) if prefix_ids else [file.sample for file in files]
    planned = [_begun(file, prefix) for file, prefix in zip(files, named, strict=True)]
    first_record = 0
    with NameCheck() as names, ThreadPoolExecutor(1) as hashing:
        watches = {index: _Noting(progress, hashing) for index in range(len(files))}
        for index, entry in enumerate(planned):
            planned[index] = replace(entry, first_record=first_record)
            if entry.mates != SECOND:
                found = _survey_file(index, planned, chunk, shortest, datasets.get(index), names, marks, watches)
                planned[index : index + len(found)] = found
                first_record += found[0].records
        _refuse_duplicates(planned, names)
    blocks = [np.array(watch.digests, np.uint64) for watch in watches.values()]
    records, bases = sum(entry.records for entry in planned), sum(entry.bases for entry in planned)
    totals = Totals(records, bases, *marks.counts)
    selections = {index: dataset.selection for index, dataset in datasets.items()}
    return Survey(tuple(planned), totals, marks, chunk, selections, tuple(blocks))


def _begun(file: InputFile, prefix: str | None) -> PlannedInput:
    """An input that nobody has read."""
    return PlannedInput(
        path=str(file.path),
        label=file.label,
        group=file.group,
        size=0,
        mtime_ns=0,
        sha256="",
        first_record=0,
        records=0,
        bases=0,
        prefix=prefix,
        dataset=None if file.dataset is None else str(file.dataset),
        dataset_sha256=None if file.dataset is None else input_digest(file.dataset),
        sample=file.sample,
        mates=file.mates,
    )


def _read_datasets(files: Sequence[InputFile]) -> dict[int, Dataset]:
    found = {}
    for index, file in enumerate(files):
        if file.dataset is not None:
            # Here, because it needs a library that other inputs do not.
            from vnp.files.extras import require_extra

            require_extra("parquet", f"{file.dataset}, a Parquet file,", ", or plan in the image")
            from vnp.runs.planning.dataset import read_dataset

            found[index] = read_dataset(file.dataset, file.path)
    return found


def _decide_chunk(chunk: int | None, default: int, files: Sequence[InputFile], datasets: Mapping[int, Dataset]) -> int:
    """Each record of a dataset is one chunk, so none may be longer."""
    longest = max(datasets, key=lambda index: datasets[index].chunk, default=None)
    if longest is None:
        return default if chunk is None else chunk
    needed = datasets[longest].chunk
    if chunk is not None and chunk < needed:
        raise UsageError(
            f"--chunk {chunk} would cut the records of {files[longest].path}, each of which is one chunk of up to "
            f"{needed} bases: leave --chunk out (also in vnp.toml), or make it {needed} or more"
        )
    return needed if chunk is None else chunk


def _survey_file(
    index: int,
    planned: Sequence[PlannedInput],
    chunk: int,
    shortest: int | None,
    dataset: Dataset | None,
    names: NameCheck,
    marks: Marks,
    watches: Mapping[int, _Noting],
) -> list[PlannedInput]:
    """Fill in what reading a file tells; of first reads of pairs, with that of their mates."""
    entry, path = planned[index], Path(planned[index].path)
    read = planned[index : index + 1 + (entry.mates == FIRST)]
    # Before the reading, so that a change while it is read shows as a change after it.
    stats = [Path(one.path).stat() for one in read]
    records = bases = 0
    start = Position(index)
    for batch in batch_units(records_of(planned, index, start, watches), chunk, index, start):
        whole = batch.ordinals >= records
        names.add([_checked_name(entry, batch, i) for i in np.flatnonzero(whole).tolist()])
        records += int(whole.sum())
        only = None if dataset is None else _chosen_frames(batch, dataset, entry)
        bases += _mark(batch, marks, _work(batch, shortest, only, entry))
    if not records:
        raise InputError("holds no sequence", path=path)
    sha256 = watches[index].sha256()
    if dataset is not None and (records, sha256) != (len(dataset.selection), dataset.fasta_sha256):
        raise InputError(
            f"has {records:,} records, {Path(str(entry.dataset)).name} tells of {len(dataset.selection):,}, or it "
            "changed while it was read; make the dataset again",
            path=path,
        )
    found = [stamped(replace(entry, sha256=sha256, records=records, bases=bases), stats[0])]
    for mate, stat in zip(read[1:], stats[1:], strict=True):
        sha256 = watches[index + 1].sha256()
        found.append(stamped(replace(mate, sha256=sha256, first_record=entry.first_record + records), stat))
    return found


def _chosen_frames(batch: UnitBatch, dataset: Dataset, entry: PlannedInput) -> UInt8[np.ndarray, "chunks"]:
    """The frames that become rows, once it is sure that the table speaks of these records."""
    known = batch.ordinals < len(dataset.selection)
    at = batch.ordinals[known]
    names = np.fromiter((hash(record.name) for record in batch.records), np.int64, len(batch.records))
    wrong = np.ones(len(names), bool)
    wrong[known] = (names[known] != dataset.names[at]) | (batch.counts[known] != 1)
    if wrong.any():
        record = batch.records[int(np.flatnonzero(wrong)[0])]
        why = record.problem or "the table has another record here, or a shorter one"
        raise InputError(
            f"does not fit {entry.dataset}: {why}. Make the dataset again", path=entry.path, record=record.name
        )
    chosen: UInt8[np.ndarray, "chunks"] = dataset.selection.frames[at][batch.chunks.sequence]
    return chosen


def _checked_name(entry: PlannedInput, batch: UnitBatch, index: int) -> str:
    """The name that no other record may have; one that cannot be used gets no row, so its name is free."""
    record = batch.records[index]
    if record.problem is None:
        return entry.record_name(record.name)
    return f"\0{entry.first_record + int(batch.ordinals[index])}"


def _work(
    batch: UnitBatch, shortest: int | None, only: UInt8[np.ndarray, "chunks"] | None, entry: PlannedInput
) -> Int64[np.ndarray, "chunks 3"]:
    """Rows, tokens and bases of each chunk."""
    bases = batch.chunks.end - batch.chunks.start
    if shortest is not None:
        rows = count_whole(batch.sequences, batch.chunks, shortest).astype(np.int64)
        return np.column_stack([rows, rows * (bases // 5 + 2), bases])
    opened, residues = count_open(batch.sequences, batch.chunks, only)
    if only is not None and (closed := opened < np.bitwise_count(only)).any():
        record = batch.records[int(batch.chunks.sequence[np.flatnonzero(closed)[0]])]
        raise InputError(
            f"{entry.dataset} lists a frame of it that has a stop; make the dataset again",
            path=entry.path,
            record=record.name,
        )
    rows = opened.astype(np.int64)
    return np.column_stack([rows, expected_tokens(rows, residues.astype(np.int64)), bases])


def _mark(batch: UnitBatch, marks: Marks, of_chunks: Int64[np.ndarray, "chunks 3"]) -> int:
    """Add a batch's units to the marks; returns its bases."""
    has_chunk = batch.unit_chunk >= 0
    work = np.zeros((len(batch), 3), np.int64)
    work[has_chunk] = of_chunks
    numbers = batch.numbers().astype(np.int64)
    count = len(batch.records)
    offsets = np.fromiter((-1 if record.offset is None else record.offset for record in batch.records), np.int64, count)
    lines = np.fromiter((-1 if record.line is None else record.line for record in batch.records), np.int64, count)
    owner = batch.owner
    places = np.column_stack([batch.ordinals[owner], np.maximum(numbers - 1, 0), offsets[owner], lines[owner]])
    marks.add(batch.input, places, work)
    ends = np.flatnonzero(has_chunk & (numbers == batch.counts[batch.owner]))
    return int(sum(len(batch.records[i].sequence) for i in batch.owner[ends]))


class _Noting:
    """Takes the digests of a file and of its blocks in a thread beside, and reports how many bytes there were."""

    def __init__(self, report: Callable[[int], None], hashing: Executor) -> None:
        self.digests = array("Q")
        self._sha256 = hashlib.sha256()
        self._report, self._hashing = report, hashing
        self._last: Future[None] | None = None

    def __call__(self, _number: int, block: bytes) -> None:
        if block:
            self._wait()
            self._last = self._hashing.submit(self._take, block)
            self._report(len(block))

    def sha256(self) -> str:
        """Of all that was seen."""
        self._wait()
        return self._sha256.hexdigest()

    def _take(self, block: bytes) -> None:
        self._sha256.update(block)
        self.digests.append(block_digest(block))

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def prefixes(files: Sequence[InputFile]) -> list[str]:
    """What to put in front of the records' names of each file: one word each, and no two the same.

    The sample that a samplesheet names, else the file's name without folder and endings; where two files would share
    it, the name of the folder in front, and where that does not help a number behind. Characters that a header or a
    table cannot take become ``_``.
    """
    own = [file.path.name.split(".")[0] if file.dataset is None else file.path.parent.name for file in files]
    names = [file.sample or _word(name) for file, name in zip(files, own, strict=True)]
    often = Counter(names)
    names = [
        _word(f"{file.path.parent.name}_{name}") if often[name] > 1 and file.sample is None else name
        for file, name in zip(files, names, strict=True)
    ]
    often, seen = Counter(names), set(names)
    for place, name in enumerate(names):
        if often[name] > 1:
            number = next(n for n in count(1) if f"{name}_{n}" not in seen)
            names[place] = f"{name}_{number}"
            seen.add(names[place])
    return names


def _word(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "input"


def _refuse_duplicates(inputs: Sequence[PlannedInput], names: NameCheck) -> None:
    """Raise if two records share a name; the check knows suspects only, so they are read again."""
    suspects = names.suspects()
    if not suspects:
        return
    wanted = {ordinal for group in suspects for ordinal in group}
    seen: dict[str, tuple[str, int, PlannedInput]] = {}
    for entry, ordinal, name, line in _named_records(inputs, wanted):
        where = f"{entry.path}, " + (f"line {line}" if line else f"record {ordinal - entry.first_record + 1}")
        if name in seen:
            first, before, file = seen[name]
            if file is not entry:
                remedy = "Rename one, or put each file's name in front with --prefix-ids"
            elif ordinal == before + 1:
                remedy = (
                    "If the file holds pairs of reads in turn, predict --pairs calls both together; else end their "
                    "names in /1 and /2"
                )
            else:
                remedy = "Rename one"
            raise InputError(f"two records are called {name!r}: {first} and {where}. {remedy}")
        seen[name] = where, ordinal, entry


def _named_records(
    inputs: Sequence[PlannedInput], wanted: set[int]
) -> Iterator[tuple[PlannedInput, int, str, int | None]]:
    for index, entry in enumerate(inputs):
        if not any(entry.first_record <= ordinal < entry.first_record + entry.records for ordinal in wanted):
            continue
        for place, record in enumerate(records_of(inputs, index, Position(index))):
            if entry.first_record + place in wanted:
                yield entry, entry.first_record + place, entry.record_name(record.name), record.line


_MOST = 1 << 20
_PLACES = len(fields(Position))


class Marks:
    """Every unit's place and the work before it; once there are too many units, every second, fourth … unit's.

    With 2^20 marks a cut is at most one part in half a million of the whole off its best place, so shards stay
    balanced to a per cent up to thousands of them, in bounded memory whatever the size of the input.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._stride = 1
        self._kept: list[Int64[np.ndarray, "marks 9"]] = []
        self._count = 0
        # Units, rows, tokens and bases so far.
        self._total = np.zeros(4, np.int64)

    @property
    def counts(self) -> list[int]:
        """Units that were added, their rows, and their expected tokens."""
        counts: list[int] = self._total[:3].tolist()
        return counts

    def add(self, file: int, places: Int64[np.ndarray, "u 4"], work: Int64[np.ndarray, "u 3"]) -> None:
        """Append units of a file in input order.

        ``places`` are record, chunk, offset and line of each, ``work`` its rows, tokens and bases.
        """
        units = int(self._total[0])
        chosen = np.arange(-units % self._stride, len(places), self._stride)
        before = self._total[1:] + np.cumsum(work, axis=0) - work
        first, number = np.full(len(chosen), file), units + chosen
        self._kept.append(np.column_stack([first, places[chosen], number, before[chosen]]))
        self._count += len(chosen)
        self._total += [len(places), *work.sum(axis=0)]
        while self._count > self._most:
            self._stride *= 2
            merged = np.concatenate(self._kept)
            self._kept = [merged[merged[:, _PLACES] % self._stride == 0]]
            self._count = len(self._kept[0])

    def cut(self, shards: int) -> list[Shard]:
        """Cut the whole into at most so many shards of nearly equal tokens; fewer if there are fewer marks."""
        marks = np.concatenate(self._kept)
        # Units without tokens still have to be read: one token each keeps an input without open frames balanced.
        work = marks[:, _PLACES + 2] + marks[:, _PLACES]
        whole = int(self._total[0] + self._total[2])
        count = min(shards, len(marks))
        targets = (np.arange(count) * whole) // count
        right = np.searchsorted(work, targets)
        left = np.maximum(right - 1, 0)
        right = np.minimum(right, len(work) - 1)
        nearest = np.where(targets - work[left] <= work[right] - targets, left, right)
        firsts = marks[_strictly_rising(nearest, len(marks))]
        holds = np.diff(np.vstack([firsts[:, _PLACES:], self._total]), axis=0)
        rows = zip(firsts[:, :_PLACES].tolist(), holds.tolist(), strict=True)
        return [Shard(number, Position(*place), *held) for number, (place, held) in enumerate(rows)]


def _strictly_rising(places: Int64[np.ndarray, "n"], bound: int) -> Int64[np.ndarray, "n"]:
    """Move places apart so that no piece is empty, staying below ``bound``."""
    steps = np.arange(len(places))
    apart = np.maximum.accumulate(places - steps) + steps
    return np.minimum(apart, bound - len(places) + steps)
