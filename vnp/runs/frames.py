"""Writes what a run would embed, without embedding it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import ChangedInputError
from vnp.files.claims import make_folder
from vnp.files.durable import replacing
from vnp.files.tables import open_text_table
from vnp.runs.planning.survey import Survey
from vnp.runs.request import Position
from vnp.runs.units import SKIPPED_COLUMNS, prepare, read_units, skipped_lines
from vnp.sequences.opening import KnownBlocks

NUCLEOTIDE = "identified_nucleotide.fa"
PROTEIN = "identified_protein.faa"
SKIPPED = "skipped.tsv"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    paths: tuple[Path, ...]  # nucleotide, protein and skipped files
    rows: int  # records in each of the first two
    skipped: dict[str, int]  # entries of the third by reason


def frames_paths(folder: Path) -> tuple[Path, Path, Path]:
    """The files that ``write_frames`` makes."""
    return folder / NUCLEOTIDE, folder / PROTEIN, folder / SKIPPED


def write_frames(found: Survey, folder: Path, *, progress: Callable[[int], None] = lambda _rows: None) -> Written:
    """Write the open frames of the inputs as FASTA, one line of sequence each, in the order of a run's rows.

    All files appear together, at the end. Memory does not grow with the input.

    ``progress`` is told how many frames were written since the last call.

    Raises:
        InputError: an input cannot be read any more, or has changed since the survey.
        StorageError: the disk is full or cannot be written.
    """
    make_folder(folder)
    paths = frames_paths(folder)
    rows = 0
    reasons: Counter[str] = Counter()
    with ExitStack() as stack:
        temporaries = [stack.enter_context(replacing(path)) for path in paths[:2]]
        nucleotide, protein = (
            stack.enter_context(path.open("x", encoding="utf-8", newline="")) for path in temporaries
        )
        skipped = stack.enter_context(open_text_table(paths[2], SKIPPED_COLUMNS))
        known = zip(found.inputs, found.blocks, strict=True)
        watches = {index: KnownBlocks(entry.path, blocks) for index, (entry, blocks) in enumerate(known)}
        for batch in read_units(found.inputs, found.chunk, Position(0), found.totals.units, watches):
            prepared = prepare([batch], found.inputs, found.selections)
            names = [name.decode() for name in prepared.rows.ids]
            nucleotide.write(_fasta(names, prepared.dna))
            protein.write(_fasta(names, prepared.protein))
            skipped.write(skipped_lines(found.inputs, prepared.records, prepared.skipped))
            reasons.update(reason.decode() for reason in prepared.skipped.reason)
            rows += len(names)
            progress(len(names))
        if rows != found.totals.rows:
            raise ChangedInputError(
                f"{rows:,} open frames were found, and {found.totals.rows:,} when the inputs were first read: one of "
                "them changed meanwhile. Run it again"
            )
    return Written(paths, rows, dict(reasons))


def _fasta(names: list[str], sequences: list[str]) -> str:
    return "".join([f">{name}\n{sequence}\n" for name, sequence in zip(names, sequences, strict=True)])
