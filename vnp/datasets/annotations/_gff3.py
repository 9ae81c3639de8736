"""Reads the coding sequences of a GFF3 file, and translates them on the sequences of a FASTA file.

Source: the GFF3 specification 1.26 of the Sequence Ontology project; ``transl_table``, ``transl_except``, ``partial``,
``pseudo`` and ``exception`` as NCBI writes them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from vnp.datasets.annotations._translation import (
    STANDARD,
    Coding,
    Part,
    genetic_code,
    is_genetic_code,
    protein_of,
    read_exceptions,
)
from vnp.datasets.annotations.annotated import Annotated, Protein, require_same_names
from vnp.errors import InputError
from vnp.sequences.record import Record

_CDS = ("CDS", "SO:0000316")
_TRANSCRIPTS = ("mRNA", "transcript")
_STRANDS = {"+": 0, "-": 1}
_NUMBER = re.compile(r"[0-9]{1,15}")


class _Row(NamedTuple):
    """One line of a coding sequence; the strand is 0, 1, or -1 where it is not known."""

    start: int
    end: int
    strand: int
    phase: int
    line: int


@dataclass(slots=True)
class _Cds:
    """The lines of one coding sequence. Their numbers stand in one array, since a genome has millions."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    code: int = STANDARD
    exceptions: str = ""
    parents: tuple[str, ...] = ()
    pseudo: bool = False
    partial: bool = False
    in_order: bool = False

    def rows(self) -> list[_Row]:
        size = len(_Row._fields)
        return [_Row(*self.numbers[at : at + size]) for at in range(0, len(self.numbers), size)]


@dataclass(slots=True)
class _Region:
    """What the annotation says about one sequence."""

    coding: dict[tuple[str, str], _Cds] = field(default_factory=dict)
    circular: bool = False
    genome: str = ""


class Annotation:
    """The coding sequences of a GFF3 file, by sequence; all of them are held in memory, about 70 bytes a line.

    What follows ``##FASTA`` is left alone.

    Raises:
        InputError: the text is not GFF3, or a line of a CDS is wrong.
    """

    def __init__(self, blocks: Iterable[bytes], path: Path) -> None:
        self._path = path
        self._regions: dict[str, _Region] = {}
        self._transcripts: set[str] = set()
        self._used: set[str] = set()
        for number, line in annotation_lines(blocks):
            if line.startswith("##sequence-region") and len(line.split()) > 1:
                self._region(line.split()[1])
            elif not line.startswith("#") and line.strip():
                self._add(line, number)
        if not self._regions:
            raise InputError("holds no feature; is this GFF3 or GenBank?", path=path)
        for region in self._regions.values():
            region.coding = _by_transcript(region.coding, self._transcripts)

    def annotate(self, record: Record) -> Annotated:
        """Translate the coding sequences of a record; InputError where one lies beyond its end."""
        name, sequence = record.name, record.sequence
        region = self._regions.get(name, _Region())
        self._used.add(name)
        found = Annotated(name, sequence, region.genome or name, problem=record.problem)
        return found if record.problem is not None else found.with_proteins(self._proteins(region, record))

    def _proteins(self, region: _Region, record: Record) -> Iterator[Protein]:
        for cds in region.coding.values():
            coding = self._coding(cds, region, record)
            if cds.pseudo:
                yield "untranslated"
            elif coding is None:
                yield "unchecked"
            else:
                yield protein_of(record.sequence, coding) or "mismatched"

    def finish(self, fasta: Path) -> None:
        """Compare the names when the last record has been annotated."""
        theirs = self._used - self._regions.keys()
        ours = {name for name, region in self._regions.items() if region.coding} - self._used
        require_same_names(self._path, ours, fasta, theirs)

    def _region(self, name: str) -> _Region:
        return self._regions.setdefault(unquote(name), _Region())

    def _add(self, line: str, number: int) -> None:
        columns = line.split("\t")
        if len(columns) < 8:
            hint = "" if "\t" in line else "; GFF3 separates columns by tabs"
            raise InputError(f"has {len(columns)} columns where GFF3 has 9{hint}", path=self._path, line=number)
        region, kind, text = self._region(columns[0]), columns[2], columns[8] if len(columns) > 8 else ""
        if kind in _CDS:
            self._add_cds(region, columns, _attributes(text), number)
        elif kind in _TRANSCRIPTS:
            self._transcripts.update(_attributes(text).get("ID", []))
        elif kind == "region":
            _describe(region, _attributes(text))

    def _add_cds(self, region: _Region, columns: list[str], values: dict[str, list[str]], number: int) -> None:
        if len(columns) < 9 or (not values and columns[8].strip() not in ("", ".")):
            raise InputError(
                "the last column of GFF3 holds key=value pairs; is this GTF? Turn it into GFF3 first",
                path=self._path,
                line=number,
            )
        start, end, phase = (
            int(text) if _NUMBER.fullmatch(text) else -1 for text in (columns[3], columns[4], columns[7])
        )
        if columns[7] == ".":
            phase = 0
        if not 1 <= start <= end or phase not in (0, 1, 2):
            raise InputError(
                f"a CDS from {columns[3]!r} to {columns[4]!r} with phase {columns[7]!r}; GFF3 has whole numbers from 1 "
                "on, the start not after the end, and phases 0, 1 and 2",
                path=self._path,
                line=number,
            )
        keys = [("ID", name) for name in values.get("ID", [])[:1]]
        keys = keys or [("Parent", name) for name in values.get("Parent", [])] or [("line", str(number))]
        for key in keys:
            cds = region.coding.setdefault(key, _Cds())
            cds.numbers.extend((start - 1, end, _STRANDS.get(columns[6], -1), phase, number))
            _describe_cds(cds, values, columns[6])

    def _coding(self, cds: _Cds, region: _Region, record: Record) -> Coding | None:
        """Put the lines in order; None where strand or code is not known."""
        rows = cds.rows()
        size = len(record.sequence)
        for row in rows:
            if row.end > size and not (region.circular and row.end - row.start <= size and row.start < size):
                raise InputError(
                    f"a CDS ends at base {row.end:,}, and the record {record.name!r} has {size:,}; give files of the "
                    "same release",
                    path=self._path,
                    line=row.line,
                )
        strands = {row.strand for row in rows}
        if -1 in strands or not is_genetic_code(cds.code):
            return None
        if len(strands) == 1 and not cds.in_order:
            rows = _sorted(rows, size if region.circular else None)
        parts = []
        for row in rows:
            pieces = [Part(row.start, min(row.end, size), bool(row.strand))]
            if row.end > size:
                pieces.append(Part(0, row.end - size, bool(row.strand)))
            parts += pieces[::-1] if row.strand else pieces
        code = genetic_code(cds.code)
        return Coding(parts, rows[0].phase, code, read_exceptions(cds.exceptions), begins=not cds.partial)


