"""Writes the sequences that were called viral, read anew from the inputs, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool

from vnp.errors import ChangedInputError
from vnp.runs.planning.plan import check_inputs
from vnp.runs.request import PlannedInput
from vnp.sequences.reading import read_records

_LINE = 80


def write_called(inputs: Sequence[PlannedInput], called: Bool[np.ndarray, "r"], path: Path) -> int:
    """Write the records that were called; the caller gives a temporary name.

    Names are those of the run, bases are upper case as vnp reads them, 80 a line.

    Args:
        inputs: the run's files.
        called: for each record over all files, whether to write it.
        path: of the new file.

    Returns:
        Bases written.

    Raises:
        InputError: a file has changed since it was embedded, or cannot be read.
        OSError: the disk is full or cannot be written.
    """
    wanted = [entry for entry in inputs if called[_records(entry)].any()]
    check_inputs(wanted)
    with path.open("xb") as file:
        return sum(_write_input(entry, called[_records(entry)], file) for entry in wanted)


def _records(entry: PlannedInput) -> slice:
    return slice(entry.first_record, entry.first_record + entry.records)


def _write_input(entry: PlannedInput, called: Bool[np.ndarray, "r"], file: BinaryIO) -> int:
    bases = 0
    left = int(called.sum())
    for record, chosen in zip(read_records(entry.path), called.tolist(), strict=False):
        if not chosen:
            continue
        file.write(f">{entry.record_name(record.name)}\n".encode())
        sequence = record.sequence
        lines = [sequence[first : first + _LINE] for first in range(0, len(sequence), _LINE)]
        file.write(b"\n".join(lines) + b"\n")
        bases += len(sequence)
        left -= 1
        if not left:
            return bases
    raise ChangedInputError("has fewer records than when it was embedded: extract it anew", path=entry.path)
