"""Reads GenBank flat files: the sequence of each record and the proteins that its coding sequences give it.

The text is cut into records piece by piece, so that no more than one is in memory. The feature table is taken apart by
gb-io (a Rust library, for speed). Only the features that say something here, CDS and source, are handed to it, so that
a strange one elsewhere in a chromosome does no harm.

A file may also be read for its annotation alone, for the sequences of a FASTA file: in RefSeq's releases, the records
of large genomes say with CONTIG which others they are made of, and have no bases; a FASTA file of the release has.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from vnp.datasets.annotations._translation import (
    STANDARD,
    Coding,
    Part,
    agrees,
    genetic_code,
    is_genetic_code,
    read_exceptions,
)
from vnp.datasets.annotations.annotated import Annotated, Protein, fasta_of, require_same_names
from vnp.errors import InputError
from vnp.files.extras import require_extra
from vnp.sequences.record import UPPER, WHITE, Record, clean_name, count_lines, sequence_problem

_LOCUS = re.compile(r"LOCUS\s+(\S.*?)\s+(\d{1,18})\s+(bp|aa|rc)\b(.*)")
_FEATURE = re.compile(rb"\n(?=     [^ \n])")
_CDS = b"     CDS "
_SOURCE = b"     source "
QUALIFIERS = re.compile(rb"\n\s+/")
# Ends that are not one base, and pieces of other records; gb-io reads some of them as if they were sure.
_UNSURE = re.compile(rb"one-of|bond|gap|[\d)]\.[\d(]|\^|:")
_HEAD = b"LOCUS       x\nFEATURES             Location/Qualifiers\n"
_LEVEL = 3
_FULL = "download it with its sequence, as 'GenBank (full)' or with rettype=gbwithparts"
_MARK = re.compile(rb"\n(LOCUS|ORIGIN|CONTIG|//)(?![^ \n])")
_SUBMITTED = re.compile(r"Submitted \((\d\d?-[A-Za-z]{3}-\d{4})\)")
_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()  # noqa: SIM905
_CODE = re.compile(r"\d{1,9}", re.ASCII)
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

    def features(self) -> tuple[bytes, list[bytes]]:
        """What stands above the table of features, and the text of each of these."""
        text, _, table = self.head.partition(b"\nFEATURES")
        # What stands below the features begins in the first column.
        return text, _FEATURE.split(re.split(rb"\n(?=[^ \n])", table, maxsplit=1)[0])[1:]


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


class _Entry(NamedTuple):
    """One record of a GenBank file, but for its sequence; ``coding`` is the text of its CDS features.

    The name is the accession with version where there is one, else what the LOCUS line calls it; the genome is the
    organism, with strain and isolate, or else the name; ``length`` is what LOCUS says, ``bases`` how many there are.
    The date is that of the first submission, else that of the LOCUS line.
    """

    name: str
    length: int | None
    circular: bool
    genome: str
    lineage: tuple[str, ...]
    coding: bytes
    line: int
    bases: int = 0
    date: str = ""


def read_genbank(blocks: Iterable[bytes], path: Path) -> Iterator[tuple[int, Annotated]]:
    """Read the records of a GenBank file, blocks of text with LF line ends, each with its line number.

    Raises:
        InputError: the file is damaged, holds proteins, or none of its records has a sequence.
        UsageError: gb-io is not installed.
    """
    elsewhere = _elsewhere(path)
    records = with_sequence = 0
    for flat in flat_records(blocks, path):
        records += 1
        with_sequence += bool(flat.sequence)
        entry = _read_entry(flat, path)
        yield flat.line, _annotate(entry, flat.sequence, _problem(flat, entry, elsewhere))
    if not with_sequence:
        what = "the record has no" if records == 1 else f"none of the {records:,} records has a"
        raise InputError(f"{what} sequence; {elsewhere}", path=path)


class GenBankAnnotation:
    """The records of a GenBank file but for their sequences, by name.

    All of them are held in memory, each until its sequence comes: some hundred bytes, and the text of its coding
    sequences, packed, about one byte for each residue of their proteins.

    Raises:
        InputError: the file is damaged, holds proteins, or has a name twice.
    """

    def __init__(self, blocks: Iterable[bytes], path: Path) -> None:
        self._path = path
        self._held: dict[str, _Entry] = {}
        self._unknown: set[str] = set()
        packer = zstandard.ZstdCompressor(level=_LEVEL)
        # A draft genome has a million records of one organism.
        genomes: dict[str, str] = {}
        lineages: dict[tuple[str, ...], tuple[str, ...]] = {}
        for flat in flat_records(blocks, path):
            entry = _read_entry(flat, path)
            if entry.name in self._held:
                raise InputError(
                    f"the record of line {self._held[entry.name].line} has this name too; remove or rename one",
                    path=path,
                    line=flat.line,
                    record=entry.name,
                )
            entry = entry._replace(
                genome=genomes.setdefault(entry.genome, entry.genome),
                lineage=lineages.setdefault(entry.lineage, entry.lineage),
                coding=packer.compress(entry.coding) if entry.coding else b"",
            )
            self._held[entry.name] = entry

    def annotate(self, record: Record) -> Annotated:
        """Check the proteins of a record against the bases that the FASTA file has of it, and let go of them."""
        entry = self._held.pop(record.name, None)
        if entry is None:
            self._unknown.add(record.name)
            return Annotated(record.name, record.sequence, record.name, problem=record.problem)
        if entry.coding:
            entry = entry._replace(coding=zstandard.ZstdDecompressor().decompress(entry.coding))
        return _annotate(entry, record.sequence, self._problem(record, entry))

    def finish(self, fasta: Path) -> None:
        """Compare the names when the last record has been annotated."""
        require_same_names(self._path, set(self._held), fasta, self._unknown)

    def _problem(self, record: Record, entry: _Entry) -> str | None:
        if record.problem is not None:
            return record.problem
        length = entry.bases or entry.length
        if length is None or length == len(record.sequence):
            return None
        return (
            f"has {len(record.sequence):,} bases, and in {self._path.name} {length:,}: give files of the same release"
        )


def _read_entry(flat: FlatRecord, path: Path) -> _Entry:
    text, features = flat.features()
    entry = _head(text, path, flat.line)
    source = next((_alone(_tidy(feature)) for feature in features if feature.startswith(_SOURCE)), None)
    coding = b"".join(b"\n" + feature for feature in features if feature.startswith(_CDS))
    return entry._replace(genome=_genome(entry, _values(source)), coding=coding, bases=len(flat.sequence))


def _annotate(entry: _Entry, sequence: bytes, problem: str | None) -> Annotated:
    """Check the proteins of a record against its sequence; ``problem`` says why it cannot be used, if so."""
    record = Annotated(entry.name, sequence, entry.genome, problem=problem, lineage=entry.lineage, date=entry.date)
    return record if problem is not None else record.with_proteins(_proteins(entry, sequence))


def _proteins(entry: _Entry, sequence: bytes) -> Iterator[Protein]:
    for text, feature in _features(entry.coding):
        values = _values(feature)
        translation = "".join(values.get("translation", [""])[0].split()).upper().rstrip("*").encode("ascii", "replace")
        if not translation:
            yield "untranslated"
        elif (coding := _coding(text, feature, values, len(sequence), entry.circular)) is None:
            yield "unchecked"
        else:
            yield translation if agrees(translation, sequence, coding) else "mismatched"


def _problem(flat: FlatRecord, entry: _Entry, elsewhere: str) -> str | None:
    if not flat.sequence:
        has = "the parts it is made of (CONTIG)" if flat.elsewhere else "annotation"
        return f"has no sequence, only {has}; {elsewhere}"
    problem = sequence_problem(flat.sequence)
    if problem is None and entry.length is not None and entry.length != len(flat.sequence):
        problem = f"has {len(flat.sequence):,} bases where its LOCUS line says {entry.length:,}; get the record again"
    return problem


def _elsewhere(path: Path) -> str:
    """Say where the sequences of a file may be that has none."""
    fasta = fasta_of(path)
    if fasta is None:
        return f"{_FULL}, or give its FASTA file as path and {path.name} in the sheet's column annotation"
    return (
        f"the bases are likely in {fasta.name} beside the file: in the sheet, give {fasta.name} as path and "
        f"{path.name} in the column annotation"
    )


def _head(text: bytes, path: Path, line: int) -> _Entry:
    """Read LOCUS, ACCESSION, VERSION and ORGANISM; the organism stands as the genome."""
    lines = text.decode("utf-8", "backslashreplace").split("\n")
    fields: dict[str, list[str]] = {}
    key = ""
    for entry in lines[1:]:
        if entry[:12].strip():
            key = entry[:12].strip()
        fields.setdefault(key, []).append(entry[12:].strip())
    locus = _LOCUS.match(lines[0])
    words = (lines[0][12:].split() or [""])[:1]
    name = locus[1] if locus else words[0]
    for field in ("ACCESSION", "VERSION"):
        first = (fields.get(field, [""])[0].split() or [""])[0]
        name = first if first.strip(".") else name
    name, problem = clean_name(name, line)
    if problem is not None:
        raise InputError("the record has no name: no LOCUS name, ACCESSION or VERSION", path=path, line=line)
    if locus and locus[3] == "aa":
        raise InputError(
            "is a GenBank file of proteins; vnp needs nucleotides with their annotation: give the genome's GenBank",
            path=path,
            line=line,
            record=name,
        )
    organism, lineage = _organism(fields.get("ORGANISM", [""]))
    circular = bool(locus) and "circular" in locus[4].split() if locus else "circular" in lines[0].split()
    submitted = filter(None, map(_iso_date, _SUBMITTED.findall("\n".join(lines))))
    known = min(submitted, default=_iso_date((lines[0].split() or [""])[-1]))
    return _Entry(name, int(locus[2]) if locus else None, circular, organism, lineage, b"", line, date=known)


def _iso_date(text: str) -> str:
    """``12-JAN-2004`` as 2004-01-12; empty where it is no date."""
    try:
        day, month, year = text.upper().split("-")
        return date(int(year), _MONTHS.index(month) + 1, int(day)).isoformat()
    except (ValueError, OverflowError):
        return ""


def _organism(lines: list[str]) -> tuple[str, tuple[str, ...]]:
    """Take the organism's name, which may be two lines long, from its lineage."""
    first = next((i for i, line in enumerate(lines) if i and (";" in line or line.endswith("."))), len(lines))
    groups = " ".join(lines[first:]).rstrip(".").split(";")
    return " ".join(lines[:first]).strip(), tuple(name.strip() for name in groups if name.strip())


