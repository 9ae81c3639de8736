"""Small datasets, written by the room that writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vnp.datasets.sheet import Source
from vnp.datasets.writing.write import FASTA, KEY, TABLE, Chosen, Records, describe, write_fasta, write_table
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import open_frames

_PARTS = (0, 0, 0, 1, 2)


@dataclass(frozen=True, slots=True)
class Genome:
    """One record to take chunks from."""

    name: str
    sequence: bytes
    viral: bool
    unit: str
    part: int


RANKS = {"genus": "virus", "family": "viridae", "order": "virales"}


def genomes(count: int = 20, length: int = 3000, seed: int = 1, prefix: str = "") -> list[Genome]:
    """Random genomes, every other one viral; of five units three are for training, one for validation, one for test."""
    return [
        Genome(
            f"{prefix}g{number}",
            _bases(length, seed + number),
            number % 2 == 0,
            f"{prefix}unit {number // 4} {'vh'[number % 2]}",
            _PARTS[number // 4 % 5],
        )
        for number in range(count)
    ]


def _bases(length: int, seed: int) -> bytes:
    """Random bases with so few stops that chunks of 500 bases have open frames, and not all six."""
    return bytes(np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), length, p=(0.1, 0.4, 0.4, 0.1)))


def write_dataset(
    folder: Path, found: Sequence[Genome], *, lengths: Sequence[int] = (300,), seed: int = 0, some_frames: bool = True
) -> Path:
    """Write a dataset of chunks of those lengths.

    Args:
        folder: made if it is not there.
        found: what to cut, viral and host mixed.
        lengths: of chunks; a record gives chunks of each.
        seed: of the choice of frames.
        some_frames: choose from the open frames of a chunk; else take all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []
    for number, genome in enumerate(found):
        of_record = []
        for length in lengths:
            whole = np.array([len(genome.sequence)], np.int64)
            chunks = Chunking(length).cut(whole)
            frames = open_frames([genome.sequence], chunks)
            bits = np.zeros(len(chunks), np.uint8)
            np.bitwise_or.at(bits, frames.chunk, np.uint8(1) << frames.frame.astype(np.uint8))
            if some_frames:
                bits &= chance.integers(0, 64, len(bits)).astype(np.uint8)
            of_record += [
                (number, int(start), int(end), int(bit))
                for start, end, bit in zip(chunks.start, chunks.end, bits, strict=True)
                if bit
            ]
        rows += sorted(set(of_record))
    record, start, end, chosen_bits = (np.array([row[column] for row in rows], np.int64) for column in range(4))
    frame_bits = chosen_bits.astype(np.uint8)
    chosen = Chosen(record, start, end, frame_bits, frame_bits)
    sources = [
        Source(path=folder / f"{name}.gbff", name=f"{name}.gbff", label=label, organism_group=group)
        for label, name, group in ((0, "host", "bacteria"), (1, "viral", "viral"))
    ]
    records = Records(
        name=[genome.name for genome in found],
        source=np.array([int(genome.viral) for genome in found], np.int64),
        unit=[genome.unit for genome in found],
        organism_group=["viral" if genome.viral else "bacteria" for genome in found],
        part=np.array([genome.part for genome in found], np.int8),
        ranks={rank: [f"{genome.unit}{ending}" for genome in found] for rank, ending in RANKS.items()},
        date=[""] * len(found),
    )
    bases = (found[number].sequence[first:last] for number, first, last, _ in rows)
    sha256 = write_fasta(folder / FASTA, records, chosen, bases)
    about = describe(
        sources,
        [{"sha256": "0" * 64}] * 2,
        chosen,
        sha256,
        frames="all",
        lengths=",".join(map(str, lengths)),
        seed=seed,
    )
    write_table(folder / TABLE, sources, records, chosen, {KEY: about})
    return folder


def table_of(folder: Path) -> dict[str, list[Any]]:
    """The columns of a dataset's table."""
    import pyarrow.parquet as parquet

    columns: dict[str, list[Any]] = parquet.read_table(folder / TABLE).to_pydict()
    return columns


def change_table(folder: Path, change: Callable[[dict[str, list[Any]]], None], **about: Any) -> None:
    """Write a dataset's table anew with other values, or another metadata."""
    import json

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / TABLE)
    columns = table.to_pydict()
    change(columns)
    stored = {**json.loads(table.schema.metadata[KEY.encode()]), **about}
    kept = {name: value for name, value in stored.items() if value is not None}
    parquet.write_table(
        arrow.table(columns).replace_schema_metadata({KEY: json.dumps(kept)}), folder / TABLE, row_group_size=7
    )


def made_up(count: int = 20, classes: int = 2) -> list[Genome]:
    """Genomes of six parts in ten for training; viral ones have more A, so their proteins more lysine."""
    found = []
    for number in range(count):
        viral = number % 2 < classes - 1
        chances = (0.4, 0.2, 0.2, 0.2) if viral else (0.1, 0.4, 0.4, 0.1)
        bases = bytes(np.random.default_rng(number).choice(np.frombuffer(b"ACGT", np.uint8), 900, p=chances))
        found.append(
            Genome(f"g{number}", bases, viral, f"unit {number // 2}{'hv'[viral]}", (0, 0, 0, 1, 2)[number // 2 % 5])
        )
    return found
