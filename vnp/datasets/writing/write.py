"""Writes the chunks of a training set as FASTA and a table with a row for each frame, and keeps its folder."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, UInt8

from vnp import __version__
from vnp.datasets.sheet import Source
from vnp.errors import RunError, RunExistsError, UsageError, storage_error
from vnp.features.split import PARTS
from vnp.files.claims import alone, make_folder, require_free
from vnp.files.durable import final_path, remove_temporaries, replacing, sync_folder
from vnp.files.hashing import file_sha256
from vnp.files.records import read_record, write_record
from vnp.sequences.frames import FRAME_NAMES
from vnp.sequences.reading import input_digest

FASTA = "dataset.fna.gz"
TABLE = "dataset.parquet"
CARD = "dataset.md"
SCHEMA = "vnp-dataset/1"
KEY = "vnp"
"""Name of the table's metadata."""
REQUEST = f"{KEY}.request"
"""Key of the table's metadata that says what was asked for."""
SUMMARY = f"{KEY}.summary"
"""Key of the table's metadata that has the summary."""
_COLUMNS = {
    "id": "string", "name": "string", "label": "string", "unit": "string", "organism_group": "string",
    "length": "int32", "frame": "string", "annotated": "bool", "split": "string", "file": "string", "record": "string",
    "start": "int64", "end": "int64",
}  # fmt: skip
_BATCH = 1 << 16
_LEVEL = 6
_REQUEST_FILE = "request.json"
_DONE = ".parts-done"
_RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """The records that chunks are taken from, no two of one name: index of the file, unit, organism group and part."""

    name: Sequence[str]
    source: Int64[np.ndarray, "records"]
    unit: Sequence[str]
    organism_group: Sequence[str]
    part: Int8[np.ndarray, "records"]


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The chosen chunks, in order of record (an index), start, end; frames as ``choosing._part.Found`` has them."""

    record: Int64[np.ndarray, "chunks"]
    start: Int64[np.ndarray, "chunks"]
    end: Int64[np.ndarray, "chunks"]
    frames: UInt8[np.ndarray, "chunks"]
    annotated: UInt8[np.ndarray, "chunks"]

    def __len__(self) -> int:
        """Count the chunks."""
        return len(self.record)

    @property
    def rows(self) -> int:
        """Frames that are rows."""
        return int(np.bitwise_count(self.frames).sum())

    def slice(self, first: int, last: int) -> Chosen:
        """Take the chunks from ``first`` up to, not including, ``last``; the arrays are views."""
        columns = (self.record, self.start, self.end, self.frames, self.annotated)
        return Chosen(*(column[first:last] for column in columns))


def require_pyarrow() -> None:
    """Raise UsageError where pyarrow, which writes Parquet, is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("a training set needs pyarrow, which is not installed: pip install 'vnp[dataset]'") from error
    del pyarrow


def write_fasta(
    path: Path,
    records: Records,
    chosen: Chosen,
    bases: Iterable[bytes],
    *,
    progress: Callable[[int], None] = lambda _chunks: None,
) -> str:
    """Write the chunks as gzip-compressed FASTA, a line of bases each, named by 1-based region as samtools does.

    Neither a time nor a name is in the file, so equal chunks give equal bytes.

    Returns:
        The SHA-256 of the file.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with replacing(path) as temporary:
        with (
            temporary.open("xb") as file,
            gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as packed,
        ):
            named = zip(_names(records, chosen), bases, strict=True)
            while some := list(islice(named, _BATCH // 16)):
                packed.write(b"".join([b">%b\n%b\n" % (name.encode(), text) for name, text in some]))
                progress(len(some))
        return file_sha256(temporary)


def write_table(
    path: Path,
    sources: Sequence[Source],
    records: Records,
    chosen: Chosen,
    metadata: Mapping[str, Mapping[str, object]],
    *,
    progress: Callable[[int], None] = lambda _rows: None,
) -> None:
    """Write a row for each frame of the chosen chunks, in the order of the FASTA, then F1 F2 F3 R1 R2 R3.

    The file's key-value metadata are JSON objects. ``progress`` is told how many rows were written since the last call.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    require_pyarrow()
    import pyarrow as arrow
    from pyarrow import parquet

    texts = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    schema = arrow.schema([arrow.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()], texts)
    with (
        replacing(path) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd", compression_level=3) as writer,
    ):
        for first in range(0, len(chosen), _BATCH):
            columns = _columns(sources, records, chosen.slice(first, first + _BATCH))
            batch = arrow.RecordBatch.from_pydict(columns, schema=schema)
            writer.write_batch(batch, row_group_size=batch.num_rows)
            progress(batch.num_rows)


def describe(
    sources: Sequence[Source],
    digests: Sequence[Mapping[str, str]],
    chosen: Chosen,
    fasta_sha256: str,
    *,
    frames: str,
    lengths: str,
    seed: int,
) -> dict[str, object]:
    """What the table's metadata says under ``KEY``; digests are those of ``vnp.datasets.recipe.Request``."""
    return {
        "schema": SCHEMA,
        "fasta_sha256": fasta_sha256,
        "records": len(chosen),
        "rows": chosen.rows,
        "chunk": int((chosen.end - chosen.start).max(initial=0)),
        "frames": frames,
        "lengths": lengths,
        "seed": seed,
        "code": __version__,
        "sources": [{**source.about(), **digest} for source, digest in zip(sources, digests, strict=True)],
    }


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what ``write_table`` put into the file's metadata; OSError or ValueError where it is no Parquet file."""
    import pyarrow.parquet as parquet

    found: dict[str, Any] = {}
    for key, value in (parquet.read_schema(path).metadata or {}).items():
        name = key.decode()
        if name == KEY or name.startswith(f"{KEY}."):
            found[name] = json.loads(value)
    return found