def annotation_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Give out the lines up to a section of FASTA, with their numbers."""
    rest, number = b"", 0
    for block in chain(blocks, (b"\n",)):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            if line.startswith((b"##FASTA", b">")):
                return
            yield number, line.decode("utf-8", "backslashreplace").rstrip(" ")


@lru_cache(maxsize=4)
def _attributes(text: str) -> dict[str, list[str]]:
    """Read the last column, which is the same for all lines of a CDS; escapes are undone after it is taken apart."""
    values = {}
    for entry in text.strip().split(";"):
        key, equals, value = entry.partition("=")
        if equals:
            values[unquote(key.strip())] = [unquote(piece) for piece in value.split(",")]
    return values


def _describe(region: _Region, values: dict[str, list[str]]) -> None:
    """Take from the line of a whole sequence whether it is a circle, and which organism's it is."""
    region.circular |= "true" in values.get("Is_circular", [])
    taxon = next((entry for entry in values.get("Dbxref", []) if entry.startswith("taxon:")), "")
    words = [taxon, *(f"{key} {values[key][0]}" for key in ("strain", "isolate") if key in values)]
    region.genome = region.genome or (" ".join(words) if taxon else "")


def _describe_cds(cds: _Cds, values: dict[str, list[str]], strand: str) -> None:
    cds.parents = tuple(values.get("Parent", []))
    if "transl_table" in values:
        table = values["transl_table"][0]
        cds.code = int(table) if table.isdecimal() else -1
    # The comma within a value should be escaped, and often is not.
    cds.exceptions = ",".join(values.get("transl_except", [cds.exceptions]))
    cds.pseudo |= "true" in values.get("pseudo", []) or "pseudogene" in values
    cds.in_order |= "trans-splicing" in ",".join(values.get("exception", [])).replace("_", "-")
    open_end = {"+": "start_range", "-": "end_range"}.get(strand, "")
    said = {"start_range", "end_range"} & values.keys()
    cds.partial |= open_end in said or ("true" in values.get("partial", []) and not said)


def _by_transcript(coding: dict[tuple[str, str], _Cds], transcripts: set[str]) -> dict[tuple[str, str], _Cds]:
    """Join lines of one transcript that have an id each: so some programs write the pieces of one coding sequence."""
    joined: dict[tuple[str, str], _Cds] = {}
    for key, cds in coding.items():
        parents = [name for name in cds.parents if name in transcripts]
        if key[0] != "ID" or len(cds.numbers) > len(_Row._fields) or not parents:
            joined[key] = cds
            continue
        for name in parents:
            whole = joined.setdefault(("Parent", name), _Cds(code=cds.code))
            whole.numbers.extend(cds.numbers)
            whole.exceptions += cds.exceptions
            whole.pseudo |= cds.pseudo
            whole.partial |= cds.partial
            whole.in_order |= cds.in_order
    return joined


def _sorted(rows: list[_Row], circle: int | None) -> list[_Row]:
    """Put the pieces of one strand in the order in which they are read; ``circle`` is the length of a circle."""
    rows = sorted(rows)
    if circle is not None and rows[0].start == 0 and rows[-1].end == circle:
        # The gene goes on across the origin, and begins behind the widest gap.
        gaps = [after.start - before.end for before, after in pairwise(rows)]
        first = gaps.index(max(gaps)) + 1 if gaps else 0
        rows = rows[first:] + rows[:first]
    return rows[::-1] if rows[0].strand else rows
