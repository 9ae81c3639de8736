"""The tables that blocks, shards and merged features share, in memory and as HDF5.

One file holds the rows (``ids``, ``record``, ``chunk``, ``frame``, ``start``, ``end``, ``label``, ``split``, ``group``
and the number arrays), the input records they come from (``records/...``), and the records, chunks or frames that
have no row (``skipped/...``). Arrays are contiguous and uncompressed: embeddings do not compress, and a
contiguous array can be mapped and copied at the speed of the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Int8, Int32, Int64

from vnp.errors import FeatureError
from vnp.features.hdf5 import as_array, as_bytes, column_type, whole_file, widest
from vnp.files.hashing import crc32

SCHEMA = "vnp-features/2"
CONTENT = "content"
CHECKSUMS = "checksums"
ROWS_AT_ONCE = 65_536
CHECKED_ROWS = 2_048
"""Rows of a checksum, of every array: few enough that reading a part of a file reads little more."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One row for each open frame, or for each chunk, in input order."""

    ids: list[bytes]  # ``{record}_chunk_{n}{F|R}{k}``, or of a chunk ``{record}_chunk_{n}``, UTF-8
    record: Int64[np.ndarray, "n"]  # ordinal of the input record over the whole run, 0-based
    chunk: Int32[np.ndarray, "n"]  # number of the chunk within its record, 1-based
    frame: Int8[np.ndarray, "n"]  # index into ``vnp.sequences.frames.FRAME_NAMES``, or -1 where a row is a chunk
    start: Int64[np.ndarray, "n"]  # where the row's DNA starts on the record's forward strand, 0-based
    end: Int64[np.ndarray, "n"]  # where it ends, exclusive
    label: Int8[np.ndarray, "n"]  # 1 viral, 0 host, -1 unlabelled
    split: Int8[np.ndarray, "n"]  # the part that came with the data: 0 train, 1 validation, 2 test, -1 none
    group: list[bytes]  # the unit that a split must not cut, UTF-8

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Records:
    """The input records that a table's rows and skipped entries speak of, in input order."""

    ordinal: Int64[np.ndarray, "r"]  # position over the whole run, 0-based
    name: list[bytes]  # unique name, UTF-8
    length: Int64[np.ndarray, "r"]  # bases
    chunks: Int32[np.ndarray, "r"]  # number of chunks that the record is cut into
    input: Int32[np.ndarray, "r"]  # position of its file among the run's inputs
    label: Int8[np.ndarray, "r"]  # 1 viral, 0 host, -1 unlabelled
    split: Int8[np.ndarray, "r"]  # the part that came with the data: 0 train, 1 validation, 2 test, -1 none
    group: list[bytes]  # the unit that a split must not cut, UTF-8

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Records, chunks and frames without a row."""

    record: Int64[np.ndarray, "s"]  # ordinal of the input record
    chunk: Int32[np.ndarray, "s"]  # number of the chunk, or 0 where the whole record is meant
    # index into ``vnp.sequences.frames.FRAME_NAMES``, or -1 where the whole chunk is meant
    frame: Int8[np.ndarray, "s"]
    reason: list[bytes]  # a few words, UTF-8

    def __len__(self) -> int:
        return len(self.reason)


class Column(NamedTuple):
    """One column as it is stored; its type is None for text."""

    group: str
    name: str
    dtype: type[np.generic] | None

    @property
    def path(self) -> str:
        """Its place in the file."""
        return f"{self.group}/{self.name}" if self.group else self.name


_TYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(("record", "ordinal", "start", "end", "length"), np.int64),
    **dict.fromkeys(("chunk", "chunks", "input"), np.int32),
    **dict.fromkeys(("frame", "label", "split"), np.int8),
}
Part = Rows | Records | Skipped
PARTS: tuple[tuple[str, type[Part]], ...] = (("", Rows), ("records", Records), ("skipped", Skipped))
COLUMNS = {group: tuple(Column(group, one.name, _TYPES.get(one.name)) for one in fields(kind)) for group, kind in PARTS}
"""The columns of each group, in the order in which they are stored."""


def write_table(
    path: Path,
    *,
    rows: Rows,
    records: Records,
    skipped: Skipped,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, str | int],
    more: Callable[[h5py.File], None] = lambda _file: None,
) -> None:
    """Write one table of n rows to a new file; the caller gives a temporary name.

    ``records`` are those of the rows and of the skipped entries, ``arrays`` are of numbers, each (n, width), and
    ``more`` writes what else belongs into the file.

    Raises:
        FeatureError: an array is not n rows long or holds a value that is not finite.
        OSError: the disk is full or cannot be written.
    """
    for name, array in arrays.items():
        if len(array) != len(rows):
            raise FeatureError(f"{name} has {len(array)} rows, there are {len(rows)} ids")
        require_finite(array, name, rows.ids)
    with whole_file(path) as file:
        file.attrs.update({"schema": SCHEMA, **attributes})
        for columns, part in zip(COLUMNS.values(), (rows, records, skipped), strict=True):
            for column in columns:
                values, dtype = getattr(part, column.name), np.dtype(column.dtype)
                if column.dtype is None:
                    dtype = column_type(widest(values))
                    values = as_array(values, dtype)
                file.create_dataset(column.path, data=values, dtype=dtype, track_times=False)
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
        more(file)
        seal(file, {name: checksums(array) for name, array in arrays_of(file).items()})


Reading = Callable[[str, slice], np.ndarray]
"""Gives some rows of an array, by its name."""


class Checksums:
    """CRC-32 of consecutive rows of one array, ``CHECKED_ROWS`` at a time."""

    def __init__(self) -> None:
        self._found: list[int] = []
        self._count = 0
        self._rows = 0
        self._crc = 0

    def add(self, values: np.ndarray) -> None:
        """Take in the rows that follow, as they are in memory or as h5py gives them."""
        done = 0
        self._count += len(values)
        while done < len(values):
            count = min(CHECKED_ROWS - self._rows, len(values) - done)
            self._crc = crc32(_plain(values[done : done + count]), self._crc)
            self._rows += count
            done += count
            if self._rows == CHECKED_ROWS:
                self._close()

    def found(self) -> list[int]:
        """Those of all rows that were taken in."""
        if self._rows:
            self._close()
        return self._found

    def require(self, sums: Int64[np.ndarray, "k"], name: str, path: Path, first: int = 0, remedy: str = "") -> None:
        """Make sure that what was taken in has these checksums.

        So many checksums of the array as ``first`` are before these; the others are for the message.

        Raises:
            FeatureError: it has not.
        """
        wrong = np.flatnonzero(sums != self.found())
        if len(wrong):
            row = (first + int(wrong[0])) * CHECKED_ROWS
            end = min(row + CHECKED_ROWS, first * CHECKED_ROWS + self._count)
            message = f"is damaged: {name} of rows {row:,} to {end:,} is not what was written"
            raise FeatureError(f"{message}. {remedy}" if remedy else message, path=path)

    def _close(self) -> None:
        self._found.append(self._crc)
        self._rows = self._crc = 0


def _plain(values: np.ndarray) -> np.ndarray | bytes:
    """What stands for values in a digest: their bytes, and of texts of any length the length too."""
    if values.dtype.kind != "O":
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    texts = [text if isinstance(text, bytes) else text.encode() for text in values.tolist()]
    return b"".join(len(text).to_bytes(8, "little") + text for text in texts)


def checksums(dataset: h5py.Dataset) -> list[int]:
    """Those of an array of an open file."""
    sums = Checksums()
    for window in windows(len(dataset)):
        sums.add(dataset[window])
    return sums.found()


def content_digest(
    file: h5py.File,
    known: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    arrays: Mapping[str, h5py.h5d.DatasetID] | None = None,
) -> str:
    """SHA-256 over every attribute of an open file, and the name, shape, type and checksums of every array.

    ``known`` are the checksums of each array by its name; by default they are computed of what is in the file.
    ``arrays`` are opened, where they are: that takes longer than to digest what they are.
    """
    digest, attributes = hashlib.sha256(), file.attrs
    for key in sorted(attributes):
        if key != CONTENT:
            digest.update(f"{key}={attributes[key]!s}\n".encode())
    for name, dataset in sorted((_opened(file) if arrays is None else arrays).items()):
        sums = checksums(h5py.Dataset(dataset)) if known is None else known[name]
        digest.update(f"{name}{dataset.shape}{dataset.dtype.str}".encode())
        digest.update(np.asarray(sums, "<u4").tobytes())
    return digest.hexdigest()


def arrays_of(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Every array of an open file by its name, but its checksums."""
    return {name: h5py.Dataset(one) for name, one in _opened(file).items()}


