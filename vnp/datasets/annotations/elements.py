"""Pieces of genomes by what they are: plasmids, organelles, rRNA operons, transposons, vectors.

Annotations tell it where there are any (GenBank, GFF3), and else the words behind a FASTA record's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from vnp.datasets.annotations._genbank import QUALIFIERS, FlatRecord, flat_records
from vnp.datasets.annotations._gff3 import annotation_lines
from vnp.datasets.annotations.reading import GENBANK, begin
from vnp.errors import InputError
from vnp.sequences.reading import read_records
from vnp.sequences.record import sequence_problem

PLASMID = "plasmids"
ORGANELLE = "mitochondria and plastids"
RRNA = "rRNA operons"
MOBILE = "transposons and integrons"
VECTOR = "vectors"
OTHER = "other"
"""What nothing says anything of: chromosomes, as a rule."""

_VECTOR = re.compile(r"\b(cloning|expression|shuttle|plasmid|binary|fosmid|cosmid) vector\b|\bvector p[A-Z]", re.I)
_ORGANELLE = re.compile(r"mitochondri|chloroplast|plastid\b|apicoplast|kinetoplast|\bchr(?:mt|m|c)\b", re.I)
_MOBILE = re.compile(
    r"transpos|integron|insertion sequence|insertion element|\bIS\d+|mobile_element|mobile genetic element|SCCmec|"
    r"\bTn\d+",
    re.I,
)
# Viruses that sit in a host's genome are no negative control.
_VIRAL = re.compile(r"phage|provir|viral|virus", re.I)
_RRNA_RECORD = re.compile(
    r"\b(?:16S|18S|23S|28S|5\.8S|ribosomal RNA|rRNA)\b.*\b(?:gene|operon|sequence|ribosomal)\b", re.I
)
_RRNA_TYPES = frozenset({"rRNA", "SO:0000252"})
_MOBILE_TYPES = frozenset(
    {
        "mobile_element", "mobile_genetic_element", "transposable_element", "transposon", "insertion_sequence",
        "integron", "retrotransposon", "SO:0001037", "SO:0000101",
    }
)  # fmt: skip
_REPEATS = frozenset({"repeat_region", "dispersed_repeat"})
# rRNA genes of one operon stand no farther apart, with tRNA between them; a span beyond the last is none.
_OPERON_GAP = 2_000
_LONGEST = 60_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a genome: a whole record, or what an annotation marks in one."""

    name: str  # of the record, and of a part of it behind a colon the first and last base, from 1
    what: str  # one of the constants of this module
    sequence: bytes  # upper case, T for U, N for X
    part: bool = False  # whether it is marked in a record, which comes before it


@dataclass(slots=True)
class _Marks:
    """What is known of one record; places are from 0, the end exclusive."""

    whole: str = OTHER
    rrna: list[tuple[int, int]] = field(default_factory=list)
    mobile: list[tuple[int, int]] = field(default_factory=list)

    def mark(self, feature: str, text: str, start: int, end: int) -> None:
        if not 0 <= start < end or end - start > _LONGEST:
            return
        if feature in _RRNA_TYPES:
            self.rrna.append((start, end))
        elif not _VIRAL.search(text) and (feature in _MOBILE_TYPES or (feature in _REPEATS and _MOBILE.search(text))):
            self.mobile.append((start, end))

    def pieces(self, name: str, sequence: bytes) -> Iterator[Piece]:
        yield Piece(name, self.whole, sequence)
        if self.whole in (MOBILE, RRNA):
            return
        for what, spans in ((RRNA, _joined(self.rrna, _OPERON_GAP)), (MOBILE, _joined(self.mobile, 0))):
            for start, end in spans:
                if end <= len(sequence):
                    yield Piece(f"{name}:{start + 1}-{end}", what, sequence[start:end], part=True)


