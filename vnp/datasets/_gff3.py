"""Reads the coding sequences of a GFF3 file, and translates them on the sequences of a FASTA file.

Source: the GFF3 specification 1.26 of the Sequence Ontology project.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

from vnp.datasets._codes import STANDARD, genetic_code, is_genetic_code
from vnp.datasets._translation import Coding, Part, exception, protein_of
from vnp.datasets.annotated import Annotated
from vnp.errors import InputError
from vnp.sequences._record import Record

_COLUMNS = 9
_TRANSCRIPTS = ("mRNA", "transcript")
_STRANDS = {"+": 0, "-": 1}


@dataclass(slots=True)
class _Cds:
    """The lines of one coding sequence: for each five numbers, start, end, strand, phase, line."""

    lines: array[int] = field(default_factory=lambda: array("q"))
    code: int = STANDARD
    exceptions: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    pseudo: bool = False
    partial: bool = False
    in_order: bool = False


@dataclass(slots=True)
class _Region:
    """What the annotation says about one sequence."""

    coding: dict[tuple[str, str], _Cds] = field(default_factory=dict)
    circular: bool = False
    genome: str = ""


class Annotation:
    """The coding sequences of a GFF3 file, by sequence; all of them are held in memory, some 100 bytes a line.

    Args:
        blocks: its text with LF line ends; what follows ``##FASTA`` is left alone.
        path: named in errors.

    Raises:
        InputError: the text is not GFF3, or a line of a CDS is wrong.
    """

    def __init__(self, blocks: Iterable[bytes], path: Path) -> None:
        self._path = path
        self._regions: dict[str, _Region] = {}
        self._transcripts: set[str] = set()
        self._used: set[str] = set()
        any_line = False
        for number, line in _lines(blocks):
            if line.startswith("##sequence-region"):
                words = line.split()
                if len(words) > 1:
                    self._region(words[1])
            if line.startswith(("#", ">")) or not line.strip():
                continue
            any_line = True
            self._add(line, number)
        if not any_line and not self._regions:
            raise InputError("holds no GFF3 line", path=path)
        for region in self._regions.values():
            region.coding = _by_transcript(region.coding, self._transcripts)

    def annotate(self, record: Record) -> Annotated:
        """Translate the coding sequences of a record.

        Raises:
            InputError: one lies beyond the record's end.
        """
        name, sequence = record.name, record.sequence
        region = self._regions.get(name)
        self._used.add(name)
        if record.problem is not None or region is None:
            genome = region.genome if region and region.genome else name
            return Annotated(name, sequence, genome, problem=record.problem)
        proteins: dict[bytes, None] = {}
        mismatched = untranslated = unchecked = 0
        for cds in region.coding.values():
            if cds.pseudo:
                untranslated += 1
                continue
            coding = self._coding(cds, region, record)
            if coding is None:
                unchecked += 1
                continue
            protein = protein_of(sequence, coding)
            if protein is None:
                mismatched += 1
            else:
                proteins[protein] = None
        return Annotated(
            name, sequence, region.genome or name, tuple(proteins), mismatched, untranslated, unchecked=unchecked
        )

    def finish(self, fasta: Path) -> None:
        """Compare the names when the last record has been annotated.

        Raises:
            InputError: there are names on both sides that the other does not have.
        """
        theirs = self._used - self._regions.keys()
        ours = {name for name, region in self._regions.items() if region.coding} - self._used
        if ours and theirs:
            raise InputError(
                f"its names and those of {fasta.name} disagree: {_examples(ours)} only here, {_examples(theirs)} only "
                "in the FASTA; give files of the same release, or rename one side",
                path=self._path,
            )

    def _region(self, name: str) -> _Region:
        return self._regions.setdefault(unquote(name), _Region())

    def _add(self, line: str, number: int) -> None:
        columns = line.split("\t")
        if len(columns) != _COLUMNS:
            hint = "; its columns are separated by tabs" if "\t" not in line else ""
            raise InputError(f"has {len(columns)} columns where GFF3 has 9{hint}", path=self._path, line=number)
        kind, text = columns[2], columns[8]
        if kind == "CDS" or kind == "SO:0000316":
            self._add_cds(columns, number)
        elif kind in _TRANSCRIPTS:
            self._transcripts.update(_attributes(text).get("ID", []))
            self._region(columns[0])
        else:
            region = self._region(columns[0])
            if kind == "region" and ("Is_circular" in text or "taxon:" in text):
                _describe(region, _attributes(text))

    def _add_cds(self, columns: list[str], number: int) -> None:
        values = _attributes(columns[8])
        if columns[8].strip() not in ("", ".") and not values:
            hint = "is this GTF? vnp reads GFF3: " if ' "' in columns[8] else ""
            raise InputError(f"{hint}attributes are written key=value", path=self._path, line=number)
        try:
            start, end = int(columns[3]), int(columns[4])
            phase = 0 if columns[7] == "." else int(columns[7])
        except ValueError:
            start, end, phase = 0, 0, 0
        if not 1 <= start <= end or phase not in (0, 1, 2):
            raise InputError(
                f"a CDS from {columns[3]!r} to {columns[4]!r} with phase {columns[7]!r}; GFF3 has whole numbers from 1 "
                "on, the start not after the end, and phases 0, 1 and 2",
                path=self._path,
                line=number,
            )
        coding = self._region(columns[0]).coding
        keys = [("ID", name) for name in values.get("ID", [])[:1]]
        keys = keys or [("Parent", name) for name in values.get("Parent", [])] or [("line", str(number))]
        for key in keys:
            cds = coding.setdefault(key, _Cds())
            cds.lines.extend((start - 1, end, _STRANDS.get(columns[6], -1), phase, number))
            cds.parents = tuple(values.get("Parent", []))
            table = values.get("transl_table", [str(cds.code)])[0]
            cds.code = int(table) if table.isdecimal() else 0
            # Values with a comma are written with %2C, but not by everybody, and then they come in pieces.
            cds.exceptions = cds.exceptions or tuple(",".join(values.get("transl_except", [])).split("),"))
            cds.pseudo |= "true" in values.get("pseudo", []) or "pseudogene" in values
            cds.partial |= "true" in values.get("partial", [])
            cds.in_order |= "trans-splicing" in " ".join(values.get("exception", [])).replace("_", "-")

    def _coding(self, cds: _Cds, region: _Region, record: Record) -> Coding | None:
        """Put the lines of a CDS in order; None where its strand or code is not known."""
        size = len(record.sequence)
        rows = [tuple(cds.lines[at : at + 5]) for at in range(0, len(cds.lines), 5)]
        strands = {row[2] for row in rows}
        if -1 in strands or not is_genetic_code(cds.code):
            return None
        if strands == {0} and not cds.in_order:
            rows.sort()
        elif strands == {1} and not cds.in_order:
            rows.sort(reverse=True)
        parts = []
        for start, end, strand, _, line in rows:
            if end > size and (not region.circular or end - start > size or start > size):
                raise InputError(
                    f"a CDS ends at base {end:,}, and the record {record.name!r} has {size:,}; give files of the same "
                    "release",
                    path=self._path,
                    line=line,
                )
            pieces = [Part(start, min(end, size), bool(strand))] if start < size else []
            if end > size:
                pieces.append(Part(max(start - size, 0), end - size, bool(strand)))
            parts += pieces[::-1] if strand else pieces
        exceptions: dict[int, str] = {}
        for text in filter(None, cds.exceptions):
            read = exception(text.strip("()"))
            exceptions |= dict.fromkeys(read[0], read[1]) if read else {}
        return Coding(parts, rows[0][3], genetic_code(cds.code), exceptions, begins=not cds.partial)


def _lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Give out the lines up to ``##FASTA``, or a header of FASTA, with their numbers."""
    rest, number = b"", 0
    for block in chain(blocks, (b"\n",)):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            if line.startswith((b"##FASTA", b">")):
                return
            yield number, line.decode("utf-8", "backslashreplace")


