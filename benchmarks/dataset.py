"""Times finding frames in annotated proteins, by the index and by a scan of every protein, and reading genomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from jaxtyping import Bool, Int64

from benchmarks import processor_seconds, show
from benchmarks._commands import command, options
from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.contained import ContainmentIndex
from vnp.datasets.annotations.reading import read_annotated
from vnp.files.machine import peak_memory
from vnp.runs.planning.options import LARGEST_CHUNK
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.frames import Frames, open_frames

_CLEAR = Path("/proc/self/clear_refs")


@dataclass(slots=True)
class IndexFigures:
    """What ``measure_index`` measures on one file, added up over its records; times are processor seconds."""

    chunk: int  # bases a chunk
    # memory that reading and indexing took at its highest, beyond what was in use before; None where the system does
    # not tell
    read_peak_bytes: int | None
    records: int = 0  # of the file
    bases: int = 0  # of all records
    proteins: int = 0  # annotated, that agree with the sequence
    mismatched: int = 0  # coding sequences whose protein does not
    chunks: int = 0  # without ambiguous bases
    frames: int = 0  # open frames of these
    annotated: int = 0  # of these, frames inside an annotated protein
    read_seconds: float = 0.0  # reading the file, with the check of its translations
    index_seconds: float = 0.0  # making the index of every record and looking up every frame
    scanned_frames: int = 0  # frames that the scan was timed on
    scanned_chunks: int = 0  # chunks that these frames are of
    scan_seconds: float = 0.0  # looking each of these up in one protein after the other, as VirNucPro does

    @property
    def index_speed(self) -> float:
        """Chunks a second of the index, on all chunks."""
        return self.chunks / self.index_seconds

    @property
    def scan_speed(self) -> float:
        """Chunks a second of the scan."""
        return self.scanned_chunks / self.scan_seconds

    @property
    def speedup(self) -> float:
        """How many times as fast as the scan the index is, on all chunks."""
        return self.index_speed / self.scan_speed

    @property
    def seconds_per_mbp(self) -> float:
        """Seconds a million bases of reading and indexing."""
        return (self.read_seconds + self.index_seconds) / self.bases * 1e6


def measure_index(
    genome: Path, annotation: Path | None = None, *, chunk: int = 300, scan_chunks: int = 2_000
) -> IndexFigures:
    """Time the index against a scan of every protein, on the frames of one file.

    Both get the same open frames of the same chunks and the same proteins, as bytes; finding the frames is not timed.
    The scan is what VirNucPro's ``identify_seq(..., istraindata=True)`` does: it asks of each protein of the record, in
    order, whether the frame's protein is a part of it, until one is. It is timed on ``scan_chunks`` at most, spread
    over each record.

    Raises:
        InputError: the file cannot be used.
        RuntimeError: the two sides answer differently.
    """
    sums = IndexFigures(chunk, _peak_of_reading(genome, annotation, chunk))
    for record, seconds in _timed(genome, annotation):
        sums.records += 1
        sums.read_seconds += seconds
        sums.bases += len(record.sequence)
        sums.proteins += len(record.proteins)
        sums.mismatched += record.mismatched
        if record.problem is None:
            _add_record(sums, record, scan_chunks)
    return sums


def _timed(genome: Path, annotation: Path | None) -> Iterator[tuple[Annotated, float]]:
    """Read records, each with the time that it took."""
    records = read_annotated(genome, annotation)
    while (found := processor_seconds(lambda: next(records, None)))[0] is not None:
        yield found[0], found[1]


def _add_record(sums: IndexFigures, record: Annotated, scan_chunks: int) -> None:
    chunks = _known_chunks(record.sequence, sums.chunk)
    frames = open_frames([record.sequence], chunks)
    found, seconds = processor_seconds(lambda: _indexed(record, frames))
    sums.index_seconds += seconds
    sums.chunks += len(chunks)
    sums.frames += len(frames)
    sums.annotated += int(found.sum())

    step = max(1, -(-len(chunks) // scan_chunks))
    rows = np.flatnonzero(frames.chunk % step == 0)
    scanned, seconds = processor_seconds(lambda: _scanned(record, frames, rows))
    sums.scan_seconds += seconds
    if scanned.tolist() != found[rows].tolist():
        raise RuntimeError(f"the index and the scan differ in record {record.name}")
    sums.scanned_frames += len(rows)
    sums.scanned_chunks += len(range(0, len(chunks), step))
    few = open_frames([record.sequence], _every(chunks, step))
    if _indexed(record, few).tolist() != scanned.tolist():
        raise RuntimeError(f"the index differs from itself in record {record.name}")


def _known_chunks(sequence: bytes, size: int) -> Chunks:
    """The chunks of a record that hold no ambiguous base."""
    chunks = Chunking(size).cut(np.array([len(sequence)]))
    strange = np.array([match.start() for match in re.finditer(rb"[^ACGT]", sequence)], dtype=np.int64)
    known = np.searchsorted(strange, chunks.start) == np.searchsorted(strange, chunks.end)
    return Chunks(chunks.sequence[known], chunks.number[known], chunks.start[known], chunks.end[known])


def _every(chunks: Chunks, step: int) -> Chunks:
    return Chunks(chunks.sequence[::step], chunks.number[::step], chunks.start[::step], chunks.end[::step])


def _indexed(record: Annotated, frames: Frames) -> Bool[np.ndarray, "rows"]:
    return ContainmentIndex(record.proteins).contains(frames.protein, frames.protein_offsets)


def _scanned(record: Annotated, frames: Frames, rows: Int64[np.ndarray, "some"]) -> Bool[np.ndarray, "some"]:
    text, offsets = frames.protein.tobytes(), frames.protein_offsets
    queries = [text[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
    proteins = record.proteins
    return np.array([any(query in protein for protein in proteins) for query in queries], dtype=np.bool_)


def _peak_of_reading(genome: Path, annotation: Path | None, chunk: int) -> int | None:
    """The most memory that reading and indexing a file takes beyond what is in use."""
    with suppress(OSError):
        _CLEAR.write_text("5")  # the system forgets the peak so far
    before = peak_memory()
    for record in read_annotated(genome, annotation):
        if record.problem is None:
            _indexed(record, open_frames([record.sequence], _known_chunks(record.sequence, chunk)))
    peak = peak_memory()
    return None if before is None or peak is None else max(peak - before, 0)


@command("python -m benchmarks dataset viral.gbff.gz")
@click.argument("genomes", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--annotation",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The GFF3 or GenBank file, where GENOMES is FASTA.",
)
@click.option("--chunk", type=click.IntRange(30, LARGEST_CHUNK), default=300, help="Bases of a chunk.")
@click.option(
    "--scan-chunks", type=click.IntRange(min=1), default=2_000, help="Chunks of a record to time the scan on, at most."
)
@options.as_json
def main(genomes: Path, annotation: Path | None, chunk: int, scan_chunks: int, as_json: bool) -> None:
    """Time finding the frames that lie in annotated proteins, by the index and by a scan of every protein.

    GENOMES is annotated: GenBank, or FASTA with GFF3 or GenBank. Both sides get the same frames and must agree on each;
    finding the frames is not timed. Times are processor time of one core.
    """
    found = measure_index(genomes, annotation, chunk=chunk, scan_chunks=scan_chunks)
    peak = found.read_peak_bytes
    figures = {
        "records": found.records,
        "bases": found.bases,
        "proteins": found.proteins,
        "proteins that do not agree with the sequence": found.mismatched,
        "chunk": found.chunk,
        "chunks": found.chunks,
        "open frames": found.frames,
        "in an annotated protein": found.annotated,
        "index, chunks/s": found.index_speed,
        "scan, chunks/s": found.scan_speed,
        "index over scan": found.speedup,
        "chunks that the scan was timed on": found.scanned_chunks,
        "reading, s": found.read_seconds,
        "index, s": found.index_seconds,
        "reading and index, s per million bases": found.seconds_per_mbp,
        "peak memory, MB": "not told here" if peak is None else peak / 1e6,
    }
    show(figures, as_json)
