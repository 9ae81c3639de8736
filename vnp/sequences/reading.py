"""Reads FASTA, FASTQ and BAM, record by record, in memory bounded by the longest record.

What is read: FASTA and FASTQ over one or more lines, and BAM; plain, gzip, bzip2, xz and zstd, told by content; LF,
CRLF and CR line ends; blank lines and white space inside sequences; comment lines (``#`` or ``;``) before the first
record; a byte-order mark; a Ctrl-Z at the end. Bases are upper-cased, U becomes T, and X, which masking programs write,
becomes N. Qualities are counted against the bases and otherwise ignored.

A record that cannot be used does not end the reading: it comes in its place with its ``problem``. What makes the
rest of a file unsure (a FASTQ out of step, a truncated file, protein instead of DNA) is an ``InputError``.

FASTQ is taken apart here: four lines a record at once, everything else line by line. dnaio's parser in place of
``_four_lines`` took 1.1 times as long on 400,000 reads of 150 bases (plain, one core), for with it, too, bases are
checked, names cleaned and places counted; and it reads neither records over several lines nor from a byte on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import NoReturn

import numpy as np

from vnp.errors import InputError, MachineError
from vnp.files.hashing import file_sha256
from vnp.files.machine import available_memory
from vnp.sequences.bam import MAGIC as BAM
from vnp.sequences.bam import bam_records, require_end
from vnp.sequences.opening import Watch, find_start, one_line_end, stream
from vnp.sequences.record import (
    UPPER,
    WHITE,
    Record,
    checked_record,
    clean_bases,
    clean_name,
    count_lines,
    looks_like_protein,
    make_record,
    plain_names,
    torn_at,
    torn_problem,
)
from vnp.sequences.samplesheet import check_readable

__all__ = ["Record", "fasta_records", "input_digest", "read_records"]
_AT, _PLUS = b"@+"
_LONGEST_HEADER = 1 << 24
_LOOK_EVERY = 1 << 28  # letters of one record between looks at how much memory is free
_SURE = 10
_SHOWN_BYTES = 200


def read_records(path: str | Path, *, watch: Watch | None = None, offset: int = 0, line: int = 1) -> Iterator[Record]:
    """Read all records of a FASTA, FASTQ or BAM file in order, also those with a problem.

    ``watch`` sees the blocks of the file as they are on disk, each before it is used; it has seen all of them once the
    last record has been taken. A file that is not compressed can be read from a byte on where a record begins
    (``Record.offset``), in the line of that (``Record.line``).

    Raises:
        InputError: the file is missing, damaged, or not nucleotides in FASTA, FASTQ or BAM.
        UsageError: an offset was given for a compressed file.
    """
    path = Path(path)
    plain, blocks = stream(path, watch, offset)
    first = next(blocks, b"")
    blocks = chain((first,), blocks) if first else blocks
    if not offset and first.startswith(BAM):
        require_end(path)
        return bam_records(blocks, path)
    start = find_start(one_line_end(blocks), path, whole=not offset)
    place = (start.blocks, path, line + start.lines, offset + start.size)
    if start.kind == b">":
        return fasta_records(*place, plain=plain, whole=not offset)
    return _fastq_records(*place, plain=plain)


def input_digest(path: str | Path) -> str:
    """Compute the SHA-256 of a file, as hexadecimal digits; ``InputError`` where it cannot be read."""
    path = Path(path)
    check_readable(path)
    return file_sha256(path)


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
        columns = (names[0], sequences, lines, offsets, repeat(None), names[1])
        return list(map(make_record, zip(*columns, strict=False))), True
    return [
        _checked(header, body, line, offset)
        for (header, _, body), line, offset in zip(pairs, lines, offsets, strict=False)
    ], False


def _checked(header: bytes, body: bytes, line: int, offset: int | None) -> Record:
    """A record of a block of which one is not good."""
    record = checked_record(header, body.translate(UPPER, WHITE), line, offset)
    at = torn_at(body)
    if at is None:
        return record
    return record._replace(problem=torn_problem(body[at:], len(body[:at].translate(None, WHITE))))


class _Begun:
    """A record whose end has not been seen."""

    def __init__(self, header: bytes, body: bytes, line: int, offset: int | None) -> None:
        self._header = header
        self._line = line
        self._offset = offset
        self._pieces: list[bytes] = []
        self._good = True
        self._torn = b""  # what follows a byte that is none of the record
        self._torn_base = 0
        self._size = 0
        self.add(body)

    def add(self, body: bytes) -> None:
        if self._torn:
            # No more is kept: it may be gigabytes of zeros.
            self._torn += body[: max(0, _SHOWN_BYTES - len(self._torn))]
            return
        bases, good = clean_bases(body)
        self._pieces.append(bases)
        self._size += len(bases)
        if self._size // _LOOK_EVERY > (self._size - len(bases)) // _LOOK_EVERY:
            _require_memory(self._size, self._line)
        self._good &= good
        if not good and (at := torn_at(body)) is not None:
            self._torn = body[at : at + _SHOWN_BYTES]
            self._torn_base = sum(map(len, self._pieces)) - len(bases) + len(body[:at].translate(None, WHITE))

    def finish(self) -> tuple[list[Record], bool]:
        sequence = b"".join(self._pieces)
        record = checked_record(self._header, sequence, self._line, self._offset, good=self._good)
        if self._torn:
            record = record._replace(problem=torn_problem(self._torn, self._torn_base))
        return [record], record.problem is None


def _fastq_records(blocks: Iterator[bytes], path: Path, line: int, offset: int, *, plain: bool) -> Iterator[Record]:
    """Read FASTQ from its first ``@``, which is in ``line`` and at byte ``offset``."""
    waiting: list[bytes] = []
    held = 0
    seen = 0
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held // _LOOK_EVERY > (held - len(block)) // _LOOK_EVERY:
            _require_memory(held, line)
        # Until a record has ended, only count: joining at every block would be slow for very long reads.
        seen += count_lines(block)
        if seen < 4:
            continue
        text = b"".join(waiting)
        quick = _four_lines(text, line, offset, plain)
        if quick is None:
            yield from _LineByLine(chain((text,), blocks), path, line, offset, plain).records()
            return
        records, size = quick
        yield from records
        line += seen // 4 * 4
        seen %= 4
        offset += size
        waiting = [text[size:]]
        held = len(text) - size
    yield from _LineByLine(iter(waiting), path, line, offset, plain).records()


def _four_lines(text: bytes, line: int, offset: int, plain: bool) -> tuple[Iterator[Record], int] | None:
    """Read records of four lines each, and say how many bytes they took; None where one is not of that kind."""
    letters = np.frombuffer(text, dtype=np.uint8)
    every_end = np.flatnonzero(letters == 10)
    count = len(every_end) // 4
    ends = every_end[: 4 * count].reshape(count, 4)
    starts = np.empty_like(ends)
    starts.flat[0] = 0
    starts.flat[1:] = ends.flat[:-1] + 1
    lengths = ends - starts
    if (
        (letters[starts[:, 0]] != _AT).any()
        or (letters[starts[:, 2]] != _PLUS).any()
        or (lengths[:, 1] != lengths[:, 3]).any()
    ):
        return None
    size = int(ends[-1, 3]) + 1
    lines = text[: size - 1].split(b"\n")
    headers = lines[0::4]
    if (lengths[:, 2] > 1).any() and not all(map(_repeats, lines[2::4], headers)):
        return None
    offsets: Iterable[int | None] = (starts[:, 0] + offset).tolist() if plain else repeat(None)
    numbers = range(line, line + 4 * count, 4)
    bases, good = clean_bases(b"\n".join(lines[1::4]), between=b"\n")
    sequences = bases.split(b"\n")
    names = plain_names(b"\n".join(headers), "@")
    if good and names is not None and b"" not in sequences:
        return map(make_record, zip(names[0], sequences, numbers, offsets, repeat(None), names[1], strict=False)), size
    return map(checked_record, [header[1:] for header in headers], sequences, numbers, offsets), size


def _repeats(plus: bytes, header: bytes) -> bool:
    """Tell whether a plus line is one: alone, or with the header once more."""
    return plus.startswith(b"+") and (len(plus) == 1 or plus[1:].isspace() or plus[1:] == header[1:])


class _LineByLine:
    """Reads records whose bases may go over several lines, and says what is wrong with a file.

    Qualities may contain ``@`` and ``+``, so their end is known only by counting them against the bases.
    """

    def __init__(self, blocks: Iterator[bytes], path: Path, line: int, offset: int, plain: bool) -> None:
        self._lines = _split(blocks)
        self._path, self._plain = path, plain
        self._line, self._offset = line, offset  # of the next line
        self._header, self._header_line = b"", line

    def records(self) -> Iterator[Record]:
        while True:
            self._header_line, offset = self._line, self._offset
            header = next(self._lines, None)
            if header is None:
                return
            self._passed(header)
            if not header.strip():
                continue
            self._header = header
            if not header.startswith(b"@"):
                self._fail(f"a record should start here with '@', but the line is {_shown(header)}", self._header_line)
            bases = self._bases()
            self._count_qualities(bases)
            sequence = b"".join(bases).translate(UPPER, WHITE)
            yield checked_record(header[1:], sequence, self._header_line, offset if self._plain else None)

    def _bases(self) -> list[bytes]:
        bases: list[bytes] = []
        while not (text := self._next()).startswith(b"+"):
            if text.startswith((b"@", b">")):
                self._fail(f"a '+' line should follow the bases, but the line is {_shown(text)}", self._line - 1)
            bases.append(text)
        if not _repeats(text, self._header.rstrip()):
            self._fail(f"the '+' line repeats another name: {_shown(text)}", self._line - 1)
        return bases

    def _count_qualities(self, bases: list[bytes]) -> None:
        wanted, first_line = sum(map(len, bases)), self._line
        found: list[int] = []
        while sum(found) < wanted:
            found.append(len(self._next()))
        if sum(found) != wanted:
            # Too many: where the bases are on one line, a short line of qualities has swallowed the next record.
            count = found[0] if len(bases) == 1 else sum(found)
            self._fail(f"{wanted} bases but {count} qualities; the file is damaged here", first_line)

    def _next(self) -> bytes:
        text = next(self._lines, None)
        if text is None:
            self._fail("the file ends inside this record; it was probably cut off: copy it again", self._header_line)
        self._passed(text)
        return text.rstrip()

    def _passed(self, text: bytes) -> None:
        self._line += 1
        self._offset += len(text) + 1

    def _fail(self, message: str, line: int) -> NoReturn:
        name, _ = clean_name(self._header[1:].decode("utf-8", "backslashreplace"), self._header_line)
        record = name if self._header.startswith(b"@") else None
        raise InputError(message, path=self._path, line=line, record=record)


def _require_memory(size: int, line: int) -> None:
    """Refuse a record that cannot be joined and read, before the system ends this process or another one for it.

    A few megabytes of xz or bzip2 can hold terabytes of one letter.
    """
    available = available_memory()
    if available is not None and available < 2 * size:
        raise MachineError(
            f"not enough memory: the record of line {line:,} has more than {size:,} letters, and "
            f"{available / 1e9:,.1f} GB are free. Is it a sequence? If it is, go on where there is more memory"
        )


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Split text into lines without their ends; nothing follows the last LF."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _shown(text: bytes) -> str:
    if text.startswith(b"\0"):
        return "zero bytes: a hole, as a crash or a broken copy leaves one; copy the file again"
    return repr(text[:40].decode("utf-8", "backslashreplace"))
