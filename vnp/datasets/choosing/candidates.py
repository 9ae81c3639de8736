"""Cuts the records of a genome file into chunks, and finds those that can become part of a training set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.contained import ContainmentIndex
from vnp.datasets.annotations.reading import read_annotated
from vnp.datasets.choosing._part import Found, PartWriter
from vnp.datasets.choosing._prophages import Regions, ViralIndex
from vnp.datasets.choosing._sample import chunk_keys, name_key
from vnp.datasets.sheet import Source, group_of_record
from vnp.errors import UsageError
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.frames import FRAME_NAMES, open_frames

SHORTEST = 30
LONGEST = 1_000_000
_PIECE_BASES = 1 << 24
_KNOWN = np.isin(np.arange(256), np.frombuffer(b"ACGT", np.uint8))


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of chunks: some, ascending, or the two ends of a range of which each chunk has its own."""

    sizes: tuple[int, ...]
    is_range: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What each length is called in tables; a range counts as one."""
        return (str(self),) if self.is_range else tuple(map(str, self.sizes))

    def __str__(self) -> str:
        return ("-" if self.is_range else ",").join(map(str, self.sizes))


def read_lengths(text: str) -> Lengths:
    """Read ``300``, ``150,300,500`` or the range ``150-500``; UsageError for anything else, too short or long."""
    found = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
    parts = list(found.groups()) if found else text.split(",")
    if not all(re.fullmatch(r"\s*\d{1,9}\s*", part) for part in parts):
        raise UsageError(f"--lengths {text}: give one length, several with commas (150,300,500), or a range (150-500)")
    sizes = tuple(map(int, parts))
    if found and sizes[0] >= sizes[1]:
        raise UsageError(f"--lengths {text}: a range goes from the shorter to the longer, such as 150-500")
    if len(set(sizes)) < len(sizes):
        raise UsageError(f"--lengths {text}: names a length twice")
    if min(sizes) < SHORTEST or max(sizes) > LONGEST:
        raise UsageError(f"--lengths {text}: a chunk has at least {SHORTEST} and at most {LONGEST:,} bases")
    return Lengths(tuple(sorted(sizes)), is_range=bool(found))


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Neighbouring chunks of a record: the number of their length, first bases, one past the last ones."""

    length: int
    start: Int64[np.ndarray, "n"]
    end: Int64[np.ndarray, "n"]


