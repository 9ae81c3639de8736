"""Puts what was found in all files together, and writes it: chunks as FASTA, and a table with a row for each frame."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64, UInt8

from vnp import __version__
from vnp.datasets.choosing._part import Part, PartRecord
from vnp.datasets.choosing._sample import Pool
from vnp.datasets.choosing._split import UnitRecord
from vnp.datasets.lineage import RANKS, rank_of
from vnp.datasets.sheet import Source
from vnp.errors import InputError
from vnp.features.split import PARTS
from vnp.files.durable import replacing
from vnp.files.hashing import file_sha256
from vnp.files.records import parse_json
from vnp.sequences.frames import FRAME_NAMES

FASTA = "dataset.fna.gz"
TABLE = "dataset.parquet"
CARD = "dataset.md"
RECORD = "dataset.json"
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
    "start": "int64", "end": "int64", "genus": "string", "family": "string", "order": "string", "date": "string",
}  # fmt: skip
_BATCH = 1 << 16
_LEVEL = 6


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """The records that chunks are taken from, no two of one name: index of the file, unit, organism group and part."""

    name: Sequence[str]
    source: Int64[np.ndarray, "records"]
    unit: Sequence[str]
    organism_group: Sequence[str]
    part: Int8[np.ndarray, "records"]
    ranks: Mapping[str, Sequence[str]]  # genus, family and order of each; empty texts where nothing tells
    date: Sequence[str]  # when each was known; empty where nothing tells


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


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """The records that can be used, and the candidates, of all files, in the order of the sheet."""

    parts: Sequence[Part]  # of the files
    records: Sequence[UnitRecord]  # that can be used
    source: Int64[np.ndarray, "records"]  # index of each record's file
    number: Int64[np.ndarray, "records"]  # of each record in its file
    # of each candidate, an index into ``records``; candidates are in order of file, record, start, end
    record: Int64[np.ndarray, "candidates"]
    first: Int64[np.ndarray, "sources+1"]  # the first candidate of each file, and the number of all

    def column(self, name: str) -> Any:
        """A column of all candidates."""
        return np.concatenate([getattr(part, name) for part in self.parts])

    def sequence(self, record: int) -> bytes:
        """The bases of a record."""
        return self.parts[int(self.source[record])].sequence(int(self.number[record]))

    def pool(self) -> Pool:
        """The candidates, for sampling."""
        groups = {record.organism_group: record.label for record in self.records}
        group_names = sorted(groups)
        genome_names = sorted({record.genome for record in self.records})
        group_numbers = {name: number for number, name in enumerate(group_names)}
        genome_numbers = {name: number for number, name in enumerate(genome_names)}
        group = np.array([group_numbers[record.organism_group] for record in self.records], np.int64)
        genome = np.array([genome_numbers[record.genome] for record in self.records], np.int64)
        return Pool(
            group=group[self.record],
            genome=genome[self.record],
            length=self.column("length").astype(np.int64),
            key=self.column("key"),
            groups=group_names,
            labels=[groups[name] for name in group_names],
            genomes=genome_names,
        )

    def table(self, units: Sequence[str], split: Mapping[str, int]) -> Records:
        """The records as the written table refers to them."""
        return Records(
            name=[record.name for record in self.records],
            source=self.source,
            unit=units,
            organism_group=[record.organism_group for record in self.records],
            part=np.array([split[unit] for unit in units], np.int8),
            ranks={rank: [rank_of(one.lineage, one.genome, rank) for one in self.records] for rank in RANKS},
            date=[record.date for record in self.records],
        )

    def chosen(self, rows: Int64[np.ndarray, "chosen"]) -> Chosen:
        """Some of the candidates; ``rows`` ascend."""
        start, end, frames, annotated = (self.column(name)[rows] for name in ("start", "end", "frames", "annotated"))
        return Chosen(self.record[rows], start, end, frames, annotated)

    def bases(self, rows: Int64[np.ndarray, "chosen"]) -> Iterator[bytes]:
        """The bases of some of the candidates; ``rows`` ascend."""
        edges = np.searchsorted(rows, self.first)
        for index, part in enumerate(self.parts):
            yield from part.bases(rows[edges[index] : edges[index + 1]] - self.first[index])


def gather(sources: Sequence[Source], parts: Sequence[Part]) -> Gathered:
    """Put the parts of all files together; InputError where two files have a record of the same name."""
    records: list[UnitRecord] = []
    places: list[tuple[int, int]] = []
    seen: dict[str, Source] = {}
    of_candidates = []
    for index, (source, part) in enumerate(zip(sources, parts, strict=True)):
        own = np.full(len(part.records), -1)
        for number, about in enumerate(part.records):
            if about.problem is not None:
                continue
            other = seen.setdefault(about.name, source)
            if other is not source:
                raise InputError(
                    f"the record stands in {other.path} too; remove one of the two", path=source.path, record=about.name
                )
            own[number] = len(records)
            places.append((index, number))
            records.append(_record(source, about))
        of_candidates.append(own[part.record])
    pairs = np.array(places, np.int64).reshape(-1, 2)
    first = np.cumsum([0, *map(len, of_candidates)])
    return Gathered(parts, records, pairs[:, 0], pairs[:, 1], np.concatenate(of_candidates), first)


def _record(source: Source, about: PartRecord) -> UnitRecord:
    genome = about.genome
    if source.group is not None and genome == about.name:
        # The file does not say whose the record is, as FASTA does not; the contigs of a given group are one genome.
        genome = source.group
    return UnitRecord(
        about.name, genome, source.label, about.group, about.bases, source.group, str(source.path),
        about.lineage, source.date or about.date,
    )  # fmt: skip


def write_fasta(
    path: Path,
    records: Records,
    chosen: Chosen,
    bases: Iterable[bytes],
    *,
    progress: Callable[[int], None] = lambda _chunks: None,
) -> str:
    """Write the chunks as gzip-compressed FASTA, a line of bases each, named by 1-based region as samtools does.

    Neither a time nor a name is in the file, so equal chunks give equal bytes. Gives the SHA-256 of the file.

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
            found[name] = parse_json(value)
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
        **{rank: [names[place] for place in record.tolist()] for rank, names in records.ranks.items()},
        "date": [records.date[place] for place in record.tolist()],
    }
