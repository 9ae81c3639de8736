"""What one record of an annotated genome is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Annotated:
    """One record of an annotated genome: its sequence, and the proteins that its annotation gives it.

    Attributes:
        name: accession with version where there is one, else the first word that names the record.
        sequence: upper-case bases, ASCII, T for U, N for X; where there is a problem, whatever was found.
        genome: what the records of one organism share: organism with strain and isolate where the annotation says so,
            else the record's name.
        proteins: the annotated proteins that agree with the sequence, each once, ASCII, without a stop at the end.
        mismatched: coding sequences whose protein is not what the sequence gives; they are not in ``proteins``.
        untranslated: coding sequences that have no protein, such as those of pseudogenes.
        problem: why the record cannot be used, or None.
        unchecked: coding sequences whose location cannot be followed in this record (a piece lies in another record,
            or an end is uncertain), so that their protein could not be checked; they are not in ``proteins``.
        lineage: the organism's taxonomic groups, the widest first; empty where the file does not say.
    """

    name: str
    sequence: bytes
    genome: str
    proteins: tuple[bytes, ...] = ()
    mismatched: int = 0
    untranslated: int = 0
    problem: str | None = None
    unchecked: int = 0
    lineage: tuple[str, ...] = ()
