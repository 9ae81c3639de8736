"""Takes FASTA text apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vnp.errors import InputError
from vnp.sequences._record import NUCLEOTIDES, UPPER, WHITE, Record, clean_name, looks_like_protein, sequence_problem

_LONGEST_HEADER = 1 << 24
_SURE = 10


def fasta_records(
    blocks: Iterator[bytes], path: Path, line: int, offset: int, *, plain: bool
) -> Iterator[Record]:
    """Read the records of a FASTA file.

    Args:
        blocks: its text with LF line ends, from the first ``>`` on.
        path: named in errors.
        line: line number of that ``>``.
        offset: its byte in the file.
        plain: whether the file is not compressed, so that offsets mean something.

    Raises:
        InputError: most records are protein.
    """
    count = proteins = 0
    for record in _records(blocks, path, line, offset, plain):
        count += 1
        if record.problem is not None and looks_like_protein(record.sequence):
            proteins += 1
            if proteins == 1:
                first = record
            # One protein that strayed into a file of DNA is that record's problem; many are a mistaken file.
            if proteins >= _SURE and 2 * proteins > count:
                raise _protein(first, path)
        yield record
    if 2 * proteins > count:
        raise _protein(first, path)


def _protein(record: Record, path: Path) -> InputError:
    return InputError(
        "looks like protein; vnp reads nucleotides and translates them itself: give the DNA",
        path=path,
        line=record.line,
        record=record.name,
    )


def _records(blocks: Iterator[bytes], path: Path, line: int, offset: int, plain: bool) -> Iterator[Record]:
    begun: _Begun | None = None
    header = b""  # a header whose end is not there yet
    fresh = True  # at the start of a line
    for block in blocks:
        text = header + block if header else block
        parts = (b"\n" + text if fresh else text).split(b"\n>")
        if begun is not None:
            begun.add(parts[0])
        line -= fresh
        offset -= fresh
        for index in range(1, len(parts)):
            before = parts[index - 1]
            line += before.count(b"\n") + 1
            offset += len(before) + (1 if index == 1 else 2)
            if begun is not None:
                yield begun.record()
                begun = None
            if index < len(parts) - 1:
                first, _, body = parts[index].partition(b"\n")
                yield _record(first, body.translate(UPPER, WHITE), line, offset if plain else None)
        last = parts[-1]
        header = b""
        fresh = text.endswith(b"\n")
        if len(parts) == 1:
            line += last.count(b"\n")
            offset += len(last)
            continue
        if b"\n" in last:
            begun = _Begun(*last.split(b"\n", 1), line, offset if plain else None)
            line += last.count(b"\n")
            offset += len(last) + 1
            continue
        header, fresh = b">" + last, True
        if len(header) > _LONGEST_HEADER:
            raise InputError(f"a header of more than {_LONGEST_HEADER:,} bytes; is this FASTA?", path=path, line=line)
    if header:
        begun = _Begun(header[1:], b"", line, offset if plain else None)
    if begun is not None:
        yield begun.record()


class _Begun:
    """A record whose end has not been seen."""

    def __init__(self, header: bytes, body: bytes, line: int, offset: int | None) -> None:
        self._header = header
        self._line = line
        self._offset = offset
        self._pieces: list[bytes] = []
        self.add(body)

    def add(self, body: bytes) -> None:
        self._pieces.append(body.translate(UPPER, WHITE))

    def record(self) -> Record:
        return _record(self._header, b"".join(self._pieces), self._line, self._offset)


def _record(header: bytes, sequence: bytes, line: int, offset: int | None) -> Record:
    name, problem = clean_name(header.decode("utf-8", "backslashreplace"), line)
    # Deleting every nucleotide leaves nothing of a good sequence, and is far faster than looking for a bad letter.
    if problem is None and (not sequence or sequence.translate(None, NUCLEOTIDES)):
        problem = sequence_problem(sequence)
    return Record(name, sequence, line, offset, problem)
