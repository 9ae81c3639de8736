"""Sequences that are no viruses: taken from genomes that the user names, shuffled, and made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vnp.controls.shuffle import dinucleotide_shuffle
from vnp.datasets.annotations.annotated import gff3_of
from vnp.datasets.annotations.elements import MOBILE, ORGANELLE, OTHER, PLASMID, RRNA, VECTOR, read_pieces
from vnp.errors import InputError
from vnp.sequences.samplesheet import LABELS, UNLABELLED, Columns, check_readable, file_in_sheet, read_rows

SHUFFLED_VIRUSES = "shuffled viruses"
SHUFFLED_HOSTS = "shuffled hosts"
LOW_COMPLEXITY = "low complexity"
HOSTS = "other host sequences"
CONTROLS = (
    SHUFFLED_VIRUSES, SHUFFLED_HOSTS, PLASMID, ORGANELLE, RRNA, MOBILE, LOW_COMPLEXITY, VECTOR, HOSTS,
)  # fmt: skip
"""All controls, in the order of tables."""
_SHEET = Columns(
    "sheet of controls", ("path", "label"), "and may have control, annotation and seen",
    optional=("control", "annotation", "seen"),
)  # fmt: skip
_SEEN = {"yes": True, "no": False, "": False}
_MOST_AMBIGUOUS = 0.05
_BASES = b"ACGT"


@dataclass(frozen=True, slots=True)
class ControlFile:
    """One file of a sheet of controls."""

    path: Path  # GenBank or FASTA
    viral: bool  # its records are viruses, which are shuffled only
    control: str  # what all its records are; empty where annotation or descriptions say
    annotation: Path | None  # GFF3 or GenBank of a FASTA file
    seen: bool  # the classifier was trained on it


@dataclass(frozen=True, slots=True)
class Source:
    """A sequence that windows are cut from."""

    name: str
    bases: bytes
    seen: bool


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of one length that is no virus."""

    name: str  # in the tables of calls
    control: str  # one of ``CONTROLS``
    source: str  # the sequence that it was cut from
    length: int  # bases
    seen: bool  # the classifier was trained on its sequence
    bases: bytes


def read_sheet(path: Path) -> list[ControlFile]:
    """Read a sheet of controls: path and label (viral or host); control, annotation and seen (yes or no) may be there.

    Raises:
        InputError: the sheet, a row, or a file that it names cannot be used.
    """
    check_readable(path)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise InputError("a sheet of controls is a .csv or .tsv with the columns path and label", path=path)
    files = []
    for line, row in read_rows(path, _SHEET):
        label = LABELS.get(row["label"].lower(), UNLABELLED)
        if label == UNLABELLED:
            raise InputError(f"label {row['label']!r}: a control needs viral or host", path=path, line=line)
        control = row["control"]
        if control and control not in CONTROLS[2:]:
            raise InputError(
                f"control {control!r}: use {', '.join(CONTROLS[2:])}, or leave it empty", path=path, line=line
            )
        if control and label:
            raise InputError("viruses are shuffled and nothing else: leave control empty", path=path, line=line)
        if row["seen"].lower() not in _SEEN:
            raise InputError(f"seen is {row['seen']!r}: yes or no", path=path, line=line)
        file = file_in_sheet(row["path"], path, line)
        beside = file_in_sheet(row["annotation"], path, line) if row["annotation"] else gff3_of(file)
        files.append(ControlFile(file, bool(label), control, beside, _SEEN[row["seen"].lower()]))
    return files


def gather(files: Sequence[ControlFile]) -> dict[str, list[Source]]:
    """Sort what all files hold by control; what is to be shuffled is as it was. InputError for unreadable files."""
    found: dict[str, list[Source]] = {name: [] for name in CONTROLS}
    for file in files:
        for piece in read_pieces(file.path, file.annotation):
            sequence = Source(piece.name, piece.sequence, file.seen)
            if file.viral:
                # Marked pieces of a virus are no controls.
                found[SHUFFLED_VIRUSES] += [] if piece.part else [sequence]
                continue
            what = file.control or (HOSTS if piece.what == OTHER else piece.what)
            found[what].append(sequence)
            if what == HOSTS:
                found[SHUFFLED_HOSTS].append(sequence)
    return found