def _attributes(text: str) -> dict[str, list[str]]:
    """Read column 9; escapes are undone after the text is taken apart."""
    values = {}
    for entry in text.strip().split(";"):
        key, equals, value = entry.partition("=")
        if equals:
            values[unquote(key.strip())] = [unquote(piece) for piece in value.split(",")]
    return values


def _describe(region: _Region, values: dict[str, list[str]]) -> None:
    """Take from a region's line whether it is a circle, and which organism's it is."""
    region.circular |= "true" in values.get("Is_circular", [])
    taxon = next((entry for entry in values.get("Dbxref", []) if entry.startswith("taxon:")), "")
    words = [taxon, *(f"{key} {values[key][0]}" for key in ("strain", "isolate") if values.get(key, [""])[0])]
    region.genome = region.genome or (" ".join(words) if taxon else "")


def _by_transcript(coding: dict[tuple[str, str], _Cds], transcripts: set[str]) -> dict[tuple[str, str], _Cds]:
    """Join lines of one transcript whose ids differ: some programs number the pieces of one coding sequence."""
    joined: dict[tuple[str, str], _Cds] = {}
    for key, cds in coding.items():
        parents = [name for name in cds.parents if name in transcripts]
        if key[0] != "ID" or len(cds.lines) > 5 or not parents:
            joined[key] = cds
            continue
        for name in parents:
            whole = joined.setdefault(("Parent", name), _Cds(code=cds.code, exceptions=cds.exceptions))
            whole.lines.extend(cds.lines)
            whole.pseudo |= cds.pseudo
            whole.partial |= cds.partial
            whole.in_order |= cds.in_order
    return joined


def _examples(names: set[str]) -> str:
    shown = ", ".join(repr(name) for name in sorted(names)[:3])
    return f"{shown} ({len(names):,} in all)" if len(names) > 3 else shown
