"""Reads the sequences of a BAM file: reads as a sequencer gave them, aligned to something or not.

Each read is there once, by its primary record (or its only one), in its own orientation: an aligner keeps the reverse
complement of what it put on the reverse strand. A first or last read of a pair ends in ``/1`` or ``/2``, as ``samtools
fastq`` writes it. Source of the format: the SAM/BAM specification (samtools/hts-specs, SAMv1), sections 4.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from vnp.errors import InputError
from vnp.sequences.record import Record, checked_record, reverse_complement

MAGIC = b"BAM\x01"
# An empty block of BGZF, which ends every file that is whole.
_LAST_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BGZF = (b"\x1f\x8b\x08\x04", b"BC")
_NUMBER = Struct("<i")
# Length, reference, place, length of the name, quality, bin, number of operations, flags, bases; three of the mate.
_FIXED = Struct("<iiiBBHHHiiii")
_LETTERS = bytes.maketrans(b"0123456789abcdef", b"=ACMGRSVTWYHKDBN")
_PAIRED, _REVERSE, _FIRST, _LAST, _NOT_PRIMARY = 0x1, 0x10, 0x40, 0x80, 0x100 | 0x800
_MATES = {_FIRST: b"/1", _LAST: b"/2"}
# Longer than any read of today; a length beyond it is damage.
_LONGEST = 1 << 30


def require_end(path: Path) -> None:
    """Refuse a file of BGZF whose last block is missing: cut between two blocks, it looks whole else.

    Raises:
        InputError: it is.
    """
    with path.open("rb") as file:
        start = file.read(14)
        if not (start.startswith(_BGZF[0]) and start.endswith(_BGZF[1])):
            return
        file.seek(max(0, path.stat().st_size - len(_LAST_BLOCK)))
        if file.read() != _LAST_BLOCK:
            raise InputError(
                "the BAM file has no end mark; it was probably cut off while it was copied: copy it again. If it is "
                "whole, 'samtools view -b' writes it with one",
                path=path,
            )


def bam_records(blocks: Iterator[bytes], path: Path) -> Iterator[Record]:
    """Read the records of a BAM file, unpacked, in order; ``InputError`` where it is damaged or cut off."""
    text = _Text(blocks, path)
    text.take(len(MAGIC))
    text.take(text.number())
    for _ in range(text.number()):
        text.take(text.number())
        text.number()
    for data, places in text.records():
        yield from filter(None, (_record(data, at) for at in places))


def _record(data: bytes, at: int) -> Record | None:
    """One record, whose length stands at a place; None where it is not the primary one of its read."""
    _, _, _, name_size, _, _, operations, flags, bases, _, _, _ = _FIXED.unpack_from(data, at)
    if flags & _NOT_PRIMARY:
        return None
    start = at + _FIXED.size
    name = data[start : start + name_size - 1]
    if flags & _PAIRED:
        name += _MATES.get(flags & (_FIRST | _LAST), b"")
    start += name_size + 4 * operations
    sequence = data[start : start + (bases + 1) // 2].hex().encode().translate(_LETTERS)[:bases]
    good = b"=" not in sequence
    if flags & _REVERSE:
        sequence = reverse_complement(sequence)
    return checked_record(name, sequence, 0, None, good=good)


class _Text:
    """The bytes of the file, as far as they have not been taken."""

    def __init__(self, blocks: Iterator[bytes], path: Path) -> None:
        self._blocks, self._path = blocks, path
        self._data, self._at = b"", 0

    def take(self, size: int) -> bytes:
        """So many bytes."""
        if not 0 <= size <= _LONGEST:
            raise InputError(f"the BAM file is damaged: something in it is {size:,} bytes long", path=self._path)
        pieces, have = [self._data[self._at :]], len(self._data) - self._at
        while have < size:
            if not (block := next(self._blocks, b"")):
                raise InputError(
                    "the BAM file ends inside a record; it was probably cut off: copy it again", path=self._path
                )
            pieces.append(block)
            have += len(block)
        self._data, self._at = b"".join(pieces), size
        return self._data[:size]

    def number(self) -> int:
        """A number of four bytes."""
        return int(_NUMBER.unpack(self.take(_NUMBER.size))[0])

    def records(self) -> Iterator[tuple[bytes, list[int]]]:
        """Text with the places of the records that lie wholly in it."""
        while True:
            data, at, places = self._data, self._at, list[int]()
            while at + _NUMBER.size <= len(data):
                size = _NUMBER.size + int(_NUMBER.unpack_from(data, at)[0])
                self._check(data, at, size)
                if at + size > len(data):
                    break
                places.append(at)
                at += size
            yield data, places
            self._at = at
            wanted = size if at + _NUMBER.size <= len(data) else len(data) - at + 1
            if at == len(data):
                self._data, self._at = next(self._blocks, b""), 0
                if not self._data:
                    return
            else:
                self.take(wanted)
                self._at = 0

    def _check(self, data: bytes, at: int, size: int) -> None:
        """Refuse a record that cannot be as long as it says."""
        needed, possible = _FIXED.size, True
        if at + _FIXED.size <= len(data):
            _, _, _, name_size, _, _, operations, _, bases, _, _, _ = _FIXED.unpack_from(data, at)
            needed += name_size + 4 * operations + (bases + 1) // 2 + bases
            possible = bases >= 0 and name_size > 0
        if not possible or not needed <= size <= _LONGEST:
            raise InputError("the BAM file is damaged: a record is longer or shorter than it says", path=self._path)