def _joined(spans: Iterable[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Spans in their order, those that overlap or stand so near each other as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def what_it_says(text: str) -> str:
    """What a record is by its description, or by the qualifiers of its source."""
    for what, pattern in ((VECTOR, _VECTOR), (PLASMID, re.compile("plasmid", re.I)), (ORGANELLE, _ORGANELLE)):
        if pattern.search(text):
            return what
    if _MOBILE.search(text) and not _VIRAL.search(text):
        return MOBILE
    return RRNA if _RRNA_RECORD.search(text) else OTHER


def read_pieces(path: Path, annotation: Path | None = None) -> Iterator[Piece]:
    """The records of a GenBank or FASTA file that have a usable sequence, each followed by the pieces marked in it.

    ``annotation`` is the GFF3 or GenBank of a FASTA file; without one, the words behind a record's name say what it is.

    Raises:
        InputError: a file is missing, damaged, or of another kind.
    """
    start, blocks = begin(path)
    if GENBANK.match(start):
        if annotation is not None:
            raise InputError("is GenBank, which has its annotation within: give no other with it", path=path)
        for flat in flat_records(blocks, path):
            name, marks = _of_genbank(flat)
            if flat.sequence and sequence_problem(flat.sequence) is None:
                yield from marks.pieces(name, flat.sequence)
        return
    known = _annotated(annotation) if annotation is not None else {}
    for record in read_records(path):
        if record.problem is not None:
            continue
        marks = known.get(record.name, _Marks())
        if marks.whole == OTHER:
            marks.whole = what_it_says(f"{record.name} {record.description}")
        yield from marks.pieces(record.name, record.sequence)


def _annotated(path: Path) -> dict[str, _Marks]:
    start, blocks = begin(path)
    if GENBANK.match(start):
        return dict(map(_of_genbank, flat_records(blocks, path)))
    found: dict[str, _Marks] = {}
    for number, line in annotation_lines(blocks):
        if not line.startswith("#") and line.strip():
            _of_line(line, found, path, number)
    return found


def _of_line(line: str, found: dict[str, _Marks], path: Path, number: int) -> None:
    """Note a line of GFF3."""
    cells = line.split("\t")
    if len(cells) != 9 or not (cells[3].isdecimal() and cells[4].isdecimal()):
        raise InputError(
            "is no line of GFF3: nine columns with tabs, the fourth and fifth numbers", path=path, line=number
        )
    marks = found.setdefault(unquote(cells[0]), _Marks())
    text = unquote(cells[8])
    if cells[2] in ("region", "chromosome"):
        marks.whole = what_it_says(text.replace("genome=genomic", ""))
    else:
        marks.mark(cells[2], text, int(cells[3]) - 1, int(cells[4]))


def _of_genbank(flat: FlatRecord) -> tuple[str, _Marks]:
    """The name of a record, and what its features say."""
    head, features = flat.features()
    named = re.search(rb"^VERSION +(\S+)", head, re.M) or re.search(rb"^ACCESSION +(\S+)", head, re.M)
    word = named[1] if named else (head[12:].split() or [b"unnamed"])[0]
    marks = _Marks()
    definition = re.search(rb"^DEFINITION +(.*?)(?=^\S)", head, re.M | re.S)
    marks.whole = what_it_says(_text(definition[1]) if definition else "")
    for feature in features:
        place, *qualifiers = QUALIFIERS.split(feature, maxsplit=1)
        key, _, location = _text(place).partition(" ")
        text = _text(b"/" + qualifiers[0]) if qualifiers else ""
        if key == "source":
            if marks.whole == OTHER and (said := re.findall(r"/(?:organelle|plasmid)=[^/]*", text)):
                marks.whole = what_it_says(" ".join(said))
        elif ":" not in location and (numbers := [int(one) for one in re.findall(r"\d+", location)]):
            start, end = min(numbers) - 1, max(numbers)
            # What is joined across the origin of a circle would be nearly all of it.
            if "," not in location or not flat.sequence or 2 * (end - start) <= len(flat.sequence):
                marks.mark(key, text, start, end)
    return word.decode("utf-8", "backslashreplace"), marks


def _text(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split())
