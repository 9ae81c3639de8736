from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import dataset as benchmark
from benchmarks.dataset import measure_index
from benchmarks.frames import open_rows
from tests.datasets.genbank import genbank, genome_with_genes, random_protein


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    path = tmp_path / "genome.gb"
    text = ""
    for number in range(3):
        bases, features, _ = genome_with_genes([random_protein(200, 10 * number + i) for i in range(9)], seed=number)
        text += genbank(f"V{number}", bases[:400] + "N" + bases[401:], features)
    text += genbank("V9", "ACGT" * 30, length=99)
    path.write_text(text)
    return path


def identified(name: str, sequence: str, proteins: list[str], size: int) -> int:
    """Rows as VirNucPro's training set has them: chunks without ambiguous bases, frames inside a protein."""
    return sum(
        any(row.protein in protein for protein in proteins)
        for start in range(0, len(sequence), size)
        if not set(sequence[start : start + size]) - set("ACGT")
        for row in open_rows(name, sequence[start : start + size], size)
    )


def test_figures(genome: Path) -> None:
    figures = measure_index(genome, chunk=90, scan_chunks=20)
    assert figures.records == 4
    assert (figures.proteins, figures.mismatched) == (24, 3), "the N lies in a gene of each record"
    assert figures.chunks > 3 * 60
    assert 0 < figures.annotated < figures.frames
    assert 0 < figures.scanned_frames < figures.frames
    assert figures.scanned_chunks <= 60
    assert figures.read_peak_bytes is None or figures.read_peak_bytes >= 0


def test_frames_are_those_of_virnucpro(tmp_path: Path) -> None:
    proteins = [random_protein(150, seed) for seed in range(4)]
    bases, features, _ = genome_with_genes(proteins)
    size = 60
    bases = bases[: len(bases) // size * size]  # then chunks do not overlap
    path = tmp_path / "genome.gb"
    path.write_text(genbank("V1", bases, features[:-1]))
    figures = measure_index(path, chunk=size)
    assert figures.annotated == identified("V1", bases, proteins[:-1], size)
    assert figures.annotated > 10
    assert figures.scanned_chunks == figures.chunks


def test_sides_that_differ_are_an_error(genome: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_scanned", lambda record, frames, rows: np.zeros(len(rows), dtype=np.bool_))
    with pytest.raises(RuntimeError, match=r"differ in record V0\.1"):
        measure_index(genome, chunk=90)
