from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.frames import all_open_rows, measure_frames
from vnp.sequences import chunks as chunks_module
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.frames import FRAME_NAMES, Frames, Reason, count_open, frame_ids, open_frames
from vnp.sequences.reading import read_records

COMPLEMENT = dict(zip("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN", strict=True))
# Few stops, so that frames stay open; then everything that a file may hold.
OPEN = st.text("ACCGG", max_size=60)
ANY = st.text("ACGTRYSWKMBDHVN", max_size=60)
UNKNOWN = st.text("N", max_size=12)
SEQUENCES = st.lists(st.one_of(OPEN, ANY, UNKNOWN), max_size=6)


def find(sequences: list[str], size: int) -> tuple[list[bytes], Chunks, Frames]:
    coded = [sequence.encode() for sequence in sequences]
    chunks = Chunking(size).cut(np.array(list(map(len, coded)), dtype=np.int64))
    return coded, chunks, open_frames(coded, chunks)


def rows_of(names: list[str], sequences: list[str], size: int) -> list[tuple[str, str, str]]:
    _, chunks, frames = find(sequences, size)
    ids = frame_ids(names, chunks, frames)
    return list(zip(ids, frames.nucleotides(), frames.proteins(), strict=True))


@pytest.mark.parametrize("size", [300, 500])
def test_rows_are_those_of_virnucpro(shared: Path, size: int) -> None:
    folder = shared / "goldens" / "frames"
    lines = (folder / f"expected_{size}.tsv").read_text().splitlines()
    assert lines[0] == "id\tnucleotide\tprotein"
    expected = [tuple(line.split("\t")) for line in lines[1:]]
    records = list(read_records(folder / "input.fna"))
    rows = rows_of([r.name for r in records], [r.sequence.decode() for r in records], size)
    assert rows == expected


@given(SEQUENCES, st.integers(3, 40))
@example(["", "A", "AC", "ACG", "ACGC", "ACGCC", "NNN", "NNNA", "ANNN"], 300)
@example(["ACG" * 9, "NNN" * 9 + "A"], 27)
@settings(max_examples=300)
def test_rows_are_those_of_the_plain_loop(sequences: list[str], size: int) -> None:
    names = [f"r{index}" for index in range(len(sequences))]
    assert rows_of(names, sequences, size) == list(map(tuple, all_open_rows(names, sequences, size)))


@given(SEQUENCES, st.sampled_from([300, 500, 20]))
def test_counts_are_those_of_the_rows(sequences: list[str], size: int) -> None:
    coded, chunks, frames = find(sequences, size)
    rows, residues = count_open(coded, chunks)
    assert rows.dtype == np.int8
    assert residues.dtype == np.int32
    assert rows.tolist() == np.bincount(frames.chunk, minlength=len(chunks)).tolist()
    weights = np.bincount(frames.chunk, weights=np.diff(frames.protein_offsets), minlength=len(chunks))
    assert residues.tolist() == weights.astype(int).tolist()


@given(SEQUENCES, st.integers(3, 40))
def test_positions_point_at_the_dna(sequences: list[str], size: int) -> None:
    coded, chunks, frames = find(sequences, size)
    for row, dna in enumerate(frames.nucleotides()):
        record = coded[chunks.sequence[frames.chunk[row]]].decode()
        there = record[frames.start[row] : frames.end[row]]
        if FRAME_NAMES[frames.frame[row]].startswith("R"):
            there = "".join(COMPLEMENT[base] for base in reversed(there))
        assert there == dna


@given(SEQUENCES, st.integers(3, 40), st.integers(0, 20), st.integers(1, 20))
def test_a_part_of_the_chunks_gives_a_part_of_the_rows(sequences: list[str], size: int, first: int, count: int) -> None:
    coded, chunks, frames = find(sequences, size)
    part = open_frames(coded, chunks.slice(first, first + count))
    inside = (frames.chunk >= first) & (frames.chunk < first + count)
    assert part.proteins() == [p for p, keep in zip(frames.proteins(), inside, strict=True) if keep]
    assert (part.chunk + first).tolist() == frames.chunk[inside].tolist()
    assert part.start.tolist() == frames.start[inside].tolist()


