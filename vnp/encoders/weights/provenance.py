"""``provenance.json``: how the encoder in a folder was fine-tuned, and which units it saw. ``finetune`` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnp.errors import WeightsError
from vnp.files.hashing import file_sha256
from vnp.files.records import read_record, write_record

PROVENANCE = "provenance.json"
UNITS = "split.tsv"
"""Beside it: each unit that was there, and its part of the split: train, validation or test."""
_SCHEMA = "vnp-provenance/1"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights in a folder come from."""

    base: dict[str, Any]  # identity of the encoder that it was, with the SHA-256 of its weights
    data: dict[str, Any]  # digests and counts of the training set
    objective: str
    train: str  # what of the network was trained
    recipe: dict[str, Any]  # with the seed
    split_sha256: str  # of the table of units
    result: dict[str, Any]  # steps, the best one, and what was measured on validation units
    code: dict[str, str]  # versions

    def __str__(self) -> str:
        steps = f"step {self.result.get('best_step')} of {self.result.get('steps')}"
        units = self.data.get("parts", {}).get("train", {}).get("units")
        return f"fine-tuned from {self.base.get('name')} on {units} units ({self.objective}, {self.train}, {steps})"

    def write(self, folder: Path) -> None:
        """Write it beside the weights."""
        write_record(folder / PROVENANCE, self, schema=_SCHEMA, seal="digest")


def read_provenance(folder: Path) -> Provenance | None:
    """A folder's provenance; None where there is none, as in what was fetched, WeightsError where it is damaged."""
    return read_record(
        folder / PROVENANCE, Provenance, schema=_SCHEMA, seal="digest", error=WeightsError, remedy="bring it back"
    )


def trained_on(folder: Path) -> str | None:
    """SHA-256 of the table of units that a folder's encoder has seen, if any; WeightsError where that is another."""
    found = read_provenance(folder)
    if found is None:
        return None
    table = folder / UNITS
    try:
        same = file_sha256(table) == found.split_sha256
    except OSError as error:
        raise WeightsError(f"{table} cannot be read, but {PROVENANCE} needs it: {error.strerror or error}") from error
    if not same:
        raise WeightsError(f"{table} is not the table of units that {PROVENANCE} was written with: bring it back")
    return found.split_sha256
