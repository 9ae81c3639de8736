"""Cuts the text of a GenBank flat file into records, piece by piece, so that no more than one record is in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vnp.errors import InputError
from vnp.sequences.record import UPPER, WHITE, count_lines

_MARK = re.compile(rb"\n(LOCUS|ORIGIN|CONTIG|//)(?![^ \n])")
_NAME = re.compile(rb"LOCUS +(\S+)")
_DROPPED = WHITE + b"0123456789"
_AGAIN = "the file was probably cut off while it was copied or downloaded: get it again"
# GenBank's own files say on their first lines which release they belong to.
_LONGEST_PREAMBLE = 100


class FlatRecord(NamedTuple):
    """One record: its text from LOCUS to the end of its features, its bases, and the line number of LOCUS.

    Bases are upper case, T for U, N for X, and whatever else stood there; with CONTIG they stand ``elsewhere``.
    """

    head: bytes
    sequence: bytes
    elsewhere: bool
    line: int


class _Begun:
    """A record whose end has not been seen."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.section = b"LOCUS"
        self._pieces: dict[bytes, list[bytes]] = {b"LOCUS": [], b"ORIGIN": [], b"CONTIG": []}
        self._elsewhere = False

    def enter(self, section: bytes) -> None:
        self.section = section
        self._elsewhere |= section == b"CONTIG"

    def add(self, text: bytes) -> None:
        # A mistaken line within a sequence stays visible, as letters that no sequence has.
        self._pieces[self.section].append(text.translate(UPPER, _DROPPED) if self.section == b"ORIGIN" else text)

    def name(self) -> str | None:
        found = _NAME.search(b"".join(self._pieces[b"LOCUS"]))
        return found[1].decode("utf-8", "backslashreplace") if found else None

    def finish(self) -> FlatRecord:
        head, bases = b"".join(self._pieces[b"LOCUS"]), b"".join(self._pieces[b"ORIGIN"])
        return FlatRecord(head[1:] + b"\n", bases, self._elsewhere, self.line)


def flat_records(blocks: Iterable[bytes], path: Path) -> Iterator[FlatRecord]:
    """Cut a flat file, given as blocks of text with LF line ends, into records.

    Raises:
        InputError: the file ends within a record, a record begins within another, or other text lies between two.
    """
    begun: _Begun | None = None
    line, seen = 1, False
    for text in _whole_lines(blocks):
        # Each line has its LF in front of it, so "at" is where a line begins, and "line" its number.
        at = 0
        for mark in _MARK.finditer(text):
            if begun is not None:
                begun.add(text[at : mark.start()])
            else:
                _check_between(text[at : mark.start()], line, seen, path)
            line += count_lines(text[at : mark.start()])
            at = mark.start()
            if mark[1] == b"LOCUS":
                if begun is not None:
                    raise _cut_off(f"another record begins in line {line}, before the end of this one", begun, path)
                begun, seen = _Begun(line), True
            elif begun is None:
                raise InputError(f"{mark[1].decode()!r} stands outside of a record; {_AGAIN}", path=path, line=line)
            elif mark[1] == b"//":
                yield begun.finish()
                begun = None
            else:
                begun.enter(mark[1])
            if mark[1] in (b"ORIGIN", b"//"):
                # What else stands in the line, such as a position on a map, is no sequence.
                at = text.find(b"\n", at + 1) % (len(text) + 1)
                line += 1
        if begun is not None:
            begun.add(text[at:])
        else:
            _check_between(text[at:], line, seen, path)
        line += count_lines(text[at:])
    if begun is not None:
        raise _cut_off("the file ends within this record", begun, path)
    if not seen:
        raise InputError("holds no GenBank record", path=path)


def _cut_off(what: str, begun: _Begun, path: Path) -> InputError:
    return InputError(f"{what}; {_AGAIN}", path=path, line=begun.line, record=begun.name())


def _check_between(text: bytes, line: int, seen: bool, path: Path) -> None:
    """Refuse text that lies outside of records, except in front of the first."""
    if not text.strip() or (not seen and line <= _LONGEST_PREAMBLE):
        return
    number = line + count_lines(text[: len(text) - len(text.lstrip())]) - 1
    shown = text.split(maxsplit=1)[0][:60].decode("utf-8", "backslashreplace")
    raise InputError(
        f"{shown!r} stands outside of a record; a failed download may have left a message in the file: get it again",
        path=path,
        line=number,
    )


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Give out whole lines, an LF in front of each."""
    rest = b"\n"
    for block in blocks:
        text = rest + block
        end = text.rfind(b"\n")
        if end > 0:
            yield text[:end]
            text = text[end:]
        rest = text
    if len(rest) > 1:
        yield rest
