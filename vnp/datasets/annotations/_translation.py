"""Reads coding sequences off a record, translates them, and compares that with the protein that an annotation gives.

Source of the codes: "The Genetic Codes" of NCBI, compiled by A. Elzanowski and J. Ostell, by the number that
``transl_table`` gives. Numbers 7, 8 and 17 to 20 are not in use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from vnp.sequences.record import CODONS, STANDARD_CODE, reverse_complement

STANDARD = 1
# What each code reads unlike the standard code, codon and residue; then its start codons besides ATG. A codon with a
# small residue is that residue inside a protein, and a stop at its end.
_CODES = {
    1: ("", "CTG TTG"),
    2: ("AGA* AGG* ATAM TGAW", "ATA ATC ATT GTG"),
    3: ("ATAM CTAT CTCT CTGT CTTT TGAW", "ATA GTG"),
    4: ("TGAW", "ATA ATC ATT CTG GTG TTA TTG"),
    5: ("AGAS AGGS ATAM TGAW", "ATA ATC ATT GTG TTG"),
    6: ("TAAQ TAGQ", ""),
    9: ("AAAN AGAS AGGS TGAW", "GTG"),
    10: ("TGAC", ""),
    11: ("", "ATA ATC ATT CTG GTG TTG"),
    12: ("CTGS", "CTG"),
    13: ("AGAG AGGG ATAM TGAW", "ATA GTG TTG"),
    14: ("AAAN AGAS AGGS TAAY TGAW", ""),
    15: ("TAGQ", ""),
    16: ("TAGL", ""),
    21: ("AAAN AGAS AGGS ATAM TGAW", "GTG"),
    22: ("TAGL TCA*", ""),
    23: ("TTA*", "ATT GTG"),
    24: ("AGAS AGGK TGAW", "CTG GTG TTG"),
    25: ("TGAG", "GTG TTG"),
    26: ("CTGA", "CTG"),
    27: ("TAAQ TAGQ TGAw", ""),
    28: ("TAAq TAGq TGAw", ""),
    29: ("TAAY TAGY", ""),
    30: ("TAAE TAGE", ""),
    31: ("TAAe TAGe TGAW", ""),
    32: ("TAGW", "ATA ATC ATT CTG GTG TTG"),
    33: ("AGAS AGGK TAAY TGAW", "CTG GTG TTG"),
}
_MEANS = {
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
_AMBIGUOUS = 64
_CODE = bytes.maketrans(b"TCAGRYSWKMBDHVN", bytes((0, 1, 2, 3, *(_AMBIGUOUS for _ in "RYSWKMBDHVN"))))
# Residues that stand for one of several, as NCBI writes them where a codon is ambiguous.
_EITHER = {"B": set("DN"), "Z": set("EQ"), "J": set("IL")}
# Selenocysteine and pyrrolysine, and the stop codon that each is read from.
_RECODED = {"U": "TGA", "O": "TAG"}
_AMINO_ACIDS = {
    "ala": "A", "arg": "R", "asn": "N", "asp": "D", "cys": "C", "gln": "Q", "glu": "E", "gly": "G", "his": "H",
    "ile": "I", "leu": "L", "lys": "K", "met": "M", "phe": "F", "pro": "P", "ser": "S", "thr": "T", "trp": "W",
    "tyr": "Y", "val": "V", "sec": "U", "pyl": "O", "asx": "B", "glx": "Z", "xle": "J",
}  # fmt: skip
_EXCEPTION = re.compile(r"pos:(.*?),\s*aa:\s*([A-Za-z]+)", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class GeneticCode:
    """How codons are read: the residue of each (``*``: a stop), those that begin a protein as M, those that end it.

    ``table`` is ``residues`` as ``bytes.translate`` takes it: that of codon 16 a + 4 b + c, where T, C, A, G are
    0 to 3.
    """

    number: int
    residues: dict[str, str]
    starts: frozenset[str]
    stops: frozenset[str]
    table: bytes


@cache
def genetic_code(number: int) -> GeneticCode:
    """Look up a code; KeyError where NCBI has none of this number."""
    changes, starts = _CODES[number]
    residues = dict(zip(CODONS, STANDARD_CODE, strict=True))
    read = {change[:3]: change[3] for change in changes.split()}
    residues |= {codon: residue.upper() for codon, residue in read.items()}
    stops = {codon for codon, residue in residues.items() if residue == "*" or read.get(codon, "A").islower()}
    table = "".join(residues.values()).ljust(256, "X").encode()
    return GeneticCode(number, residues, frozenset({"ATG", *starts.split()}), frozenset(stops), table)


def is_genetic_code(number: int) -> bool:
    return number in _CODES


class Part(NamedTuple):
    """A stretch of a record that is coding: 0-based start, end, and whether it lies on the other strand."""

    start: int
    end: int
    reverse: bool


@dataclass(frozen=True, slots=True)
class Coding:
    """One coding sequence."""

    parts: Sequence[Part]  # in the order in which they are read
    skip: int  # bases before the first whole codon
    code: GeneticCode  # how its codons are read
    # residues that an annotation gives by position in the record, 0-based; an empty one is a stop
    exceptions: Mapping[int, str] = field(default_factory=dict)
    begins: bool = True  # whether the first codon is the protein's first


def read_bases(sequence: bytes, parts: Sequence[Part]) -> bytes | None:
    """Join the coding stretches of a record, or None where one lies outside of it."""
    pieces = []
    for start, end, reverse in parts:
        if not 0 <= start < end <= len(sequence):
            return None
        piece = sequence[start:end]
        pieces.append(reverse_complement(piece) if reverse else piece)
    return b"".join(pieces)


def translate(bases: bytes, code: GeneticCode) -> bytes:
    """Translate whole codons; one with an ambiguous base is what all its readings agree on, else X."""
    codes = np.frombuffer(bases.translate(_CODE), dtype=np.uint8, count=len(bases) // 3 * 3)
    first, second, third = codes[0::3], codes[1::3], codes[2::3]
    residues = bytearray((first << 4 | second << 2 | third).tobytes().translate(code.table))
    if bases.translate(None, b"ACGT"):
        for place in np.flatnonzero((first | second | third) >= _AMBIGUOUS).tolist():
            found = _readings(bases[3 * place : 3 * place + 3].decode(), code)
            residues[place] = ord(found.pop()) if len(found) == 1 else ord("X")
    return bytes(residues)


def _codons(codon: str) -> Iterable[str]:
    """Those that a codon with ambiguous bases may be."""
    return map("".join, product(*(_MEANS[base] for base in codon)))


def _readings(codon: str, code: GeneticCode) -> set[str]:
    return {code.residues[one] for one in _codons(codon)}


def read_exceptions(text: str) -> dict[int, str]:
    """Read ``transl_except``, such as ``(pos:213..215,aa:Sec)``, however many stand in the text.

    Gives the residue by the 0-based positions of its codon: X for one that has no letter, nothing for a stop.
    """
    residues: dict[int, str] = {}
    for place, name in _EXCEPTION.findall(text):
        residue = "" if name.lower() in {"term", "ter", "stop"} else _AMINO_ACIDS.get(name.lower(), "X")
        residues |= dict.fromkeys((int(number) - 1 for number in re.findall(r"\d+", place)), residue)
    return residues


def protein_of(sequence: bytes, coding: Coding) -> bytes | None:
    """Translate a coding sequence as GenBank would annotate it, without its stop.

    None where the location lies outside of the record or a stop lies within.
    """
    bases = read_bases(sequence, coding.parts)
    if bases is None:
        return None
    bases = bases[coding.skip :]
    protein = bytearray(translate(bases, coding.code))
    if not protein:
        return None
    if len(bases) % 3 == 0 and bases[-3:].decode() in coding.code.stops:
        protein[-1:] = b"*"
    for place, residue in _exceptions(coding).items():
        if place < len(protein):
            protein[place] = ord(residue or "*")
    if protein.endswith(b"*"):
        protein.pop()
    if coding.begins and coding.skip == 0 and bases[:3].decode() in coding.code.starts:
        protein[:1] = b"M"
    return None if b"*" in protein or not protein else bytes(protein)


def agrees(translation: bytes, sequence: bytes, coding: Coding) -> bool:
    """Tell whether a protein, upper case and without a stop at the end, is what the record's bases give.

    The first codon may be another start codon that is read as M; a stop may follow the last residue; one or two bases
    left at the end may be a residue that they determine. ``transl_except`` is believed. U and O fit the stop codons
    that selenocysteine and pyrrolysine are read from, and X, which claims nothing, fits any codon.
    """
    bases = read_bases(sequence, coding.parts)
    if bases is None:
        return False
    bases = bases[coding.skip :]
    expected = translate(bases, coding.code)
    if translation == expected or translation + b"*" == expected:
        return True
    exceptions = _exceptions(coding)
    if len(bases) % 3:
        expected += translate(bases[len(expected) * 3 :].ljust(3, b"N"), coding.code)
    whole = len(bases) // 3
    size = len(translation)
    if size == whole - 1:
        last = bases[size * 3 : size * 3 + 3].decode()
        if not coding.code.stops.issuperset(_codons(last)) and exceptions.get(size) != "":
            return False
    elif size != whole and (size != len(expected) or translation.endswith(b"X")):
        return False
    letters = np.frombuffer(translation, dtype=np.uint8)
    unlike = np.flatnonzero(letters != np.frombuffer(expected, dtype=np.uint8, count=size))
    return all(
        chr(translation[place]) in ("X", exceptions.get(place))
        or _fits(
            chr(translation[place]), bases[3 * place : 3 * place + 3].decode().ljust(3, "N"), place == 0, coding.code
        )
        for place in unlike.tolist()
    )


def _fits(residue: str, codon: str, first: bool, code: GeneticCode) -> bool:
    """Tell whether a residue may stand for a codon that translates to something else."""
    if first and residue == "M":
        return not code.starts.isdisjoint(_codons(codon))
    if residue in _RECODED:
        return codon == _RECODED[residue]
    return residue in _EITHER and _readings(codon, code) <= _EITHER[residue]


def _exceptions(coding: Coding) -> dict[int, str]:
    """The residues that ``transl_except`` gives, by their place in the protein."""
    places = {}
    for position, residue in coding.exceptions.items():
        before = 0
        for start, end, reverse in coding.parts:
            if start <= position < end:
                at = before + (end - 1 - position if reverse else position - start)
                places[(at - coding.skip) // 3] = residue
            before += end - start
    return places
