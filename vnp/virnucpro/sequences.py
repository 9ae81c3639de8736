"""Reads the two FASTA files that VirNucPro's functions take."""

from __future__ import annotations

import re
from pathlib import Path

from vnp.errors import InputError
from vnp.sequences.opening import find_start, one_line_end, stream
from vnp.sequences.reading import read_records
from vnp.sequences.record import clean_name

_NOT_RESIDUE = re.compile(r"[^A-Z*.\-]")
_SURELY_DNA = 200


def read_dna(path: Path) -> tuple[list[str], list[str]]:
    """Read a FASTA file of DNA whole.

    Returns:
        Ids and upper-case bases.

    Raises:
        InputError: the file or one of its records cannot be used, or two have the same id.
    """
    ids, sequences, lines = [], [], []
    for record in read_records(path):
        if record.problem:
            raise InputError(record.problem, path=path, line=record.line, record=record.name)
        ids.append(record.name)
        sequences.append(record.sequence.decode())
        lines.append(record.line)
    _require_unique(path, ids, lines)
    return ids, sequences


def read_protein(path: Path) -> tuple[list[str], list[str]]:
    """Read a FASTA file of protein whole; plain or compressed.

    Returns:
        Ids and upper-case residues.

    Raises:
        InputError: the file or one of its records cannot be used, two have the same id, or it holds DNA.
    """
    _, blocks = stream(path)
    start = find_start(one_line_end(blocks), path)
    if start.kind != b">":
        raise InputError("is FASTQ; protein comes as FASTA", path=path)
    text = b"".join(start.blocks).decode("utf-8", "backslashreplace")
    ids, sequences, lines = [], [], []
    line = start.lines + 1
    for part in text[1:].split("\n>"):
        header, _, body = part.partition("\n")
        name, problem = clean_name(header, line)
        residues = "".join(body.split()).upper()
        odd = _NOT_RESIDUE.search(residues)
        if not residues:
            problem = problem or "the record is empty"
        elif odd:
            problem = problem or f"invalid letter {odd[0]!r} at residue {odd.start() + 1}"
        if problem:
            raise InputError(problem, path=path, line=line, record=name)
        ids.append(name)
        sequences.append(residues)
        lines.append(line)
        line += part.count("\n") + 1
    _require_unique(path, ids, lines)
    _require_protein(path, sequences)
    return ids, sequences


def _require_unique(path: Path, ids: list[str], lines: list[int]) -> None:
    seen: dict[str, int] = {}
    for name, line in zip(ids, lines, strict=True):
        if name in seen:
            raise InputError(
                f"the id was used in line {seen[name]} already; rename one", path=path, line=line, record=name
            )
        seen[name] = line


def _require_protein(path: Path, sequences: list[str]) -> None:
    """Refuse a file in which every residue is A, C, G, T, U or N: there is no such protein of any length."""
    size = sum(map(len, sequences))
    if size >= _SURELY_DNA and not any(sequence.strip("ACGTUN") for sequence in sequences):
        raise InputError("holds DNA, and protein is needed: give identified_protein.faa of jobs.frames", path=path)
