"""Takes FASTA text apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, repeat
from pathlib import Path

from vnp.errors import InputError
from vnp.sequences.record import (
    UPPER,
    WHITE,
    Record,
    checked_record,
    clean_bases,
    count_lines,
    looks_like_protein,
    make_record,
    plain_names,
)

_LONGEST_HEADER = 1 << 24
_SURE = 10


def fasta_records(
    blocks: Iterator[bytes], path: Path, line: int, offset: int, *, plain: bool, whole: bool = True
) -> Iterator[Record]:
    """Read FASTA with LF line ends from its first ``>``, which is in ``line`` and at byte ``offset``.

    ``plain`` says that offsets mean something, ``whole`` that a file of protein can be told.

    Raises:
        InputError: most records of the whole file are protein.
    """
    count = proteins = 0
    for records, good in _batches(blocks, path, line, offset, plain):
        if whole and not good:
            for index, record in enumerate(records):
                if record.problem is None or not looks_like_protein(record.sequence):
                    continue
                proteins += 1
                if proteins == 1:
                    first = record
                # One protein that strayed into a file of DNA is that record's problem; many are a mistaken file.
                if proteins >= _SURE and 2 * proteins > count + index + 1:
                    raise _protein(first, path)
        count += len(records)
        yield from records
    if 2 * proteins > count:
        raise _protein(first, path)


def _protein(record: Record, path: Path) -> InputError:
    return InputError(
        "looks like protein; vnp reads nucleotides and translates them itself: give the DNA",
        path=path,
        line=record.line,
        record=record.name,
    )


def _batches(
    blocks: Iterator[bytes], path: Path, line: int, offset: int, plain: bool
) -> Iterator[tuple[list[Record], bool]]:
    """Read runs of records, and tell of each run whether all its records are good."""
    begun: _Begun | None = None
    header = b""  # a header whose end is not there yet
    fresh = True  # at the start of a line
    for block in blocks:
        text = header + block if header else block
        parts = (b"\n" + text if fresh else text).split(b"\n>") if b">" in text else [text]
        first, last = parts[0], parts[-1]
        if begun is not None:
            begun.add(first)
        if len(parts) == 1:
            line += count_lines(first)
            offset += len(first)
            fresh = text.endswith(b"\n")
            continue
        # The LF that was put in front of a fresh text is in no file.
        line += count_lines(first) + 1 - fresh
        offset += len(first) + 1 - fresh
        if begun is not None:
            yield begun.finish()
            begun = None
        if len(parts) > 2:
            middle = parts[1:-1]
            lines = list(accumulate([part.count(b"\n") + 1 for part in middle], initial=line))
            offsets = list(accumulate([len(part) + 2 for part in middle], initial=offset))
            yield _whole(middle, lines, offsets if plain else repeat(None))
            line, offset = lines[-1], offsets[-1]
        if b"\n" in last:
            header = b""
            first_line, _, body = last.partition(b"\n")
            begun = _Begun(first_line, body, line, offset if plain else None)
            line += count_lines(last)
            offset += len(last) + 1
            fresh = text.endswith(b"\n")
            continue
        header, fresh = b">" + last, True
        if len(header) > _LONGEST_HEADER:
            raise InputError(f"a header of more than {_LONGEST_HEADER:,} bytes; is this FASTA?", path=path, line=line)
    if header:
        begun = _Begun(header[1:], b"", line, offset if plain else None)
    if begun is not None:
        yield begun.finish()


def _whole(parts: list[bytes], lines: Iterable[int], offsets: Iterable[int | None]) -> tuple[list[Record], bool]:
    """Read records that lie wholly in one block, each without its ``>``."""
    pairs = [part.partition(b"\n") for part in parts]
    text, good = clean_bases(b">".join([body for _, _, body in pairs]), between=b">")
    sequences = text.split(b">")
    names = plain_names(b">" + b"\n>".join([header for header, _, _ in pairs]), ">")
    if good and names is not None and len(sequences) == len(parts) and b"" not in sequences:
        return list(map(make_record, zip(names, sequences, lines, offsets, repeat(None), strict=False))), True
    cleaned = (body.translate(UPPER, WHITE) for _, _, body in pairs)
    return [
        checked_record(header, sequence, line, offset)
        for (header, _, _), sequence, line, offset in zip(pairs, cleaned, lines, offsets, strict=False)
    ], False


class _Begun:
    """A record whose end has not been seen."""

    def __init__(self, header: bytes, body: bytes, line: int, offset: int | None) -> None:
        self._header = header
        self._line = line
        self._offset = offset
        self._pieces: list[bytes] = []
        self._good = True
        self.add(body)

    def add(self, body: bytes) -> None:
        bases, good = clean_bases(body)
        self._pieces.append(bases)
        self._good &= good

    def finish(self) -> tuple[list[Record], bool]:
        sequence = b"".join(self._pieces)
        record = checked_record(self._header, sequence, self._line, self._offset, good=self._good)
        return [record], record.problem is None
