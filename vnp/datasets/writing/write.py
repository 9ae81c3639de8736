"""Writes the two files of a training set: the chunks as FASTA, and a table with a row for each frame."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vnp import __version__
from vnp.datasets.choosing.chosen import Chosen, Records
from vnp.datasets.choosing.split import PARTS
from vnp.datasets.sheet import Source
from vnp.errors import UsageError
from vnp.files.durable import replacing
from vnp.sequences.frames import FRAME_NAMES

if TYPE_CHECKING:
    import pyarrow

FASTA = "dataset.fna.gz"
TABLE = "dataset.parquet"
SCHEMA = "vnp-dataset/1"
KEY = "vnp"
"""Name of the table's metadata."""
_BATCH = 1 << 16
_LEVEL = 6


def require_pyarrow() -> None:
    """Make sure that Parquet can be written here.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("a training set needs pyarrow, which is not installed: pip install 'vnp[dataset]'") from error
    del pyarrow


def write_fasta(path: Path, records: Records, chosen: Chosen, bases: Iterable[bytes]) -> str:
    """Write the chunks as gzip-compressed FASTA, a line of bases each, named by 1-based region as samtools does.

    Args:
        path: of the new file.
        records: what the chunks were taken from.
        chosen: the chunks.
        bases: of each chunk, in order.

    Returns:
        The SHA-256 of the file as it is on the disk. Neither a time nor a name is in it, so equal chunks give equal
        bytes.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with replacing(path) as temporary, temporary.open("xb") as file:
        hashed = _Hashed(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=hashed, mtime=0) as packed:
            named = zip(_names(records, chosen), bases, strict=True)
            while some := list(islice(named, _BATCH // 16)):
                packed.write(b"".join([b">%b\n%b\n" % (name.encode(), text) for name, text in some]))
    return hashed.digest.hexdigest()


class _Hashed:
    """A file whose bytes are hashed as they are written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


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

    Args:
        path: of the new file.
        sources: rows of the sheet.
        records: what the chunks were taken from.
        chosen: the chunks.
        metadata: JSON objects for the file's key-value metadata, by key.
        progress: told how many rows were written since the last call.

    Raises:
        UsageError: pyarrow is not installed.
        StorageError: the disk is full or cannot be written.
    """
    require_pyarrow()
    import pyarrow.parquet as parquet

    schema = _schema(metadata)
    with (
        replacing(path) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd", compression_level=3) as writer,
    ):
        for first in range(0, len(chosen), _BATCH):
            batch = _batch(sources, records, chosen.slice(first, first + _BATCH), schema)
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
    """What the table's metadata says under ``KEY``.

    Args:
        sources: rows of the sheet.
        digests: for each source the SHA-256 of its file, as ``sha256``, and of its annotation, if it has one.
        chosen: the chunks.
        fasta_sha256: of the FASTA file as it is on the disk.
        frames: ``annotated`` or ``all``.
        lengths: of chunks, as asked for.
        seed: of the whole.
    """
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
        "sources": [
            {
                "path": source.name,
                "label": _label(source),
                "group": source.group,
                "organism_group": source.organism_group,
                **digest,
            }
            for source, digest in zip(sources, digests, strict=True)
        ],
    }


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what ``write_table`` put into the file's metadata, by key; a key without JSON is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file.
    """
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


def _label(source: Source) -> str:
    return "viral" if source.label else "host"


def _schema(metadata: Mapping[str, Mapping[str, object]]) -> pyarrow.Schema:
    import pyarrow as arrow

    types = {
        "id": arrow.string(),
        "name": arrow.string(),
        "label": arrow.string(),
        "unit": arrow.string(),
        "organism_group": arrow.string(),
        "length": arrow.int32(),
        "frame": arrow.string(),
        "annotated": arrow.bool_(),
        "split": arrow.string(),
        "file": arrow.string(),
        "record": arrow.string(),
        "start": arrow.int64(),
        "end": arrow.int64(),
    }
    fields = [arrow.field(name, kind, nullable=False) for name, kind in types.items()]
    return arrow.schema(fields, metadata={key: json.dumps(value, sort_keys=True) for key, value in metadata.items()})


def _batch(sources: Sequence[Source], records: Records, chosen: Chosen, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    import pyarrow as arrow

    bits = np.unpackbits(chosen.frames[:, None], axis=1, count=len(FRAME_NAMES), bitorder="little")
    chunk, frame = np.nonzero(bits)
    names = list(_names(records, chosen))
    record = chosen.record[chunk]
    source = records.source[record]
    start, end = chosen.start[chunk], chosen.end[chunk]
    row_names = [names[place] for place in chunk.tolist()]
    row_frames = [FRAME_NAMES[place] for place in frame.tolist()]
    data = {
        "id": [f"{name}_chunk_1{frame}" for name, frame in zip(row_names, row_frames, strict=True)],
        "name": row_names,
        "label": [_label(sources[place]) for place in source.tolist()],
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
    return arrow.RecordBatch.from_arrays([arrow.array(data[name]) for name in schema.names], schema=schema)