def _features(coding: bytes) -> list[tuple[bytes, Any]]:
    """Take features apart; each with its text, and None for one that cannot be read."""
    texts = [_tidy(text) for text in _FEATURE.split(coding)[1:]]
    found = _parsed(b"".join(texts))
    return list(zip(texts, found if len(found) == len(texts) else map(_alone, texts), strict=True))


def _alone(text: bytes) -> Any:
    found = _parsed(text)
    return found[0] if len(found) == 1 else None


def _parsed(texts: bytes) -> Any:
    """Features as gb-io reads them; none where it stumbles over one."""
    require_extra("dataset", "reading GenBank", needs=("gb_io",))
    import gb_io

    try:
        return next(gb_io.iter(io.BytesIO(_HEAD + texts + b"//\n"))).features
    except (RuntimeError, ValueError, StopIteration):
        return ()


def _tidy(text: bytes) -> bytes:
    """Take out what gb-io stumbles over: white space at the end of lines, empty lines, bytes that are not UTF-8.

    The marks of partial ends go too, since it takes them in their usual places only, and nothing here asks for them.
    """
    text = text.rstrip()
    if not text.isascii():
        text = text.decode("utf-8", "replace").encode("ascii", "replace")
    if b" \n" in text or b"\n\n" in text or b"\t" in text:
        text = b"\n".join(line.rstrip() for line in text.expandtabs().split(b"\n") if line.strip())
    location = QUALIFIERS.split(text, maxsplit=1)[0]
    return location.translate(None, b"<>") + text[len(location) :] + b"\n"