def cut(found: dict[str, list[Source]], lengths: Sequence[int], count: int, seed: int) -> Iterator[Window]:
    """Cut up to ``count`` windows of each control and length, from as many sequences as there are.

    Windows of one sequence do not overlap, and none has more than 5 % ambiguous bases. Where some sequences of a
    control were not trained on, only those are used.

    ``found`` is what ``gather`` gave; ``seed`` is of places, shuffles and made-up sequences.
    """
    for number, control in enumerate(CONTROLS):
        for length in lengths:
            random = np.random.default_rng([seed, number, length])
            if control == LOW_COMPLEXITY:
                made = (Source(name, bases, False) for name, bases in _simple(length, count, random))
                pieces: Iterator[tuple[Source, bytes]] = ((one, one.bases) for one in made)
            else:
                pieces = _places(found[control], length, count, random)
            for place, (sequence, bases) in enumerate(pieces):
                if control in (SHUFFLED_VIRUSES, SHUFFLED_HOSTS):
                    bases = dinucleotide_shuffle(bases, random)
                name = f"{control.replace(' ', '_')}|{length}|{place}|{sequence.name}"
                yield Window(name, control, sequence.name, length, sequence.seen, bases)


def _places(
    sequences: Sequence[Source], length: int, count: int, random: np.random.Generator
) -> Iterator[tuple[Source, bytes]]:
    """Windows of the sequences in turn, in random order and at random places."""
    long = [one for one in sequences if len(one.bases) >= length]
    fresh = [one for one in long if not one.seen]
    turns = [(one, _slots(len(one.bases), length, random)) for one in (fresh or long)]
    turns = [turns[place] for place in random.permutation(len(turns))]
    given = 0
    while turns and given < count:
        left = []
        for one, slots in turns:
            while slots and given < count:
                start = slots.pop()
                bases = one.bases[start : start + length]
                if length - sum(map(bases.count, _LETTERS)) <= _MOST_AMBIGUOUS * length:
                    yield one, bases
                    given += 1
                    break
            if slots:
                left.append((one, slots))
        turns = left


_LETTERS = (b"A", b"C", b"G", b"T")


def _slots(size: int, length: int, random: np.random.Generator) -> list[int]:
    """Where windows of a sequence may begin, in random order."""
    fit = size // length
    first = int(random.integers(size - fit * length + 1))
    slots: list[int] = (random.permutation(fit) * length + first).tolist()
    return slots


def _simple(length: int, count: int, random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Sequences that say little: repeats of 1 to 60 bases with a few errors, and letters of lopsided composition."""
    for place in range(count):
        kind = place % 4
        if kind < 3:
            unit = (int(random.integers(1, 4)), int(random.integers(4, 13)), int(random.integers(13, 61)))[kind]
            motif = _drawn(unit, np.full(4, 0.25), random)
            bases = np.resize(motif, length)
            wrong = random.random(length) < (0.0, 0.02, 0.1)[int(random.integers(3))]
            bases = np.where(wrong, _drawn(length, np.full(4, 0.25), random), bases)
            name = f"repeat_of_{unit}"
        else:
            bases = _drawn(length, random.dirichlet(np.full(4, 0.3)), random)
            name = "lopsided"
        yield f"{name}_{place}", bases.astype(np.uint8).tobytes()


def _drawn(count: int, share: np.ndarray, random: np.random.Generator) -> np.ndarray:
    drawn: np.ndarray = np.frombuffer(_BASES, np.uint8)[random.choice(4, size=count, p=share)]
    return drawn