def tile(bases: int, lengths: Lengths, *, name: str, seed: int) -> Iterator[Tiles]:
    """Cut a record of so many bases into chunks of each length, in pieces of bounded size.

    A fixed length is cut as VirNucPro cuts (``vnp.sequences.chunks``). For a range, lengths are drawn evenly from it,
    by the record's name and the seed, and laid end to end; the last chunk is moved left so that it ends with the
    record. A record shorter than a chunk is one chunk, once, however many lengths are longer than it.
    """
    if lengths.is_range:
        shortest, longest = lengths.sizes
        start, end = _drawn(bases, shortest, longest, name_key(seed, "range", name))
        step = max(1, _PIECE_BASES // longest)
        for first in range(0, len(start), step):
            yield Tiles(0, start[first : first + step], end[first : first + step])
        return
    last_lengths: set[int] = set()
    for number, size in enumerate(lengths.sizes):
        chunking = Chunking(size)
        count = chunking.number(bases)
        step = max(1, _PIECE_BASES // size)
        for first in range(0, count, step):
            chunks = chunking.cut(np.array([bases]), first=first, last=first + step)
            start, end = chunks.start, chunks.end
            if first + step >= count:
                # All lengths end with the record, so a last chunk that is too short can be another length's chunk.
                last = int(end[-1] - start[-1])
                if last < size and last in last_lengths:
                    start, end = start[:-1], end[:-1]
                last_lengths.add(last)
            yield Tiles(number, start, end)


def _drawn(bases: int, shortest: int, longest: int, key: int) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    if not bases:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    index = np.arange(-(-bases // shortest))
    drawn = shortest + (chunk_keys(key, index, index) % np.uint64(longest - shortest + 1)).astype(np.int64)
    end = np.cumsum(drawn)
    count = int(np.searchsorted(end, bases)) + 1
    end, start = end[:count], (end - drawn)[:count]
    end[-1] = bases
    start[-1] = max(0, bases - int(drawn[count - 1]))
    return start, end


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What to look for: chunks of which lengths, all open frames or the annotated ones.

    Of each genome and length the ``limit`` candidates of the lowest keys are kept, and ``sequences`` of records where
    they are wanted later. Host chunks that overlap ``regions`` or match a genome in ``viral`` are dropped.
    """

    lengths: Lengths
    frames: str = "annotated"
    seed: int = 0
    limit: int | None = None
    sequences: bool = True
    regions: Regions | None = None
    viral: ViralIndex | None = None


def find_candidates(
    source: Source, search: Search, writer: PartWriter, *, progress: Callable[[int], None] = lambda _bases: None
) -> None:
    """Write the candidates of one file, with their bases, and the counts of everything that was looked at.

    Memory is bounded by the largest record, and by the candidates' places (not their bases). ``progress`` is told how
    many bases were worked through since the last call.

    Raises:
        InputError: the file cannot be read, or a record's lineage contradicts its label.
    """
    for record in read_annotated(source.path, source.annotation):
        usable = record.problem is None
        group = group_of_record(record, source) if usable else ""
        number = writer.add_record(record, group, keep=usable and search.sequences)
        if not usable:
            continue
        counts = writer.counts(group)
        index = ContainmentIndex(record.proteins)
        record_key = name_key(search.seed, "chunk", record.name)
        bases = len(record.sequence)
        for tiles in tile(bases, search.lengths, name=record.name, seed=search.seed):
            found = _candidates(record, tiles, index, source, search, counts[tiles.length])
            keys = chunk_keys(record_key, found.start, found.end)
            writer.add_chunks(number, tiles.length, keys, found)
        progress(bases)


def _candidates(
    record: Annotated, tiles: Tiles, index: ContainmentIndex, source: Source, search: Search, counts: dict[str, int]
) -> Found:
    """Take from chunks one kind after the other that cannot be used, and count each."""
    known = ~_ambiguous(record.sequence, tiles)
    counts["chunks"] += len(known)
    counts["ambiguous"] += len(known) - int(known.sum())
    found = _with_frames(record.sequence, tiles.start[known], tiles.end[known], index)
    is_open = found.frames > 0
    counts["no_open_frame"] += len(is_open) - int(is_open.sum())
    found = found.take(is_open)
    counts["frames"] += found.open_frames()
    if search.frames == "annotated":
        counts["frames_unannotated"] += found.open_frames() - int(np.bitwise_count(found.annotated).sum())
        counts["unannotated"] += int((found.annotated == 0).sum())
        found = replace(found, frames=found.annotated).take(found.annotated > 0)
    if not source.label and search.regions is not None:
        found = _without(search.regions.overlaps(record.name, found.start, found.end), "listed", found, counts)
    if not source.label and search.viral is not None and len(found.start):
        found = _without(search.viral.matches(list(found.bases())), "matched", found, counts)
    counts["kept"] += len(found.start)
    counts["frames_kept"] += found.open_frames()
    counts["frames_annotated"] += int(np.bitwise_count(found.annotated).sum())
    return found


def _without(prophage: Bool[np.ndarray, "n"], what: str, found: Found, counts: dict[str, int]) -> Found:
    counts[what] += int(prophage.sum())
    counts[f"frames_{what}"] += found.take(prophage).open_frames()
    return found.take(~prophage)


def _ambiguous(sequence: bytes, tiles: Tiles) -> Bool[np.ndarray, "n"]:
    """Which chunks hold a letter that is not A, C, G or T."""
    if not len(tiles.start):
        return np.zeros(0, np.bool_)
    first = int(tiles.start[0])
    letters = np.frombuffer(sequence, np.uint8)[first : int(tiles.end[-1])]
    places = np.flatnonzero(~_KNOWN[letters]) + first
    ambiguous: Bool[np.ndarray, "n"] = np.searchsorted(places, tiles.start) < np.searchsorted(places, tiles.end)
    return ambiguous


def _with_frames(
    sequence: bytes, start: Int64[np.ndarray, "n"], end: Int64[np.ndarray, "n"], index: ContainmentIndex
) -> Found:
    """The open frames of chunks, and which of them lie in an annotated protein."""
    zeros = np.zeros(len(start), np.int64)
    chunks = Chunks(zeros, zeros.astype(np.int32), start, end)
    opened = open_frames([sequence], chunks)
    annotated = index.contains(opened.protein, opened.protein_offsets)
    bits = np.left_shift(np.uint8(1), opened.frame.astype(np.uint8))
    masks = np.zeros((2, len(start)), np.uint8)
    np.bitwise_or.at(masks[0], opened.chunk, bits)
    np.bitwise_or.at(masks[1], opened.chunk[annotated], bits[annotated])
    assert len(FRAME_NAMES) < 8
    return Found(start, end, masks[0], masks[1], sequence)