def _values(feature: Any) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for qualifier in feature.qualifiers if feature is not None else ():
        values.setdefault(qualifier.key, []).append(qualifier.value or "")
    return values


def _genome(entry: _Entry, source: dict[str, list[str]]) -> str:
    organism = source.get("organism", [entry.genome])[0]
    words = [organism, *(f"{key} {source[key][0]}" for key in ("strain", "isolate") if source.get(key, [""])[0])]
    return " ".join(" ".join(words).split()) if organism else entry.name


def _coding(text: bytes, feature: Any, values: dict[str, list[str]], length: int, circular: bool) -> Coding | None:
    """Say where a CDS lies and how it is read; None where its location cannot be followed in this record."""
    location = QUALIFIERS.split(text, maxsplit=1)[0][len(_CDS) :]
    number = values.get("transl_table", [str(STANDARD)])[0].strip()
    if feature is None or _UNSURE.search(location) or not _CODE.fullmatch(number) or not is_genetic_code(int(number)):
        return None
    parts = _parts(feature.location, length, circular)
    if parts is None:
        return None
    skip = {"2": 1, "3": 2}.get(values.get("codon_start", ["1"])[0].strip(), 0)
    exceptions = read_exceptions(" ".join(values.get("transl_except", [])))
    return Coding(parts, skip, genetic_code(int(number)), exceptions)


def _parts(location: Any, length: int, circular: bool) -> list[Part] | None:
    """List the stretches of a location in the order in which they are read."""
    kind = type(location).__name__
    if kind == "Range":
        if location.start < location.end:
            return [Part(location.start, location.end, False)]
        # Some programs write a gene across the origin of a circle as if it ended before it began.
        return [Part(location.start, length, False), Part(0, location.end, False)] if circular else None
    if kind == "Complement":
        inner = _parts(location.location, length, circular)
        return None if inner is None else [Part(start, end, not reverse) for start, end, reverse in inner[::-1]]
    if kind in ("Join", "Order"):
        pieces = [_parts(piece, length, circular) for piece in location.locations]
        return None if None in pieces else [part for piece in pieces if piece is not None for part in piece]
    return None
