"""How long the chunks of a training set are, and where they lie in a record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from vnp.datasets.choosing.sample import chunk_keys, name_key
from vnp.errors import UsageError
from vnp.sequences.chunks import Chunking

SHORTEST = 30
LONGEST = 1_000_000
_PIECE_BASES = 1 << 24


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
    """Read lengths as they stand on a command line: ``300``, ``150,300,500`` or the range ``150-500``.

    Raises:
        UsageError: they are something else, or too short or long.
    """
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
    by the record's name and the seed, and laid end to end; the last chunk is moved left so that it ends with the record. A
    record shorter than a chunk is one chunk, once, however many lengths are longer than it.
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
