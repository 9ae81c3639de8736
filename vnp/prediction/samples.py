"""Tables and sequences of each sample, cut out of those of all: files of a sample stand one behind the other in a run.

One file is read and one written at a time, however many samples there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vnp.errors import storage_error
from vnp.files.claims import make_folder
from vnp.files.durable import replacing
from vnp.files.tables import table_text
from vnp.prediction.calls import Calls
from vnp.prediction.options import OutputPaths
from vnp.prediction.scores import Source
from vnp.prediction.summary import SampleCounts
from vnp.report.calls import VIRAL
from vnp.report.listing import Regions

COLUMNS = ("sample", "records", "bases", "viral", "viral_bases", "host", "no_call")
_FRAMES_BEHIND = 5
"""Columns from ``n_frames`` of the table of chunks to its last."""


def write_samples(
    paths: OutputPaths,
    written: Sequence[Path],
    samples: Sequence[SampleCounts],
    source: Source,
    calls: Calls,
    regions: Regions,
) -> list[Path]:
    """Write a folder for each sample, in the order of the run, and a table of samples; gives the files.

    ``written`` are the files of all samples. StorageError where the disk is full or cannot be written.
    """
    folders = [paths.samples / one.sample for one in samples]
    for folder in folders:
        make_folder(folder)
    counts = _counts(source, calls, regions)
    found = []
    # Frames come behind chunks, whose table tells how many there are.
    for path in sorted(written, key=lambda path: path.name):
        if path.stem in counts and path.suffix in _PIECES:
            targets = [folder / path.name for folder in folders]
            frames = _cut(path, targets, counts[path.stem])
            if path.stem == "chunks":
                counts["frames"] = frames
            found += targets
    rows = [[str(getattr(one, name)) for name in COLUMNS] for one in samples]
    with replacing(paths.table("samples")) as temporary:
        temporary.write_text(table_text([COLUMNS, *rows]), encoding="utf-8")
    return [*found, paths.table("samples")]


def _counts(source: Source, calls: Calls, regions: Regions) -> dict[str, list[int]]:
    """How many lines of each table, and records of FASTA, are of each sample, by the stem of the file's name."""
    windows = dict[str, slice]()
    for entry in source.inputs:
        name, window = str(entry.sample), source.window(entry)
        windows[name] = slice(windows.get(name, window).start, window.stop)
    places = np.array(sorted(place for place, found in regions.items() for _ in found), np.int64)
    found = dict[str, list[int]]()
    for window in windows.values():
        low, high = np.searchsorted(places, (window.start, window.stop)).tolist()
        of = {
            "predictions": window.stop - window.start,
            "chunks": int(calls.scored[window].sum()),
            "viral": source.mates * int((calls.call[window] == VIRAL).sum()),
            "regions": high - low,
        }
        for stem, number in of.items():
            found.setdefault(stem, []).append(number)
    return found


def _cut(path: Path, targets: Sequence[Path], counts: Sequence[int]) -> list[int]:
    """Cut a file into pieces of so many lines or records; returns how many frames each has, of the table of chunks."""
    frames = []
    try:
        with path.open("rb") as file:
            header, pieces = _PIECES[path.suffix](file)
            for target, count in zip(targets, counts, strict=True):
                with ExitStack() as stack:
                    piece = stack.enter_context(stack.enter_context(replacing(target)).open("xb"))
                    piece.write(header)
                    number = 0
                    for text in islice(pieces, count):
                        piece.write(text)
                        if path.stem == "chunks":
                            number += int(text.rsplit(b"\t", _FRAMES_BEHIND)[1])
                    frames.append(number)
    except OSError as error:
        raise storage_error(error, f"cutting {path} into samples") from error
    return frames


def _lines(file: BinaryIO) -> tuple[bytes, Iterator[bytes]]:
    """The first line, and those behind it."""
    return file.readline(), iter(file)


def _bed(file: BinaryIO) -> tuple[bytes, Iterator[bytes]]:
    return b"", iter(file)


def _records(file: BinaryIO) -> tuple[bytes, Iterator[bytes]]:
    """The records of FASTA, each with its header."""

    def read() -> Iterator[bytes]:
        held: list[bytes] = []
        for line in file:
            if line.startswith(b">") and held:
                yield b"".join(held)
                held = []
            held.append(line)
        if held:
            yield b"".join(held)

    return b"", read()


_PIECES = {".tsv": _lines, ".bed": _bed, ".fna": _records}
