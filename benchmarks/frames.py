"""Times six-frame translation against a plain Python loop over the same sequences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks import MOST, processor_seconds, show
from benchmarks._commands import command, options
from vnp.errors import InputError
from vnp.runs.planning.options import LARGEST_CHUNK
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import count_open, frame_ids, open_frames
from vnp.sequences.reading import read_records


def measure_frames(
    bases: int = 10_000_000, chunk: int = 300, repeats: int = 5, seed: int = 1, paths: Sequence[str | Path] = ()
) -> dict[str, float]:
    """Time six-frame translation; both sides must first give the same rows.

    Speeds are of medians of processor seconds of one process; each round times every side once, one after the other, so
    that a busy machine slows all of them. Bases are those of FASTA or FASTQ files, or random.

    Raises:
        InputError: the files hold no bases that can be used.
        RuntimeError: the two sides differ.
    """
    names, sequences = _real(paths, bases) if paths else _random(bases, seed)
    chunks = Chunking(chunk).cut(np.array(list(map(len, sequences)), dtype=np.int64))
    # The loop takes a hundred times longer, so it gets a part: whole sequences, at least a twentieth of the bases.
    enough = int(np.searchsorted(np.cumsum(list(map(len, sequences))), sum(map(len, sequences)) / 20)) + 1
    texts = [sequence.decode("ascii") for sequence in sequences[:enough]]

    def loop() -> list[tuple[str, str, str]]:
        return list(all_open_rows(names[:enough], texts, chunk))

    def fast() -> list[tuple[str, str, str]]:
        frames = open_frames(sequences, chunks)
        return list(zip(frame_ids(names, chunks, frames), frames.nucleotides(), frames.proteins(), strict=True))

    rows = fast()
    expected = loop()
    if rows[: len(expected)] != expected or len(rows) != int(count_open(sequences, chunks)[0].sum()):
        raise RuntimeError("the vectorised frames differ from the plain loop's")
    sides: tuple[Callable[[], object], ...] = (
        loop,
        lambda: open_frames(sequences, chunks),
        fast,
        lambda: count_open(sequences, chunks),
    )
    times = [[processor_seconds(side)[1] for side in sides] for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    worked = sum(map(len, sequences))
    of_loop, speed, of_strings, of_counting = (
        done / seconds / 1e6 for done, seconds in zip([sum(map(len, texts)), *[worked] * 3], medians, strict=True)
    )
    return {
        "bases": worked,
        "chunk": chunk,
        "open frames": len(rows),
        "plain loop, million bases/s": of_loop,
        "open frames, million bases/s": speed,
        "times the plain loop": speed / of_loop,
        "with ids and strings, million bases/s": of_strings,
        "with ids and strings, times the plain loop": of_strings / of_loop,
        "counting alone, million bases/s": of_counting,
    }


def _random(bases: int, seed: int) -> tuple[list[str], list[bytes]]:
    generator = np.random.default_rng(seed)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    names: list[str] = []
    sequences: list[bytes] = []
    while bases > 0:
        length = min(bases, int(generator.integers(1_000, 200_000)))
        names.append(f"random{len(names)}")
        sequences.append(letters[generator.integers(0, 4, length)].tobytes())
        bases -= length
    return names, sequences


def _real(paths: Sequence[str | Path], bases: int) -> tuple[list[str], list[bytes]]:
    names: list[str] = []
    sequences: list[bytes] = []
    for path in paths:
        for record in read_records(path):
            if bases <= 0:
                break
            if record.problem is None:
                names.append(record.name)
                sequences.append(record.sequence[:bases])
                bases -= len(record.sequence)
    if not any(sequences):
        message = "no usable bases were read: no record can be used; name other files, or none for random bases"
        raise InputError(message, path=", ".join(map(str, paths)))
    return names, sequences


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
    """The open frames of every chunk of one sequence, upper-case, in order of chunk, then F1 F2 F3 R1 R2 R3."""
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


@command("python -m benchmarks frames --bases 20000000")
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--bases", type=click.IntRange(1, 100 * MOST), default=10_000_000, help="Bases to work through.")
@click.option("--chunk", type=click.IntRange(3, LARGEST_CHUNK), default=300, help="Bases of a chunk.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, help="Rounds; the median counts.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the random bases.")
@options.as_json
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    bases: int,
    chunk: int,
    repeats: int,
    seed: int,
    as_json: bool,
) -> None:
    """Time six-frame translation against a plain loop over codons.

    INPUT is FASTA or FASTQ to take the bases from; without any, they are random. Times are processor time of one core.
    """
    show(measure_frames(bases=bases, chunk=chunk, repeats=repeats, seed=seed, paths=input), as_json)