@given(SEQUENCES, st.integers(3, 40))
def test_the_size_of_a_block_does_not_matter(sequences: list[str], size: int) -> None:
    _, _, whole = find(sequences, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks_module, "BLOCK_BASES", 50)
        _, _, small = find(sequences, size)
    for name in Frames.__slots__:
        a, b = getattr(whole, name), getattr(small, name)
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()


def test_a_codon_with_an_ambiguous_base_is_x() -> None:
    rows = {name: (dna, protein) for name, dna, protein in rows_of(["r"], ["ATGNCCRTGA"], 300)}
    assert rows["r_chunk_1F1"] == ("ATGNCCRTGA", "MXX")
    assert rows["r_chunk_1R1"] == ("TCAYGGNCAT", "SXX")


def test_every_ambiguity_code_is_complemented() -> None:
    rows = rows_of(["r"], ["ACG" + "ACGTRYSWKMBDHVN" + "GCC"], 300)
    dna = {name: text for name, text, _ in rows}
    assert dna["r_chunk_1R1"] == "GGC" + "NBDHVKMWSRYACGT" + "CGT"


def test_reasons() -> None:
    _, chunks, frames = find(["AC", "NNNNNN", "TAATAATAATTATTATTA", "ACGACG", "N"], 300)
    assert [Reason(value) for value in frames.reason] == [
        Reason.TOO_SHORT,
        Reason.ONLY_AMBIGUOUS,
        Reason.HAS_ROWS,
        Reason.HAS_ROWS,
        Reason.TOO_SHORT,
    ]
    assert set(frames.ambiguous[:, 0].tolist()) == {1}
    assert len(frames.ambiguous) == 6
    assert len(chunks) == 5


def test_a_chunk_with_a_stop_in_every_frame_has_no_row() -> None:
    stops = "TAAATAAATAATTATTTATTTA"
    _, _, frames = find([stops], 300)
    assert len(frames) == 0
    assert frames.reason.tolist() == [Reason.NO_OPEN_FRAME]
    assert Reason.NO_OPEN_FRAME.text() == "no open frame"


def test_nothing_gives_nothing() -> None:
    _, chunks, frames = find([], 300)
    assert (len(chunks), len(frames), frames.proteins(), np.diff(frames.nucleotide_offsets).tolist()) == (0, 0, [], [])
    assert [part.tolist() for part in count_open([], chunks)] == [[], []]


def test_every_codon_is_translated_by_the_standard_code() -> None:
    expected = {"GCN": "A", "TGY": "C", "ATG": "M", "TGG": "W", "AGR": "R", "AGY": "S", "ATH": "I", "CTN": "L"}
    letters = {"N": "ACGT", "Y": "CT", "R": "AG", "H": "ACT"}
    for pattern, residue in expected.items():
        for last in letters.get(pattern[2], pattern[2]):
            rows = rows_of(["r"], [pattern[:2] + last], 300)
            assert rows[0][2] == residue


def test_the_benchmark_checks_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = measure_frames(bases=30_000, chunk=300, repeats=1, seed=3)
    assert figures["bases"] == 30_000
    assert min(figures.values()) > 0
    monkeypatch.setattr("benchmarks.frames.all_open_rows", lambda *_: [("r", "ACG", "T")])
    with pytest.raises(RuntimeError, match="differ"):
        measure_frames(bases=30_000, chunk=300, repeats=1, seed=3)


def test_the_benchmark_takes_files(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\n" + "ACGGC" * 400 + "\n>b\n" + "ACC" * 300 + "\n")
    figures = measure_frames(bases=2_500, chunk=500, repeats=1, paths=[tmp_path / "a.fa"])
    assert figures["bases"] == 2_500


def test_a_chunk_far_longer_than_the_others() -> None:
    sequences = ["ACGGC" * 40_000, "ACCGCC" * 3, "ACGRC", *["ACC"] * 200]
    names = [f"r{index}" for index in range(len(sequences))]
    expected = list(map(tuple, all_open_rows(names, sequences, 1_000_000)))
    assert rows_of(names, sequences, 1_000_000) == expected
