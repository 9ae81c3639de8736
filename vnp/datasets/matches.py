"""Tells which chunks a viral genome matches: at 90 % identity or more over the whole chunk, on either strand.

Identity of a chunk of L bases is 1 - edits / L, where edits are the substitutions, insertions and deletions that turn
the chunk into the best stretch of one record (the chunk from end to end, the record anywhere); a base that is not A, C,
G or T equals none. What is said to match does. What does match may be missed where it shares no seed with the record,
as happens in short chunks at the edge of 90 %, where insertions shift it by more than 32 bases, or where it lies across
the place at which a circular genome was cut open.

Candidates come from seeds, k-mers that are picked by their hash alone and so are the same ones in genomes and chunks
(as in FracMinHash: Irber et al., bioRxiv 2022.01.11.475838). Seeds that a chunk and a record share lie on diagonals;
those with the most are compared base by base, and, where that does not settle it, aligned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32

from vnp.datasets._alignment import BAND, fewest_edits
from vnp.datasets._seeds import LENGTH, OTHER, base_codes, find_seeds
from vnp.datasets.regions import Regions, read_regions

__all__ = ["IDENTITY", "Regions", "ViralIndex", "read_regions"]

IDENTITY = 0.9
# Of a k-mer that stands in many places only the first few are kept. Genomes that share it share its neighbours, so the
# first ones among them speak for all.
_COPIES = 16
# Diagonals closer to each other than this may belong to one alignment.
_NEAR = 16
_CANDIDATES = 8
# A single seed on a diagonal is most often chance; it is aligned only if so many of the bases beside it fit as well.
_PROMISING = 0.45
_BATCH = 1 << 20
_PAIRS = 1 << 11
_GAP = 7  # no base of a chunk or genome


class _Candidates(NamedTuple):
    """Diagonals on which chunks may match, the best of each chunk first."""

    chunk: Int64[np.ndarray, "n"]
    reverse: Bool[np.ndarray, "n"]
    start: Int64[np.ndarray, "n"]
    votes: Int64[np.ndarray, "n"]
    rank: Int64[np.ndarray, "n"]


@dataclass(frozen=True, slots=True, eq=False)
class ViralIndex:
    """The viral genomes of a set, to ask which chunks they match. It takes about 3.5 bytes a base.

    Attributes:
        codes: the bases of all records as numbers, each record followed by one that is no base.
        ends: where each record begins, and behind the last one where the next would.
        keys: the seeds' hashes, in order.
        places: twice the first base of each seed, and 1 more if it is on the other strand.
        listed: a bit for each stretch of hashes, set if there is one in it.
    """

    codes: UInt8[np.ndarray, "bases"]
    ends: Int64[np.ndarray, "records+1"]
    keys: UInt32[np.ndarray, "seeds"]
    places: Int64[np.ndarray, "seeds"] | UInt32[np.ndarray, "seeds"]
    listed: UInt8[np.ndarray, "bytes"]

    @classmethod
    def from_genomes(cls, genomes: Iterable[bytes]) -> ViralIndex:
        """Make an index.

        Args:
            genomes: the sequence of each record, upper-case ASCII.
        """
        pieces: list[UInt8[np.ndarray, "n"]] = []
        for genome in genomes:
            pieces += [base_codes(np.frombuffer(genome, dtype=np.uint8)), np.array([OTHER], dtype=np.uint8)]
        lengths = [len(piece) + 1 for piece in pieces[::2]]
        codes = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint8)
        seeds = find_seeds(codes)
        order = np.argsort(seeds.key, kind="stable")
        keys = seeds.key[order]
        run = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)])
        copy = np.arange(len(keys)) - np.repeat(run, np.diff(np.append(run, len(keys))))
        kept = copy < _COPIES
        order = order[kept]
        places = 2 * seeds.place[order] + seeds.reverse[order]
        if len(codes) < 1 << 31:
            places = places.astype(np.uint32)
        ends = np.concatenate(([0], np.cumsum(np.array(lengths, dtype=np.int64))))
        return cls(codes, ends, keys[kept], places, _bits(keys[kept]))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(int(getattr(self, field.name).nbytes) for field in fields(self))

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder that is there, for other processes to open."""
        for field in fields(self):
            np.save(Path(folder) / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def open(cls, folder: str | Path) -> ViralIndex:
        """Open an index that ``save`` wrote; processes that do so share the memory."""
        return cls(*(np.load(Path(folder) / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)))

    def matches(self, chunks: Sequence[bytes]) -> Bool[np.ndarray, "chunks"]:
        """Tell which chunks a genome matches at ``IDENTITY`` or more over the whole chunk, on either strand.

        Args:
            chunks: upper-case ASCII.
        """
        found = np.zeros(len(chunks), dtype=np.bool_)
        first = size = 0
        for last, chunk in enumerate(chunks, start=1):
            size += len(chunk)
            if size >= _BATCH or last == len(chunks):
                found[first:last] = self._matches(chunks[first:last])
                first, size = last, 0
        return found

    def _matches(self, chunks: Sequence[bytes]) -> Bool[np.ndarray, "chunks"]:
        found = np.zeros(len(chunks), dtype=np.bool_)
        if not len(self.keys):
            return found
        # One more letter behind each keeps k-mers from reaching into the next chunk.
        codes = base_codes(np.frombuffer(b"\0".join(chunks) + b"\0", dtype=np.uint8))
        lengths = np.array(list(map(len, chunks)), dtype=np.int64)
        starts = np.cumsum(lengths + 1) - lengths - 1
        candidates = self._candidates(codes, starts, lengths)
        for rank in range(_CANDIDATES):
            some = np.flatnonzero((candidates.rank == rank) & ~found[candidates.chunk])
            if not len(some):
                break
            ours = _Candidates(*(column[some] for column in candidates))
            sizes = lengths[ours.chunk]
            for length in np.unique(sizes).tolist():
                rows = np.flatnonzero(sizes == length)
                for at in range(0, len(rows), _PAIRS):
                    part = _Candidates(*(column[rows[at : at + _PAIRS]] for column in ours))
                    found[part.chunk] |= self._verified(codes, starts, part, length)
        return found

    def _candidates(
        self, codes: UInt8[np.ndarray, "n"], starts: Int64[np.ndarray, "chunks"], lengths: Int64[np.ndarray, "chunks"]
    ) -> _Candidates:
        """Find the diagonals that share most seeds with each chunk."""
        place, key, reverse = find_seeds(codes)
        shift = np.uint32(32 - (len(self.listed) * 8).bit_length() + 1)
        bit = key >> shift
        there = np.flatnonzero((self.listed[bit >> np.uint32(3)] >> (bit & np.uint32(7)).astype(np.uint8)) & 1)
        place, key, reverse = place[there], key[there], reverse[there]
        left = np.searchsorted(self.keys, key, side="left")
        counts = np.searchsorted(self.keys, key, side="right") - left
        before = np.cumsum(counts) - counts
        hit = np.repeat(left - before, counts) + np.arange(counts.sum())
        theirs = self.places[hit].astype(np.int64)
        chunk = np.searchsorted(starts, place, side="right") - 1
        inside = place - starts[chunk]
        chunk, inside, reverse = (np.repeat(column, counts) for column in (chunk, inside, reverse))
        other = reverse != (theirs & 1).astype(np.bool_)
        start = (theirs >> 1) - np.where(other, lengths[chunk] - LENGTH - inside, inside)
        return _best(chunk, other, start)

    def _verified(
        self,
        codes: UInt8[np.ndarray, "n"],
        starts: Int64[np.ndarray, "chunks"],
        candidates: _Candidates,
        length: int,
    ) -> Bool[np.ndarray, "candidates"]:
        """Compare chunks of one length with the records that lie under them."""
        limit = int(length * (1 - IDENTITY) + 1e-9)
        chunks = codes[starts[candidates.chunk][:, None] + np.arange(length)]
        turned = np.where(chunks == OTHER, OTHER, 3 - chunks)[:, ::-1]
        chunks = np.where(candidates.reverse[:, None], turned, chunks)
        chunks[chunks == OTHER] = _GAP
        middle = candidates.start + length // 2
        record = np.clip(np.searchsorted(self.ends, middle, side="right") - 1, 0, len(self.ends) - 2)
        window = (candidates.start - BAND)[:, None] + np.arange(length + 2 * BAND)
        outside = (window < self.ends[record][:, None]) | (window >= self.ends[record + 1][:, None])
        texts = self.codes[np.clip(window, 0, len(self.codes) - 1)]
        texts[outside] = OTHER
        equal = (texts[:, BAND : BAND + length] == chunks).sum(axis=1)
        found = equal >= length - limit
        rows = np.flatnonzero(~found & ((candidates.votes > 1) | (equal >= _PROMISING * length)))
        found[rows] = fewest_edits(chunks[rows], texts[rows], limit) <= limit
        return np.asarray(found)


def _bits(keys: UInt32[np.ndarray, "seeds"]) -> UInt8[np.ndarray, "bytes"]:
    """Set a bit for the first bits of each key; eight times as many bits as keys, so that most chance keys miss."""
    size = min(max(8 * len(keys), 8).bit_length(), 32)
    listed = np.zeros(1 << size, dtype=np.bool_)
    listed[keys >> np.uint32(32 - size)] = True
    return np.packbits(listed, bitorder="little")


def _best(
    chunk: Int64[np.ndarray, "hits"], reverse: Bool[np.ndarray, "hits"], start: Int64[np.ndarray, "hits"]
) -> _Candidates:
    """Join hits on neighbouring diagonals, and rank those of each chunk by their number."""
    order = np.lexsort((start, reverse, chunk))
    chunk, reverse, start = chunk[order], reverse[order], start[order]
    new = (np.diff(chunk, prepend=-1) != 0) | (np.diff(reverse.astype(np.int8), prepend=-1) != 0)
    new |= np.diff(start, prepend=0) > _NEAR
    first = np.flatnonzero(new)
    votes = np.diff(np.append(first, len(chunk)))
    middle = first + votes // 2
    chunk, reverse, start = chunk[middle], reverse[middle], start[middle]
    order = np.lexsort((-votes, chunk))
    chunk, reverse, start, votes = chunk[order], reverse[order], start[order], votes[order]
    begin = np.flatnonzero(np.diff(chunk, prepend=-1))
    rank = np.arange(len(chunk)) - np.repeat(begin, np.diff(np.append(begin, len(chunk))))
    return _Candidates(chunk, reverse, start, votes, rank)
