"""The genetic codes of NCBI, by the number that ``transl_table`` gives.

Source: "The Genetic Codes" of NCBI, compiled by A. Elzanowski and J. Ostell. Numbers 7, 8 and 17 to 20 are not in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from vnp.sequences.record import CODONS, STANDARD_CODE

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


@dataclass(frozen=True, slots=True, eq=False)
class GeneticCode:
    """How codons are read.

    Attributes:
        number: NCBI's.
        residues: the residue of each codon; ``*`` is a stop.
        starts: codons that begin a protein, there always read as M.
        stops: codons that may end a protein; some codes read a few of them as residues elsewhere.
        table: the same as ``residues``, as ``bytes.translate`` takes it: the residue of codon 16 a + 4 b + c, where the
            bases T, C, A, G are 0 to 3.
    """

    number: int
    residues: dict[str, str]
    starts: frozenset[str]
    stops: frozenset[str]
    table: bytes


@cache
def genetic_code(number: int) -> GeneticCode:
    """Look up a code.

    Raises:
        KeyError: there is no code of this number.
    """
    changes, starts = _CODES[number]
    residues = dict(zip(CODONS, STANDARD_CODE, strict=True))
    read = {change[:3]: change[3] for change in changes.split()}
    residues |= {codon: residue.upper() for codon, residue in read.items()}
    stops = {codon for codon, residue in residues.items() if residue == "*" or read.get(codon, "A").islower()}
    table = "".join(residues.values()).ljust(256, "X").encode()
    return GeneticCode(number, residues, frozenset({"ATG", *starts.split()}), frozenset(stops), table)


def is_genetic_code(number: int) -> bool:
    """Tell whether NCBI has a code of this number."""
    return number in _CODES