def _names(records: Records, chosen: Chosen) -> Iterator[str]:
    for record, start, end in zip(chosen.record.tolist(), chosen.start.tolist(), chosen.end.tolist(), strict=True):
        yield f"{records.name[record]}:{start + 1}-{end}"


def _columns(sources: Sequence[Source], records: Records, chosen: Chosen) -> dict[str, Any]:
    """The rows of some chunks, column by column."""
    bits = np.unpackbits(chosen.frames[:, None], axis=1, count=len(FRAME_NAMES), bitorder="little")
    chunk, frame = np.nonzero(bits)
    names = list(_names(records, chosen))
    record = chosen.record[chunk]
    source = records.source[record]
    start, end = chosen.start[chunk], chosen.end[chunk]
    row_names = [names[place] for place in chunk.tolist()]
    row_frames = [FRAME_NAMES[place] for place in frame.tolist()]
    return {
        "id": [f"{name}_chunk_1{frame}" for name, frame in zip(row_names, row_frames, strict=True)],
        "name": row_names,
        "label": [sources[place].label_name for place in source.tolist()],
        "unit": [records.unit[place] for place in record.tolist()],
        "organism_group": [records.organism_group[place] for place in record.tolist()],
        "length": (end - start).astype(np.int32),
        "frame": row_frames,
        "annotated": (chosen.annotated[chunk] >> frame.astype(np.uint8) & 1).astype(bool),
        "split": [PARTS[part] for part in records.part[record].tolist()],
        "file": [sources[place].name for place in source.tolist()],
        "record": [records.name[place] for place in record.tolist()],
        "start": start,
        "end": end,
    }


class Folder:
    """The folder of a training set.

    While a set is made there is a folder ``parts`` in it, whose ``request.json`` says which set that is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.parts = folder / "parts"
        self.fasta = folder / FASTA
        self.table = folder / TABLE
        self.card = folder / CARD

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep others that make a set in it out meanwhile: UsageError for them."""
        make_folder(self._folder)
        with alone(self._folder, "dataset"):
            yield

    def begin(self, request: str, *, force: bool) -> dict[str, Any] | None:
        """Make ready for the set of a digest, or give the summary where it is finished already.

        Raises:
            RunExistsError: another set, or a part of one, is there, or a run, or a folder ``parts`` of something else.
            StorageError: the folder cannot be made or written.
        """
        stopped_here = self._stored_request() == request
        if not force and not stopped_here and (summary := self._finished(request)) is not None:
            self._sweep()
            return summary
        require_free(
            (self.fasta, self.table, self.card),
            force=force,
            ours=stopped_here,
            why="already there, and not made from these files with these options",
            remedy="Choose another --out, or --force to write over it",
        )
        self._require_own_parts()
        make_folder(self.parts)
        self._sweep()
        write_record(self.parts / _REQUEST_FILE, {"sha256": request})
        return None

    def finish(self) -> None:
        """Remove what was kept to go on from; in one step, so that it is there whole or not at all."""
        self._remove_done()
        try:
            self.parts.rename(self._folder / _DONE)
            sync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"removing {self.parts}") from error
        self._remove_done()

    def _require_own_parts(self) -> None:
        """Refuse a folder whose ``parts`` is not that of a set, for it is deleted in the end; with force too."""
        try:
            if (self._folder / _RUN_FILE).exists():
                raise RunExistsError(f"{self._folder} is the folder of a run: choose another --out")
            if self.parts.is_dir():
                # A run that was stopped at its first step has left its request's temporary file, or nothing.
                others = any(final_path(path).name != _REQUEST_FILE for path in self.parts.iterdir())
                foreign = others and self._stored_request() is None
            else:
                foreign = self.parts.exists()
        except OSError as error:
            raise storage_error(error, f"looking into {self._folder}") from error
        if foreign:
            raise RunExistsError(
                f"{self.parts} is there and is not of a training set that was begun. Choose another --out, or move "
                "it away"
            )

    def _stored_request(self) -> str | None:
        """Digest of the set that was begun here, if one was."""
        try:
            return (read_record(self.parts / _REQUEST_FILE, dict[str, str]) or {}).get("sha256")
        except RunError:
            return None

    def _finished(self, request: str) -> dict[str, Any] | None:
        """The summary, where the files are those that the request would make."""
        if not (self.fasta.exists() and self.table.exists() and self.card.exists()):
            return None
        try:
            metadata = read_metadata(self.table)
        except (OSError, ValueError):
            return None
        if metadata.get(REQUEST) != {"sha256": request} or KEY not in metadata:
            return None
        summary = metadata.get(SUMMARY)
        same = input_digest(self.fasta) == metadata[KEY].get("fasta_sha256")
        return summary if same and isinstance(summary, dict) else None

    def _sweep(self) -> None:
        """Remove what killed runs left behind."""
        self._remove_done()
        for folder in (self._folder, self.parts):
            if folder.is_dir():
                remove_temporaries(folder)

    def _remove_done(self) -> None:
        shutil.rmtree(self._folder / _DONE, ignore_errors=True)
