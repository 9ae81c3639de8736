"""Genomes in memory and on disk: four bases a byte, and what is known of each record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int32, Int64, UInt8

from vnp.encoders.models.sixframe import AMBIGUOUS, KINDS, VIRAL_KINDS, base_codes
from vnp.errors import FeatureError, InputError
from vnp.files.durable import replacing
from vnp.finetune.sheet import GenomeFile
from vnp.sequences.reading import read_records

SCHEMA = "genomes-1"
TRAIN, VALIDATION, TEST = 0, 1, 2
PHAGE = 1 << KINDS.index("phage")
PROKARYOTES = sum(1 << KINDS.index(kind) for kind in ("bacteria", "archaea", "plasmid"))
"""Bits of the kinds of hosts that phages live in."""
HOSTS = sum(1 << at for at in range(VIRAL_KINDS, len(KINDS)))
"""Bits of all kinds of hosts."""
_NAMES = ("groups", "units", "samples")
_ARRAYS = ("starts", "unit", "group", "sample", "kinds", "viral", "part", "ignored")


@dataclass(frozen=True, slots=True, eq=False)
class Genomes:
    """All records of a training set.

    Attributes:
        codes: the bases of all records, one after the other, as ``base_codes`` has them.
        starts: where each record begins, and behind the last one where the next would.
        unit: of each record, as a place in ``units``.
        group: of each record, as a place in ``groups``.
        sample: of each record, as a place in ``samples``.
        kinds: what each record may be, one bit a kind.
        viral: the label of each record.
        part: ``TRAIN``, ``VALIDATION`` or ``TEST``.
        ignored: first base and number of bases of the pieces of hosts that match viruses.
        groups: names.
        units: names.
        samples: names.
    """

    codes: UInt8[np.ndarray, " bases"]
    starts: Int64[np.ndarray, " records+1"]
    unit: Int32[np.ndarray, " records"]
    group: Int32[np.ndarray, " records"]
    sample: Int32[np.ndarray, " records"]
    kinds: UInt8[np.ndarray, " records"]
    viral: Bool[np.ndarray, " records"]
    part: Int8[np.ndarray, " records"]
    ignored: Int64[np.ndarray, "runs 2"]
    groups: tuple[str, ...]
    units: tuple[str, ...]
    samples: tuple[str, ...]

    @property
    def lengths(self) -> Int64[np.ndarray, " records"]:
        """Bases of each record."""
        return np.diff(self.starts)

    def evened(self, usable: Bool[np.ndarray, " records"]) -> Float64[np.ndarray, " records"]:
        """How often each record is drawn among the usable: units by the root of their size, records by theirs."""
        size = np.bincount(self.unit, weights=self.lengths * usable, minlength=len(self.units))
        return np.where(usable, self.lengths / np.sqrt(np.maximum(size[self.unit], 1)), 0.0)

    def record(self, index: int) -> UInt8[np.ndarray, " bases"]:
        """The bases of one record."""
        return self.codes[self.starts[index] : self.starts[index + 1]]

    def digest(self) -> str:
        """SHA-256 of everything."""
        seen = hashlib.sha256(SCHEMA.encode())
        seen.update(self.codes.data)
        for name in _ARRAYS:
            seen.update(np.ascontiguousarray(getattr(self, name)).data)
        for name in _NAMES:
            seen.update("\n".join(getattr(self, name)).encode())
        return seen.hexdigest()


def read_genomes(files: Sequence[GenomeFile]) -> Genomes:
    """Read all files; every record is in ``TRAIN`` and nothing is ignored yet.

    Raises:
        InputError: a file cannot be read, or has a record that cannot be used.
    """
    pieces: list[UInt8[np.ndarray, " bases"]] = []
    owner: list[int] = []
    for index, file in enumerate(files):
        for record in read_records(file.path):
            if record.problem:
                raise InputError(record.problem, path=file.path, line=record.line, record=record.name)
            pieces.append(base_codes(record.sequence.decode("ascii")))
            owner.append(index)
    of = np.array(owner, dtype=np.int64)
    groups, units, samples = (sorted({getattr(file, name) for file in files}) for name in ("group", "unit", "sample"))
    places = [{name: at for at, name in enumerate(names)} for names in (groups, units, samples)]
    columns = [
        np.array([places[0][file.group] for file in files], np.int32),
        np.array([places[1][file.unit] for file in files], np.int32),
        np.array([places[2][file.sample] for file in files], np.int32),
    ]
    return Genomes(
        codes=np.concatenate(pieces),
        starts=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        group=columns[0][of],
        unit=columns[1][of],
        sample=columns[2][of],
        kinds=np.array([file.kinds for file in files], np.uint8)[of],
        viral=np.array([file.viral for file in files], np.bool_)[of],
        part=np.zeros(len(of), np.int8),
        ignored=np.zeros((0, 2), np.int64),
        groups=tuple(groups),
        units=tuple(units),
        samples=tuple(samples),
    )


def save_genomes(genomes: Genomes, path: Path) -> None:
    """Write a packed set: two bits a base, and the runs of ambiguous ones; StorageError where it cannot be written."""
    ambiguous = genomes.codes == AMBIGUOUS
    bases = np.where(ambiguous, 0, genomes.codes)
    bases = np.concatenate((bases, np.zeros(-len(bases) % 4, np.uint8))).reshape(-1, 4)
    packed = bases[:, 0] | bases[:, 1] << 2 | bases[:, 2] << 4 | bases[:, 3] << 6
    stored: dict[str, Any] = {name: getattr(genomes, name) for name in _ARRAYS}
    stored |= {name: np.array(getattr(genomes, name), dtype=np.str_) for name in _NAMES}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            schema=np.array(SCHEMA),
            digest=np.array(genomes.digest()),
            packed=packed.astype(np.uint8),
            ambiguous=runs_of(ambiguous),
            **stored,
        )


def load_genomes(path: Path) -> Genomes:
    """Read a packed set and check it; FeatureError where it is damaged or something else."""
    try:
        with np.load(path) as file:
            if str(file["schema"]) != SCHEMA:
                raise FeatureError(f"{path} is not a packed set of genomes of this version; make it again")
            packed = file["packed"]
            codes = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)
            codes = codes[: file["starts"][-1]]
            codes[within(file["ambiguous"], len(codes))] = AMBIGUOUS
            columns: dict[str, Any] = {name: file[name] for name in _ARRAYS}
            columns |= {name: tuple(map(str, file[name])) for name in _NAMES}
            genomes = Genomes(codes=codes, **columns)
            digest = str(file["digest"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise FeatureError(f"{path} is not a packed set of genomes, or is damaged: {error}; make it again") from error
    if genomes.digest() != digest:
        raise FeatureError(f"{path} is damaged: its content is not what was written; make it again")
    return genomes


def runs_of(marked: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, "runs 2"]:
    """First place and number of places of each run of marked ones."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marked.astype(np.int8), [0]))))
    return np.stack((edges[::2], edges[1::2] - edges[::2]), axis=1).astype(np.int64)


def within(runs: Int64[np.ndarray, "runs 2"], size: int) -> Bool[np.ndarray, " size"]:
    """Which of ``size`` places lie in a run."""
    steps = np.zeros(size + 1, np.int32)
    np.add.at(steps, runs[:, 0], 1)
    np.add.at(steps, runs[:, 0] + runs[:, 1], -1)
    return np.cumsum(steps[:-1]) > 0


def with_ignored(genomes: Genomes, runs: Int64[np.ndarray, "runs 2"]) -> Genomes:
    """The same genomes with more pieces ignored."""
    both = within(np.concatenate((genomes.ignored, runs)), len(genomes.codes))
    return replace(genomes, ignored=runs_of(both))
