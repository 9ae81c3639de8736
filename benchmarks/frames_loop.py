"""Six-frame translation as a plain Python loop: the reference for tests and the benchmark's other side.

It looks up one codon at a time in a dictionary, on one chunk after the other. Nothing else uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

_BASES = "TCAG"
# The standard genetic code (NCBI translation table 1), codons in the order TTT, TTC, TTA, TTG, TCT ...
_RESIDUES = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = {"".join(codon): residue for codon, residue in zip(product(_BASES, repeat=3), _RESIDUES, strict=True)}
_COMPLEMENT = dict(zip("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN", strict=True))


class Row(NamedTuple):
    """One open frame: its id, DNA and protein."""

    name: str
    nucleotide: str
    protein: str


def chunk_bounds(length: int, size: int) -> list[tuple[int, int]]:
    """Cut one sequence into chunks, 0-based and half-open, by the rule of ``chunks``."""
    count = -(-length // size)
    if count == 0:
        return []
    low, rest = divmod(count * size - length, count)
    bounds = []
    start = 0
    for index in range(count):
        bounds.append((start, min(start + size, length)))
        start += size - low - (1 if index < low + rest else 0)
    return bounds


def reverse_complement(strand: str) -> str:
    """Read the other strand, base by base."""
    return "".join(_COMPLEMENT[base] for base in reversed(strand))


def translate(strand: str, frame: int) -> str:
    """Translate one frame (1, 2 or 3) of a strand, codon by codon; a codon with an ambiguous base is X."""
    protein = []
    for position in range(frame - 1, len(strand) - 2, 3):
        protein.append(CODONS.get(strand[position : position + 3], "X"))
    return "".join(protein)


def open_rows(name: str, sequence: str, size: int) -> list[Row]:
    """Find the open frames of every chunk of one sequence.

    Args:
        name: the record's name.
        sequence: upper-case IUPAC nucleotides.
        size: bases a chunk.

    Returns:
        Rows in order of chunk, then F1 F2 F3 R1 R2 R3.
    """
    rows = []
    for number, (start, end) in enumerate(chunk_bounds(len(sequence), size), start=1):
        forward = sequence[start:end]
        reverse = reverse_complement(forward)
        for letter, strand in (("F", forward), ("R", reverse)):
            for frame in (1, 2, 3):
                protein = translate(strand, frame)
                if "*" in protein or not protein.strip("X"):
                    continue
                nucleotide = strand[frame - 1 : frame + 3 * len(protein)]
                rows.append(Row(f"{name}_chunk_{number}{letter}{frame}", nucleotide, protein))
    return rows


def all_open_rows(names: Sequence[str], sequences: Sequence[str], size: int) -> list[Row]:
    """Find the open frames of many sequences, one after the other."""
    return [row for name, sequence in zip(names, sequences, strict=True) for row in open_rows(name, sequence, size)]
