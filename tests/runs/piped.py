"""Inputs and runs of them, for tests of the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.making import (
    coding,
    dna,
    plan_run,
    small_blocks,
    write_fasta,
    write_fastq,
)
from vnp.runs.request import Run
from vnp.sequences.samplesheet import InputFile


def records(seed: int = 0) -> list[tuple[str, str]]:
    """Long and short records, some without a row, two that cannot be used."""
    made = [(f"c{i}", coding(150 + 211 * i, seed + i)) for i in range(8)]
    made += [(f"d{i}", dna(900, seed + 50 + i)) for i in range(4)]
    made += [
        ("empty", ""),
        ("n", "N" * 700),
        ("gap", "ACGT-ACGTACGTACGTACGTACGTAC"),
        ("tiny", "AC"),
        ("amb", coding(600, 3)[:-150] + "N" * 150),
    ]
    return [*made, ("last", coding(400, 9))]


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    return [
        InputFile(write_fasta(tmp_path / "a.fa", records()), 1, "g"),
        InputFile(write_fasta(tmp_path / "b.fa.gz", [(f"z{n}", s) for n, s in records(70)]), 0),
        InputFile(write_fastq(tmp_path / "c.fq", [(f"q{i}", coding(150, i)) for i in range(30)])),
    ]


@pytest.fixture
def run(tmp_path: Path, files: list[InputFile]) -> Run:
    return small_blocks(plan_run(tmp_path / "run", files), 10)
