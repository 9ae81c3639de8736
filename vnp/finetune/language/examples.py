"""Reads a training set as ``dataset`` wrote it: the proteins of its frames as tokens, with label, unit and part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int32, Int64, UInt8

from vnp.encoders.tokens.tokenizers import Tokenizer
from vnp.errors import FeatureError, InputError
from vnp.features.split import PARTS, TRAIN, VALIDATION
from vnp.runs.planning.survey import survey
from vnp.runs.request import Position
from vnp.runs.units import prepare, read_units
from vnp.sequences.opening import KnownBlocks
from vnp.sequences.samplesheet import read_inputs


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Proteins of open frames."""

    tokens: UInt8[np.ndarray, " tokens"]  # of all of them, one after the other, special tokens included
    starts: Int64[np.ndarray, " n+1"]  # where each begins
    label: Int8[np.ndarray, " n"]  # 1 viral, 0 host
    unit: Int32[np.ndarray, " n"]  # index into ``units``
    part: Int8[np.ndarray, " n"]  # 0 train, 1 validation, 2 test
    units: list[str]  # names of what the split never cuts
    about: dict[str, Any]  # digests of the set's files

    def __len__(self) -> int:
        """Count the proteins."""
        return len(self.label)

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """Tokens of each."""
        return np.diff(self.starts)

    def ids(self, row: int) -> UInt8[np.ndarray, " length"]:
        """The tokens of one; a view."""
        return self.tokens[self.starts[row] : self.starts[row + 1]]

    def rows(self, part: int) -> Int64[np.ndarray, " m"]:
        """The numbers of those of a part."""
        return np.flatnonzero(self.part == part)

    def part_of_unit(self) -> dict[str, int]:
        """The part of each unit."""
        parts = np.zeros(len(self.units), np.int8)
        parts[self.unit] = self.part
        return dict(zip(self.units, parts.tolist(), strict=True))

    def describe(self) -> dict[str, Any]:
        """Digests and counts, for the provenance of what is trained on them."""
        counts = {
            name: {
                "proteins": int((self.part == number).sum()),
                "viral": int(((self.part == number) & (self.label == 1)).sum()),
                "units": len(np.unique(self.unit[self.part == number])),
                "tokens": int(self.lengths[self.part == number].sum()),
            }
            for number, name in enumerate(PARTS)
        }
        return {**self.about, "parts": counts}

    def require(self, objective: str, path: Path) -> None:
        """Make sure that an objective can be trained and watched on them.

        Raises:
            FeatureError: training or validation lack proteins or, where labels matter, a class.
        """
        for part in (TRAIN, VALIDATION):
            rows = self.rows(part)
            if not len(rows):
                raise FeatureError(
                    f"the part {PARTS[part]} has no protein; make the set of more genomes, or with other shares",
                    path=path,
                )
            if objective != "mlm" and len(np.unique(self.label[rows])) < 2:
                kind = "viral" if self.label[rows[0]] else "host"
                raise FeatureError(
                    f"the part {PARTS[part]} has only {kind} proteins, and {objective} needs both classes; make the "
                    "set of more genomes, or train with --objective mlm",
                    path=path,
                )


def read_examples(path: Path, tokenizer: Tokenizer) -> Examples:
    """Read a set from the folder that ``dataset`` wrote, or one of its two files.

    Raises:
        InputError: it is no set, is damaged, or has no protein.
        UsageError: pyarrow, which reads it, is missing.
    """
    files = read_inputs([path])
    if len(files) != 1 or files[0].dataset is None:
        raise InputError("is not a training set with a split: name the folder that jobs.dataset wrote", path=path)
    found = survey(files, None)
    watches = {0: KnownBlocks(found.inputs[0].path, found.blocks[0])}
    numbers: dict[bytes, int] = {}
    tokens, lengths, columns = [], [], []
    for batch in read_units(found.inputs, found.chunk, Position(0), found.totals.units, watches):
        prepared = prepare([batch], found.inputs, found.selections)
        rows = prepared.rows
        ids = tokenizer.encode_batch(prepared.protein)
        tokens += [one.astype(np.uint8) for one in ids]
        lengths += [len(one) for one in ids]
        unit = [numbers.setdefault(name, len(numbers)) for name in rows.group]
        columns.append(np.stack([rows.label, np.array(unit, np.int64), rows.split]))
    if not lengths:
        raise InputError("has no protein to train on; make it of chunks with open frames", path=path)
    label, units, part = np.concatenate(columns, axis=1)
    entry = found.inputs[0]
    return Examples(
        tokens=np.concatenate(tokens),
        starts=np.concatenate(([0], np.cumsum(lengths))),
        label=label.astype(np.int8),
        unit=units.astype(np.int32),
        part=part.astype(np.int8),
        units=[name.decode() for name in numbers],
        about={"fasta_sha256": entry.sha256, "table_sha256": entry.dataset_sha256},
    )
