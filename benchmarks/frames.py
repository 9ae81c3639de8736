"""Times six-frame translation against a plain Python loop over the same sequences."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.frames_loop import all_open_rows
from vnp.errors import InputError
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import count_open, frame_ids, open_frames
from vnp.sequences.reading import read_records


@dataclass(frozen=True, slots=True)
class FrameFigures:
    """What ``benchmark_frames`` measured; times are medians of processor seconds of one process.

    Attributes:
        bases: bases worked through.
        chunk: bases a chunk.
        rows: open frames found, the same on both sides.
        loop_bases: bases the plain loop was timed on, the first ones.
        loop_seconds: the plain loop: ids, DNA and proteins as strings.
        seconds: ``open_frames``: DNA and proteins in buffers.
        strings_seconds: the same, and ids, DNA and proteins as strings.
        count_seconds: ``count_open``.
    """

    bases: int
    chunk: int
    rows: int
    loop_bases: int
    loop_seconds: float
    seconds: float
    strings_seconds: float
    count_seconds: float

    @property
    def speed(self) -> float:
        """Million bases a second of ``open_frames``: DNA and proteins in buffers."""
        return self.bases / self.seconds / 1e6

    @property
    def strings_speed(self) -> float:
        """The same where ids, DNA and proteins are strings."""
        return self.bases / self.strings_seconds / 1e6

    @property
    def count_speed(self) -> float:
        """The same of ``count_open``."""
        return self.bases / self.count_seconds / 1e6

    @property
    def loop_speed(self) -> float:
        """The same of the plain loop: ids, DNA and proteins as strings."""
        return self.loop_bases / self.loop_seconds / 1e6

    @property
    def times_faster(self) -> float:
        """``speed`` over ``loop_speed``."""
        return self.speed / self.loop_speed

    @property
    def strings_times_faster(self) -> float:
        """``strings_speed`` over ``loop_speed``."""
        return self.strings_speed / self.loop_speed


def benchmark_frames(
    bases: int = 10_000_000,
    chunk: int = 300,
    repeats: int = 5,
    seed: int = 1,
    paths: Sequence[str | Path] = (),
) -> FrameFigures:
    """Time six-frame translation; both sides must first give the same rows.

    Args:
        bases: how many bases to work through.
        chunk: bases a chunk.
        repeats: rounds; each times every side once, one after the other, so that a busy machine slows all of them.
        seed: for random sequences.
        paths: FASTA or FASTQ files to take the bases from, instead of random sequences.

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
    times = [[_seconds(side) for side in sides] for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return FrameFigures(sum(map(len, sequences)), chunk, len(rows), sum(map(len, texts)), *medians)


def _seconds(side: Callable[[], object]) -> float:
    # Processor time: other people's work on the same machine should not count.
    start = time.process_time()
    side()
    return time.process_time() - start


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