def _opened(file: h5py.File) -> dict[str, h5py.h5d.DatasetID]:
    """The same at the library's own level, in a third of the time: a run of many shards does so for each."""
    names: list[bytes] = []
    h5py.h5o.visit(file.id, names.append)
    opened = {name.decode(): h5py.h5o.open(file.id, name) for name in names}
    opened.pop(CHECKSUMS, None)
    return {name: one for name, one in opened.items() if isinstance(one, h5py.h5d.DatasetID)}


def seal(file: h5py.File, known: Mapping[str, Sequence[int]]) -> None:
    """Store the checksums of every array in an open file, where ``read_checksums`` finds them, and seal the whole."""
    joined = np.concatenate([np.asarray(sums, np.uint32) for _, sums in sorted(known.items())])
    file.create_dataset(CHECKSUMS, data=joined, dtype="<u4", track_times=False)
    file.attrs[CONTENT] = content_digest(file, known)


def read_checksums(file: h5py.File, content: str = "") -> dict[str, Int64[np.ndarray, "k"]] | None:
    """What ``seal`` stored, once it is sure that it is that; None of a file that was not sealed.

    ``content`` is the digest that the file must carry, where somebody has noted it; else it is the one that it does.

    Raises:
        FeatureError: an attribute, a name, shape or type, or a checksum has changed, or it is another file.
    """
    written = file.attrs.get(CONTENT)
    if not content and written is None and CHECKSUMS not in file:
        return None
    if content and written != content:
        raise FeatureError("is not the file that was written, or it has changed since")
    stored = file[CHECKSUMS][:].astype(np.int64)
    found: dict[str, Int64[np.ndarray, "k"]] = {}
    first, arrays = 0, _opened(file)
    for name, dataset in sorted(arrays.items()):
        count = -(-(dataset.shape or (0,))[0] // CHECKED_ROWS)
        found[name] = stored[first : first + count]
        first += count
    if first != len(stored) or written != content_digest(file, found, arrays):
        raise FeatureError("what it says of itself has changed since it was written")
    return found


def checked(
    file: h5py.File, sums: Mapping[str, Int64[np.ndarray, "k"]] | None, path: Path, remedy: str = ""
) -> Reading:
    """What reads some rows of an array of an open file by its name; without checksums as they are.

    It raises ``FeatureError`` where they are not those that were written; ``remedy`` is what to do then.
    """
    if sums is None:
        return lambda name, window: file[name][window]

    def read(name: str, window: slice) -> np.ndarray:
        stored, found = file[name], Checksums()
        low, high, _ = window.indices(len(stored))
        first, last = low // CHECKED_ROWS, -(-high // CHECKED_ROWS)
        values: np.ndarray = stored[first * CHECKED_ROWS : last * CHECKED_ROWS]
        found.add(values)
        found.require(sums[name][first:last], name, path, first, remedy)
        return values[low - first * CHECKED_ROWS : high - first * CHECKED_ROWS]

    return read


def windows(count: int, first: int = 0) -> Iterator[slice]:
    """Slices that go over ``first`` to ``count``, each small enough to hold in memory."""
    for low in range(first, count, ROWS_AT_ONCE):
        yield slice(low, min(low + ROWS_AT_ONCE, count))


def read_rows(file: h5py.File | Reading, window: slice = slice(None)) -> Rows:
    """The rows of an open file, or a window of them."""
    return Rows(**_read(file, "", window))


def read_records(file: h5py.File | Reading, window: slice = slice(None)) -> Records:
    """The input records of an open file, or a window of them."""
    return Records(**_read(file, "records", window))


def read_skipped(file: h5py.File | Reading, window: slice = slice(None)) -> Skipped:
    """What has no row, of an open file, or a window of it."""
    return Skipped(**_read(file, "skipped", window))


def _read(file: h5py.File | Reading, group: str, window: slice) -> dict[str, Any]:
    reading = (lambda name, rows: file[name][rows]) if isinstance(file, h5py.File) else file
    found = {column: reading(column.path, window) for column in COLUMNS[group]}
    return {column.name: values if column.dtype else as_bytes(values) for column, values in found.items()}


def cut_by_borders(spans: Iterable[tuple[Path, int, int]]) -> list[int]:
    """How many records each source has in common with the one before it: 1 where a border cuts one, else 0.

    ``spans`` are the sources with the ordinals of their first and last record.

    Raises:
        FeatureError: a source does not go on where the one before it ended.
    """
    found: list[int] = []
    last = -1
    for path, first, behind in spans:
        if found and first not in (last, last + 1):
            raise FeatureError(
                f"starts at input record {first + 1}, the one before it ends at {last + 1}: records are missing or "
                "repeated",
                path=path,
            )
        found.append(int(bool(found) and first == last))
        last = behind
    return found


def first_repeated(record: np.ndarray, chunk: np.ndarray, frame: np.ndarray, last: int) -> tuple[int | None, int]:
    """The first of some rows that does not follow the row before it, if any, and the last one's key.

    ``last`` is the key of the row in front of them, -1 without any.
    """
    key = (record.astype(np.int64) << 31) + (chunk.astype(np.int64) << 3) + frame
    wrong = np.flatnonzero(np.diff(key, prepend=last) <= 0)
    return int(wrong[0]) if len(wrong) else None, int(key[-1])


def require_schema(file: h5py.File, path: Path) -> None:
    """Make sure that a file was written by this version of the format; else ``FeatureError``."""
    schema = file.attrs.get("schema")
    if schema != SCHEMA:
        found = "no vnp file" if schema is None else f"of the format {schema!r}"
        raise FeatureError(f"is {found}; this version of vnp reads {SCHEMA!r}: extract it again", path=path)


def require_finite(array: np.ndarray, name: str, ids: list[bytes], path: Path | None = None) -> None:
    """Make sure that every value is a number; else ``FeatureError``, which names the row."""
    if all_finite(array):
        return
    row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
    raise FeatureError(
        f"{name} of {ids[row].decode()} holds NaN or infinity: with fp16 try --precision bf16 or fp32", path=path
    )


def all_finite(array: np.ndarray) -> bool:
    """Whether no value is NaN or infinite; for float16 by its bits, several times faster than isfinite.

    NaN and infinity are the values whose exponent bits are all set. Without the sign bit they are the largest
    numbers, so the greatest bit pattern of either sign tells.
    """
    if array.dtype == np.float16 and array.flags.c_contiguous and array.size:
        return bool(array.view(np.int16).max() < 0x7C00 and array.view(np.uint16).max() < 0xFC00)
    return bool(np.isfinite(array).all())
