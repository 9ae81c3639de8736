"""Small inputs and small runs."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.encoders import load
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.making.pipeline import Outcome, make_shards
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.start import start_run
from vnp.runs.request import Run
from vnp.sequences.samplesheet import InputFile

LETTERS = np.frombuffer(b"ACGT", np.uint8)


def dna(length: int, seed: int) -> str:
    """Random bases."""
    return LETTERS[np.random.default_rng(seed).integers(0, 4, length)].tobytes().decode()


def coding(length: int, seed: int) -> str:
    """Bases that are rich in open frames: G and C alone spell no stop."""
    return np.frombuffer(b"CG", np.uint8)[np.random.default_rng(seed).integers(0, 2, length)].tobytes().decode()


def write_fasta(path: Path, records: Sequence[tuple[str, str]], width: int = 70) -> Path:
    """Write records as FASTA, compressed if the name ends in ``.gz``."""
    lines = []
    for name, sequence in records:
        lines.append(f">{name}")
        lines += [sequence[at : at + width] for at in range(0, len(sequence), width)]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def write_fastq(path: Path, records: Sequence[tuple[str, str]]) -> Path:
    """Write records as FASTQ."""
    path.write_text("".join(f"@{name}\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in records))
    return path


@cache
def pair() -> RunEncoders:
    """The weight-free encoders, loaded once for all tests."""
    return RunEncoders(load("kmer", molecule="dna"), load("kmer", molecule="protein"), 0.0)


@cache
def alone() -> RunEncoders:
    """The weight-free encoder of DNA alone, for rows that are chunks."""
    return RunEncoders(load("kmer", molecule="dna"), None, 0.0)


def ask(files: Sequence[Path | InputFile], shards: int = 3, **options: Any) -> RunOptions:
    """A wish for a run of the weight-free encoders."""
    inputs = tuple(file if isinstance(file, InputFile) else InputFile(file.absolute()) for file in files)
    return RunOptions(files=inputs, shards=shards, **{"dna": "kmer", "protein": "kmer", **options})


def plan_run(root: Path, files: Sequence[Path | InputFile], shards: int = 3, **options: Any) -> Run:
    """Plan a run of the weight-free encoders."""
    return start_run(ask(files, shards, **options), root)[0]


def make_one(run: Run, number: int, load: Callable[[], RunEncoders] | None = None, **watch: Any) -> Outcome:
    """Make one shard in this process, and raise what is wrong with it."""
    outcomes, failed = make_shards(run, [number], load=load or (pair if run.request.protein else alone), **watch)
    if failed:
        raise failed[0][1]
    (outcome,) = outcomes
    return outcome


def make_all(run: Run) -> list[Outcome]:
    """Make every shard in this process, one after the other."""
    return [make_one(run, number) for number in range(run.request.shards)]


def small_blocks(run: Run, units: int) -> Run:
    """The same run cut into blocks of so many units, written to its run.json."""
    from dataclasses import replace

    request = replace(run.request, block_units=units)
    request.write(run.paths.request)
    return Run(run.paths, request)


def column_bytes(path: Path) -> dict[str, bytes | list[bytes]]:
    """Every array of a file as bytes, text as a list."""
    found: dict[str, bytes | list[bytes]] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            values = item[:]
            found[name] = values.tolist() if values.dtype.kind in "OS" else values.tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return found
