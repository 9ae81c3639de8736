"""Finds the chunks of one annotated genome file that can become part of a training set, and counts the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.contained import ContainmentIndex
from vnp.datasets.annotations.reading import read_annotated
from vnp.datasets.annotations.regions import Regions
from vnp.datasets.choosing.lengths import Lengths, Tiles, tile
from vnp.datasets.choosing.matches import ViralIndex
from vnp.datasets.choosing.part import Found, PartWriter
from vnp.datasets.choosing.sample import chunk_keys, name_key
from vnp.datasets.sheet import Source, group_of_record
from vnp.sequences.chunks import Chunks
from vnp.sequences.frames import FRAME_NAMES, open_frames

_KNOWN = np.isin(np.arange(256), np.frombuffer(b"ACGT", np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What to look for.

    Attributes:
        lengths: of chunks.
        frames: ``annotated`` takes the open frames inside an annotated protein, ``all`` every open frame.
        seed: of the whole.
        limit: chunks to keep of each genome and length, those of the lowest keys; None keeps all.
        sequences: whether the records' own sequences are wanted later.
        regions: chunks of host records that overlap these are dropped.
        viral: chunks of host records that match one of these genomes are dropped.
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
    record: Annotated,
    tiles: Tiles,
    index: ContainmentIndex,
    source: Source,
    search: Search,
    counts: dict[str, int],
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
