"""``plan.h5``: the cut of a run into shards of equal expected work, and what datasets say of their records.

A shard is a run of consecutive units (chunks), so that the merged file is in input order whatever the number of shards.
What a dataset says of a record (label, unit, part of the split, which frames become rows) is taken from its table once,
so that a task needs neither the table nor the library that reads it. Whether the inputs are still those that were
planned is looked at here too: the plan has a digest of each block of each file, and a task compares what it reads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int8, Int32, Int64, UInt8, UInt64

from vnp.errors import ChangedInputError, InputError, RunError, storage_error
from vnp.features.hdf5 import as_array, as_bytes, column_type, whole_file, widest
from vnp.files.durable import replacing
from vnp.files.hashing import file_sha256
from vnp.runs.request import PlannedInput, Position, Request, Run, Shard
from vnp.sequences.mates import in_turn, side_by_side
from vnp.sequences.opening import BLOCK, KnownBlocks, Watch
from vnp.sequences.reading import Record, input_digest, read_records
from vnp.sequences.samplesheet import BOTH, FIRST, InputFile

SCHEMA = "vnp-plan/2"
_WIDE = ("record", "chunk", "offset", "line", "units", "rows", "tokens", "bases")
SHARD_TYPE = np.dtype([("input", "<i4"), *((name, "<i8") for name in _WIDE)])
_GROUP = "datasets"
_COLUMNS = ("label", "split", "frames", "unit")
_BLOCKS = "blocks"
_OTHER = "has changed since the run was planned (other bytes, as many as before)"
_CHUNK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a dataset says of consecutive records of its FASTA, r of them."""

    first: int  # place of the first of them in the file, 0-based
    label: Int8[np.ndarray, "r"]  # 1 viral, 0 host
    split: Int8[np.ndarray, "r"]  # 0 train, 1 validation, 2 test
    # the frames that become rows, bit k for frame k of ``vnp.sequences.frames.FRAME_NAMES``
    frames: UInt8[np.ndarray, "r"]
    unit: Int32[np.ndarray, "r"]  # index into ``units``
    units: list[bytes]  # names of the units that a split must not cut, UTF-8

    def __len__(self) -> int:
        return len(self.label)

    def at(self, ordinals: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        """Where records of the file, by their place in it, stand in the columns.

        Raises:
            RunError: one of them is not among these.
        """
        places: Int64[np.ndarray, "m"] = ordinals - self.first
        if len(places) and (places[0] < 0 or places[-1] >= len(self)):
            raise RunError(
                f"the plan tells of {len(self):,} records of a dataset from record {self.first + 1:,} on, and record "
                f"{int(ordinals[-1]) + 1:,} was asked for; extract with --force starts the run anew"
            )
        return places


def write_plan(
    path: Path,
    shards: Sequence[Shard],
    selections: Mapping[int, Selection] | None = None,
    blocks: Sequence[UInt64[np.ndarray, "b"]] = (),
) -> str:
    """Write ``plan.h5`` durably.

    ``selections`` is what datasets say of their records, by the index of the input, ``blocks`` the digests of each
    file's blocks.

    Returns:
        SHA-256 of the file.
    """
    table = np.array([(*astuple(shard.start), *astuple(shard)[2:]) for shard in shards], SHARD_TYPE)
    with replacing(path) as temporary:
        with whole_file(temporary) as file:
            file.attrs["schema"] = SCHEMA
            file.create_dataset("shards", data=table, track_times=False)
            file.create_dataset(_BLOCKS, data=np.concatenate([np.zeros(0, np.uint64), *blocks]), track_times=False)
            for index, selection in (selections or {}).items():
                _store(file.create_group(f"{_GROUP}/{index}"), selection)
        return file_sha256(temporary)


def _store(group: h5py.Group, selection: Selection) -> None:
    text = column_type(widest(selection.units))
    columns = {**{name: getattr(selection, name) for name in _COLUMNS}, "units": as_array(selection.units, text)}
    for name, values in columns.items():
        # Consecutive records are much alike: packed, ten million of them take a few megabytes.
        packed = {"chunks": (min(_CHUNK, len(values)),), "compression": "gzip", "compression_opts": 1}
        dtype = text if name == "units" else values.dtype
        group.create_dataset(name, data=values, dtype=dtype, shuffle=True, track_times=False, **packed)


def read_plan(path: Path, sha256: str) -> list[Shard]:
    """Read ``plan.h5``.

    Raises:
        RunError: it is missing, or not the file that ``run.json`` names.
    """
    with _planned(path, sha256) as file:
        table = file["shards"][:]
    places = len(fields(Position))
    return [Shard(number, Position(*row[:places]), *row[places:]) for number, row in enumerate(table.tolist())]


def read_needed(run: Run, shards: Sequence[Shard], number: int) -> tuple[dict[int, Selection], dict[int, KnownBlocks]]:
    """Read from ``plan.h5`` what the task of one shard needs to know of its inputs.

    Returns:
        By the index of the input: what datasets say of the shard's records, and no more than that; and what the bytes
        of each file must be. Inputs that are no datasets, or not read, are left out.

    Raises:
        RunError: as ``read_plan``, or the plan is of a version that did not look at the bytes.
    """
    start = shards[number].start
    after = shards[number + 1].start if number + 1 < len(shards) else None
    chosen, known = {}, {}
    with _planned(run.paths.plan, run.request.plan_sha256) as file:
        if _BLOCKS not in file:
            raise RunError(
                f"{run.paths.plan} was written by a version of vnp that did not note what its inputs hold: make its "
                "shards with that version, or extract the run anew with --force"
            )
        first = sum(map(_block_count, run.request.inputs[: start.input]))
        for index, entry in enumerate(inputs_of(run.request, shards, number), start.input):
            known[index] = KnownBlocks(entry.path, file[_BLOCKS][first : first + _block_count(entry)])
            first += _block_count(entry)
            low = start.record if index == start.input else 0
            high = entry.records
            if after is not None and index == after.input:
                high = after.record + (after.chunk > 0)
            if entry.dataset is not None and low < high:
                chosen[index] = _read(file[f"{_GROUP}/{index}"], low, high)
    return chosen, known


def _block_count(entry: PlannedInput) -> int:
    return -(-entry.size // BLOCK)


def _read(group: h5py.Group, low: int, high: int) -> Selection:
    label, split, frames, unit = (group[name][low:high] for name in _COLUMNS)
    lowest = int(unit.min())
    units = as_bytes(group["units"][lowest : int(unit.max()) + 1])
    return Selection(low, label, split, frames, unit - np.int32(lowest), units)


@contextmanager
def _planned(path: Path, sha256: str) -> Iterator[h5py.File]:
    """The open plan, once it is sure that it is the planned one."""
    try:
        found = file_sha256(path)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; extract with --force starts the run anew") from error
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    if found != sha256:
        raise RunError(f"{path} is not the plan that run.json names; extract with --force starts the run anew")
    with h5py.File(path, "r", locking=False) as file:
        yield file


def inputs_of(request: Request, shards: Sequence[Shard], number: int) -> Sequence[PlannedInput]:
    """The files that a shard reads."""
    first = shards[number].start.input
    last = len(request.inputs) - 1
    if number + 1 < len(shards):
        following = shards[number + 1].start
        at_start = following.record == 0 and following.chunk == 0
        last = following.input - 1 if at_start else following.input
    # With the file of their mates.
    return request.inputs[first : last + (request.inputs[last].mates == FIRST) + 1]


def check_inputs(inputs: Sequence[PlannedInput], *, read: bool = False) -> None:
    """Look whether files are those that were planned.

    With ``read`` the bytes are compared, where size, times and inode do not tell; else the sizes alone: the bytes are
    compared when they are read.

    Raises:
        ChangedInputError: a file is gone or is another.
    """
    for entry in inputs:
        try:
            stat = Path(entry.path).stat()
        except OSError as error:
            raise _changed(f"cannot be read any more ({error.strerror})", entry.path) from error
        if stat.st_size != entry.size:
            sizes = f"{entry.size:,} bytes then, {stat.st_size:,} now"
            raise _changed(f"has changed since the run was planned ({sizes})", entry.path)
        if read and stamped(entry, stat) != entry and input_digest(entry.path) != entry.sha256:
            raise _changed(_OTHER, entry.path)


def stamped(entry: PlannedInput, stat: os.stat_result) -> PlannedInput:
    """The same file with what it keeps while nobody changes it; anybody can set its mtime, nobody its ctime."""
    return replace(entry, size=stat.st_size, mtime_ns=stat.st_mtime_ns, inode=stat.st_ino, ctime_ns=stat.st_ctime_ns)


def moved_to(entry: PlannedInput, file: InputFile) -> PlannedInput | None:
    """A planned input at the path of a file, or None where that holds something else."""
    paths = (str(file.path), None if file.dataset is None else str(file.dataset))
    if paths == (entry.path, entry.dataset):
        return entry
    stat = file.path.stat()
    if (entry.dataset is None) != (file.dataset is None) or stat.st_size != entry.size:
        return None
    if stamped(entry, stat) != entry and input_digest(file.path) != entry.sha256:
        return None
    if file.dataset is not None and input_digest(file.dataset) != entry.dataset_sha256:
        return None
    before = entry.planned_path or entry.path, entry.planned_dataset or entry.dataset
    planned = [None if now == then else then for now, then in zip(paths, before, strict=True)]
    return stamped(
        replace(entry, path=paths[0], dataset=paths[1], planned_path=planned[0], planned_dataset=planned[1]), stat
    )


def planned_records(entry: PlannedInput, mate: PlannedInput | None = None) -> Iterator[Record]:
    """All records of a file that was planned; of first reads of pairs, with those of the file of their mates.

    Raises:
        ChangedInputError: after the last record, if its bytes were others: what was made of them is to be thrown away.
    """
    entries = [entry] if mate is None else [entry, mate]
    found = [hashlib.sha256() for _ in entries]
    watches = {place: partial(_update, known) for place, known in enumerate(found)}
    yield from records_of(entries, 0, Position(0), watches)
    for one, known in zip(entries, found, strict=True):
        if known.hexdigest() != one.sha256:
            raise _changed(_OTHER, one.path)


def _update(known: hashlib._Hash, _number: int, block: bytes) -> None:
    known.update(block)


def records_of(
    inputs: Sequence[PlannedInput], index: int, start: Position, watches: Mapping[int, Watch] | None = None
) -> Iterator[Record]:
    """The records of an input from a position on; mates of pairs side by side, also those of two files."""
    mates, path = inputs[index].mates, Path(inputs[index].path)
    watch = None if watches is None else watches[index]
    if mates is None:
        return iter_records(path, start, watch)
    if mates == BOTH:
        found = in_turn(read_records(path, watch=watch), path)
    else:
        other = Path(inputs[index + 1].path)
        also = None if watches is None else watches[index + 1]
        found = side_by_side(read_records(path, watch=watch), read_records(other, watch=also), (path, other))
    return islice(found, start.record, None)


def iter_records(path: Path, start: Position, watch: Watch | None = None) -> Iterator[Record]:
    """The records of one file from a position on, read from the record's byte where that is known."""
    if start.offset > 0:
        yield from read_records(path, watch=watch, offset=start.offset, line=start.line)
        return
    for ordinal, record in enumerate(read_records(path, watch=watch)):
        if ordinal >= start.record:
            yield record


def check_tables(inputs: Sequence[PlannedInput]) -> None:
    """Compare the tables of datasets with what was planned; tasks need not ask: what they tell is in the plan.

    Raises:
        ChangedInputError: a table is gone or is another.
    """
    for entry in inputs:
        if entry.dataset is None:
            continue
        try:
            found = input_digest(entry.dataset)
        except (OSError, InputError) as error:
            raise _changed(f"cannot be read any more ({error})", entry.dataset) from error
        if found != entry.dataset_sha256:
            raise _changed("is not the table that the run was planned with", entry.dataset)


def _changed(what: str, path: str) -> ChangedInputError:
    return ChangedInputError(
        f"{what}; put it back, or extract the run anew with --force. If it was moved, give the command that made the "
        "run again, with its new path",
        path=path,
    )
