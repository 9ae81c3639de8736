"""Tells which host chunks are of viruses: in a region that a BED file lists, or matched by a viral genome.

The format of the file is that of the BED specification 1.0 of GA4GH: starts are 0-based, ends one past the last base.

A genome matches a chunk at 90 % identity or more over the whole chunk, on either strand.

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

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int16, Int64, UInt8, UInt32, UInt64
from numpy.lib.stride_tricks import sliding_window_view

from vnp.errors import InputError
from vnp.sequences.opening import one_line_end, stream

IDENTITY = 0.9
SEED_LENGTH = 15
"""Bases of a seed; odd, so that none is its own reverse complement."""
SEED_SHARE = 4
"""One k-mer of so many is a seed."""
OTHER_BASE = 4
BAND = 32
"""Bases by which a sequence may slide against its window to either side."""
# Of a k-mer that stands in many places only the first few are kept. Genomes that share it share its neighbours, so the
# first ones among them speak for all.
_COPIES = 16
# Diagonals closer to each other than this may belong to one alignment.
_NEAR = 16
_CANDIDATES = 8
# One seed on a diagonal is most often chance; it is aligned only if so many of the bases beside it fit as well.
_PROMISING = 0.45
_BATCH = 1 << 20
_PAIRS = 1 << 11
_BETWEEN = b"\0"
_GAP = 7  # no base of a chunk or genome
# Twice the place of a seed is more than 32 bits hold in sets larger than this.
_WIDE = 1 << 31
# More bases than any set has, so that places to the left of the first one can be packed too.
_MIDDLE = 1 << 40
_CODE = bytes.maketrans(bytes(range(256)), bytes(b"ACGT".find(bytes([letter])) % 5 for letter in range(256)))
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_KEY = np.uint64(30)
# So small that what a pass works on stays in the processor's cache.
_BLOCK = 1 << 14
# Rows of an alignment after which those beyond the limit are given up.
_LOOK = 32
_BED_HEADERS = ("track", "browser")


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """By record name, starts and ends of regions in order, none of which touch."""

    spans: dict[str, tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]]

    def overlaps(
        self, record: str, start: Int64[np.ndarray, "n"], end: Int64[np.ndarray, "n"]
    ) -> Bool[np.ndarray, "n"]:
        """Tell which stretches of a record, 0-based and end exclusive, share a base with a region."""
        starts, ends = self.spans.get(record, (np.empty(0, dtype=np.int64),) * 2)
        if not len(starts):
            return np.zeros(len(start), dtype=np.bool_)
        # The first region that ends after the stretch begins is the only one that need be looked at.
        place = np.searchsorted(ends, start, side="right")
        near = np.minimum(place, len(starts) - 1)
        return (place < len(starts)) & (starts[near] < end) & (start < end)


def read_regions(bed: str | Path) -> Regions:
    """Read a BED file, plain or compressed; InputError where it cannot be read or a line is not BED."""
    bed = Path(bed)
    given: dict[str, list[tuple[int, int]]] = {}
    _, blocks = stream(bed)
    text = b"".join(one_line_end(blocks)).decode("utf-8", "backslashreplace").removeprefix("\ufeff")
    for number, line in enumerate(text.split("\n"), start=1):
        first = (line.split() or ["#"])[0]
        if first.startswith("#") or first in _BED_HEADERS:
            continue
        words = line.split("\t") if "\t" in line else line.split()
        start, end = _span(words, bed, number)
        given.setdefault(words[0].strip(), []).append((start, end))
    return Regions({name: _joined(spans) for name, spans in given.items()})


def _span(words: list[str], path: Path, line: int) -> tuple[int, int]:
    numbers = [word.strip() for word in words[1:3]]
    if not words[0].strip() or [bool(re.fullmatch(r"[0-9]{1,15}", number)) for number in numbers] != [True, True]:
        raise InputError(
            "is not BED: a line is a record's name, a start and an end (whole numbers, the first base is 0), separated "
            "by tabs",
            path=path,
            line=line,
        )
    start, end = map(int, numbers)
    if start > end:
        raise InputError(f"the region ends ({end:,}) before it starts ({start:,})", path=path, line=line)
    return start, end


def _joined(spans: list[tuple[int, int]]) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    table = np.array(sorted(spans), dtype=np.int64).reshape(-1, 2)
    table = table[table[:, 0] < table[:, 1]]
    furthest = np.maximum.accumulate(table[:, 1])
    new = np.ones(len(table), dtype=np.bool_)
    new[1:] = table[1:, 0] > furthest[:-1]
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(table))[: len(first)] - 1
    return table[first, 0], furthest[last]


class Seeds(NamedTuple):
    """First bases of seeds, ascending; 32 bits of their k-mers' hashes; whether the other strand's k-mer was hashed."""

    place: Int64[np.ndarray, "seeds"]
    key: UInt32[np.ndarray, "seeds"]
    reverse: Bool[np.ndarray, "seeds"]


def base_codes(text: bytes) -> UInt8[np.ndarray, "n"]:
    """Number the bases A, C, G, T from 0 to 3; whatever else stands there is ``OTHER_BASE``."""
    return np.frombuffer(text.translate(_CODE), dtype=np.uint8)


def find_seeds(codes: UInt8[np.ndarray, "n"]) -> Seeds:
    """Pick the seeds of a text, as ``base_codes`` gives it; a k-mer with a base that is not A, C, G or T is none."""
    found = [
        _of_block(codes[start : start + _BLOCK + SEED_LENGTH - 1], start)
        for start in range(0, max(len(codes) - SEED_LENGTH + 1, 1), _BLOCK)
    ]
    return Seeds(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _of_block(codes: UInt8[np.ndarray, "n"], start: int) -> Seeds:
    if len(codes) < SEED_LENGTH:
        return Seeds(np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.bool_))
    forward = _kmers(codes & np.uint8(3), first_highest=True)
    # The reverse complement of a k-mer has the complement of its last base first.
    backward = _kmers(~codes & np.uint8(3), first_highest=False)
    hashes = np.minimum(forward, backward) * _SPREAD
    picked = np.flatnonzero(hashes < np.uint64((1 << 64) // SEED_SHARE))
    others = np.flatnonzero(codes == OTHER_BASE)
    if len(others):
        # How many strange letters stand before each base; between a k-mer's ends there must be none.
        before = np.searchsorted(others, picked)
        picked = picked[before == np.searchsorted(others, picked + SEED_LENGTH)]
    key = (hashes[picked] >> _KEY).astype(np.uint32)
    return Seeds(picked + start, key, backward[picked] < forward[picked])


def _kmers(codes: UInt8[np.ndarray, "n"], *, first_highest: bool) -> UInt64[np.ndarray, "n-SEED_LENGTH+1"]:
    """Write the bases of each k-mer into one number, the first highest or the last."""
    kmers, size = codes, 1
    while size < SEED_LENGTH:
        step = min(size, SEED_LENGTH - size)
        # Where the two halves share bases, shifting by less lays these over each other.
        kmers = kmers.astype(_holding(size + step))
        first, last = kmers[:-step], kmers[step:]
        high, low = (first, last) if first_highest else (last, first)
        kmers = (high << kmers.dtype.type(2 * step)) | low
        size += step
    return kmers


def _holding(bases: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest numbers that hold so many bases: less memory is touched, and a pass is three times as fast."""
    return np.dtype(f"u{next(size for size in (1, 2, 4, 8) if 4 * size >= bases)}")


class _Candidates(NamedTuple):
    """Diagonals on which chunks may match, the best of each chunk first."""

    chunk: Int64[np.ndarray, "n"]
    reverse: Bool[np.ndarray, "n"]
    start: Int64[np.ndarray, "n"]
    likely: Bool[np.ndarray, "n"]
    rank: Int64[np.ndarray, "n"]


@dataclass(frozen=True, slots=True, eq=False)
class ViralIndex:
    """The viral genomes of a set, to ask which chunks they match. It takes about 3.5 bytes a base."""

    # the bases of all records as numbers, each record followed by one that is no base
    codes: UInt8[np.ndarray, "bases"]
    ends: Int64[np.ndarray, "records+1"]  # where each record begins, and behind the last one where the next would
    keys: UInt32[np.ndarray, "seeds"]  # the seeds' hashes, in order
    # twice the first base of each seed, and 1 more if it is on the other strand
    places: Int64[np.ndarray, "seeds"] | UInt32[np.ndarray, "seeds"]
    listed: UInt8[np.ndarray, "bytes"]  # a bit for each stretch of hashes, set if there is one in it

    @classmethod
    def from_genomes(cls, genomes: Iterable[bytes]) -> ViralIndex:
        pieces = [base_codes(genome + _BETWEEN).tobytes() for genome in genomes]
        ends = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        codes = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        del pieces
        keys, places = _sorted_seeds(codes)
        kept = np.ones(len(keys), dtype=np.bool_)
        kept[_COPIES:] = keys[_COPIES:] != keys[:-_COPIES]
        keys, places = keys[kept], places[kept]
        return cls(codes, ends, keys, places, _bits(keys))

    def matches(self, chunks: Sequence[bytes]) -> Bool[np.ndarray, "chunks"]:
        """Tell which chunks, upper-case ASCII, a genome matches at ``IDENTITY`` or more over the whole chunk."""
        found = np.zeros(len(chunks), dtype=np.bool_)
        first = size = 0
        for last, chunk in enumerate(chunks, start=1):
            size += len(chunk) + 1
            if size >= _BATCH or last == len(chunks):
                found[first:last] = self._matches(chunks[first:last])
                first, size = last, 0
        return found

    def _matches(self, chunks: Sequence[bytes]) -> Bool[np.ndarray, "chunks"]:
        found = np.zeros(len(chunks), dtype=np.bool_)
        if not len(self.keys):
            return found
        # One more letter behind each keeps k-mers from reaching into the next chunk.
        codes = base_codes(_BETWEEN.join(chunks) + _BETWEEN)
        lengths = np.array(list(map(len, chunks)), dtype=np.int64)
        starts = np.cumsum(lengths + 1) - lengths - 1
        candidates = self._candidates(codes, starts, lengths)
        strands = _strands(codes)
        begin = np.where(
            candidates.reverse, 2 * len(codes) - (starts + lengths)[candidates.chunk], starts[candidates.chunk]
        )
        for rank in range(_CANDIDATES):
            some = np.flatnonzero((candidates.rank == rank) & ~found[candidates.chunk])
            sizes = lengths[candidates.chunk[some]]
            for length in np.unique(sizes).tolist():
                rows = some[sizes == length]
                for part in (rows[at : at + _PAIRS] for at in range(0, len(rows), _PAIRS)):
                    letters = sliding_window_view(strands, length)[begin[part]]
                    found[candidates.chunk[part]] |= self._verified(
                        letters, candidates.start[part], candidates.likely[part]
                    )
        return found

    def _candidates(
        self, codes: UInt8[np.ndarray, "n"], starts: Int64[np.ndarray, "chunks"], lengths: Int64[np.ndarray, "chunks"]
    ) -> _Candidates:
        """Find the diagonals that share most seeds with each chunk."""
        place, key, reverse = find_seeds(codes)
        shift = np.uint32(32 - (len(self.listed) * 8).bit_length() + 1)
        bit = key >> shift
        there = np.flatnonzero((self.listed[bit >> np.uint32(3)] >> (bit & np.uint32(7)).astype(np.uint8)) & 1)
        # In order of their keys, so that looking them up walks through the index once.
        there = there[np.argsort(key[there])]
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
        start = (theirs >> 1) - np.where(other, lengths[chunk] - SEED_LENGTH - inside, inside)
        return _best(chunk, other, start, inside)

    def _verified(
        self, chunks: UInt8[np.ndarray, "n length"], start: Int64[np.ndarray, "n"], likely: Bool[np.ndarray, "n"]
    ) -> Bool[np.ndarray, "n"]:
        """Compare chunks of one length with what lies in the genomes at ``start``."""
        length = chunks.shape[1]
        limit = int(length * (1 - IDENTITY) + 1e-9)
        # Nine tenths of a chunk that matches lie in the record, and so its middle does.
        record = np.clip(np.searchsorted(self.ends, start + length // 2, side="right") - 1, 0, len(self.ends) - 2)
        equal = np.count_nonzero(self._texts(start, length, record) == chunks, axis=1)
        found = equal >= length - limit
        rows = np.flatnonzero(~found & (likely | (equal >= _PROMISING * length)))
        texts = self._texts(start[rows] - BAND, length + 2 * BAND, record[rows])
        found[rows] = fewest_edits(chunks[rows], texts, limit) <= limit
        return np.asarray(found)

    def _texts(
        self, first: Int64[np.ndarray, "n"], size: int, record: Int64[np.ndarray, "n"]
    ) -> UInt8[np.ndarray, "n size"]:
        """The letters of records from ``first`` on, and no bases where a record has none."""
        texts = np.empty((len(first), size), dtype=np.uint8)
        begin, end = self.ends[record], self.ends[record + 1]
        whole = (first >= begin) & (first + size <= end)
        if whole.any():
            texts[whole] = sliding_window_view(self.codes, size)[first[whole]]
        rest = np.flatnonzero(~whole)
        place = first[rest][:, None] + np.arange(size)
        there = (place >= begin[rest][:, None]) & (place < end[rest][:, None])
        texts[rest] = np.where(there, self.codes[np.clip(place, 0, len(self.codes) - 1)], OTHER_BASE)
        return texts


def _strands(codes: UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "2*n"]:
    """Write a text and behind it its reverse complement, with letters for strange ones that equal none."""
    known = codes != OTHER_BASE
    forward = np.where(known, codes, _GAP)
    return np.concatenate((forward, np.where(known, 3 - codes, _GAP)[::-1]))


def _sorted_seeds(
    codes: UInt8[np.ndarray, "bases"],
) -> tuple[UInt32[np.ndarray, "seeds"], Int64[np.ndarray, "seeds"] | UInt32[np.ndarray, "seeds"]]:
    """Find all seeds, in order of their hashes, then their places."""
    keys, places = [], []
    kind = np.uint32 if len(codes) < _WIDE else np.int64
    for start in range(0, len(codes), _BATCH):
        seeds = find_seeds(codes[start : start + _BATCH + SEED_LENGTH - 1])
        keys.append(seeds.key)
        places.append((2 * (seeds.place + start) + seeds.reverse).astype(kind))
    if not keys:
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.uint32)
    key, place = np.concatenate(keys), np.concatenate(places)
    if kind is np.int64:
        order = np.argsort(key, kind="stable")
        return key[order], place[order]
    # Both in one number, since sorting numbers is four times as fast as finding an order.
    both = key.astype(np.uint64) << np.uint64(32)
    both |= place
    both.sort()
    return (both >> np.uint64(32)).astype(np.uint32), both.astype(np.uint32)


def _bits(keys: UInt32[np.ndarray, "seeds"]) -> UInt8[np.ndarray, "bytes"]:
    """Set a bit for the first bits of each key; eight times as many bits as keys, so that most chance keys miss."""
    size = min(max(8 * len(keys), 8).bit_length(), 32)
    bits = keys >> np.uint32(32 - size)
    listed = np.zeros(1 << (size - 3), dtype=np.uint8)
    byte = bits >> np.uint32(3)
    first = np.flatnonzero(byte[1:] != byte[:-1]) + 1
    first = np.concatenate(([0], first))[: len(keys)]
    if len(keys):
        listed[byte[first]] = np.bitwise_or.reduceat(np.uint8(1) << (bits & np.uint32(7)).astype(np.uint8), first)
    return listed


def _best(
    chunk: Int64[np.ndarray, "hits"],
    reverse: Bool[np.ndarray, "hits"],
    start: Int64[np.ndarray, "hits"],
    inside: Int64[np.ndarray, "hits"],
) -> _Candidates:
    """Join hits on neighbouring diagonals, and rank those of each chunk by their number."""
    # Chunk, strand and diagonal in one number, so that sorting and comparing is done once.
    packed = (chunk << 42) | (reverse.astype(np.int64) << 41) | (start + _MIDDLE)
    order = np.argsort(packed)
    packed, inside = packed[order], inside[order]
    if not len(packed):
        return _Candidates(chunk, reverse, start, reverse, chunk)
    diagonal = np.flatnonzero(np.diff(packed, prepend=-1))
    first = np.flatnonzero(np.diff(packed[diagonal], prepend=-_MIDDLE) > _NEAR)
    # Of neighbouring diagonals the one with most hits; the last of these, since of repeats the first copies are kept.
    hits = np.diff(np.append(diagonal, len(packed)))
    best = np.maximum.reduceat((hits << 32) + np.arange(len(hits)), first) & 0xFFFFFFFF
    votes = np.add.reduceat(hits, first)
    # Seeds that overlap are one stretch that fits, which happens by chance; two such stretches hardly do.
    ends = diagonal[first]
    likely = np.maximum.reduceat(inside, ends) - np.minimum.reduceat(inside, ends) >= SEED_LENGTH
    packed = packed[diagonal[best]]
    chunk = packed >> 42
    order = np.argsort((chunk << 21) - (likely.astype(np.int64) << 20) - np.minimum(votes, (1 << 20) - 1))
    packed, chunk, likely = packed[order], chunk[order], likely[order]
    begin = np.flatnonzero(np.diff(chunk, prepend=-1))
    rank = np.arange(len(chunk)) - np.repeat(begin, np.diff(np.append(begin, len(chunk))))
    return _Candidates(chunk, (packed >> 41 & 1).astype(np.bool_), (packed & (2 * _MIDDLE - 1)) - _MIDDLE, likely, rank)


def fewest_edits(
    sequences: UInt8[np.ndarray, "pairs length"], windows: UInt8[np.ndarray, "pairs length+2*BAND"], limit: int
) -> Int64[np.ndarray, "pairs"]:
    """Count the substitutions, insertions and deletions that turn each sequence into a stretch of its window.

    The dynamic programme of Sellers (Journal of Algorithms 1980, 1:359), on the diagonals within the band: each row is
    one base of the sequences, for all pairs at once. A sequence that lies in the middle of its window is on the middle
    diagonal. Edits above the limit are some number above it.
    """
    count, length = sequences.shape
    edits = np.full(count, limit + 1, dtype=np.int64)
    width = 2 * BAND + 1
    alive = np.arange(count)
    rows, texts = np.ascontiguousarray(sequences.T), np.ascontiguousarray(windows.T)
    ramp = np.arange(width, dtype=np.int16)[:, None]
    cost: Int16[np.ndarray, "width alive"] = np.zeros((width, count), dtype=np.int16)
    for row in range(length):
        following = cost + (texts[row : row + width] != rows[row])
        np.minimum(following[:-1], cost[1:] + np.int16(1), out=following[:-1])
        # A base of the window that is passed over costs one more than what stands to the left of it.
        following -= ramp
        np.minimum.accumulate(following, axis=0, out=following)
        following += ramp
        cost = following
        if row % _LOOK == _LOOK - 1:
            near = cost.min(axis=0) <= limit
            if not near.all():
                alive, cost = alive[near], np.ascontiguousarray(cost[:, near])
                rows, texts = np.ascontiguousarray(rows[:, near]), np.ascontiguousarray(texts[:, near])
            if not len(alive):
                return edits
    edits[alive] = cost.min(axis=0)
    return edits
