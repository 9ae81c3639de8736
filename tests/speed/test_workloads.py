from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from vnp.errors import InputError
from vnp.speed.workloads import default_workloads, dna_tokens, file_workload, sample_genomes, whole_proteins


def test_frames_are_as_long_as_the_chunks_allow() -> None:
    found = {each.name: each.lengths for each in default_workloads(dna=False, tokens=30_000)}
    assert list(found) == [
        "reads of 150 bases",
        "chunks of 300 bases",
        "chunks of 500 bases",
        "100 residues",
        "whole proteins, 30 to 1,000 residues",
    ]
    # A read of 150 bases has 49 or 50 codons in a frame, and two special tokens come on top.
    assert set(found["reads of 150 bases"].tolist()) == {51, 52}
    assert set(found["chunks of 300 bases"].tolist()) <= set(range(3, 103))
    assert np.median(found["chunks of 300 bases"]) >= 101
    assert found["chunks of 500 bases"].max() == 168
    assert set(found["100 residues"].tolist()) == {102}
    assert (
        found["whole proteins, 30 to 1,000 residues"].min(),
        found["whole proteins, 30 to 1,000 residues"].max(),
    ) == (
        32,
        1002,
    )


@pytest.mark.parametrize("dna", [False, True])
def test_about_as_many_tokens_as_asked_and_the_same_every_time(dna: bool) -> None:
    first = default_workloads(dna=dna, tokens=20_000, seed=3)
    again = default_workloads(dna=dna, tokens=20_000, seed=3)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.lengths, other.lengths)
        assert abs(one.tokens - 20_000) < 1_500


def test_few_are_fewer() -> None:
    assert len(default_workloads(dna=False, tokens=1000, few=True)) == 3
    assert len(default_workloads(dna=True, tokens=1000, few=True)) == 2
    assert len(default_workloads(dna=True, tokens=1000)) == 3


def test_a_single_token_still_gives_a_sequence() -> None:
    assert all(len(each.lengths) >= 1 for each in default_workloads(dna=False, tokens=1))


def test_prefixes_are_like_the_whole() -> None:
    lengths = whole_proteins(400_000, seed=1)
    assert abs(lengths[:300].mean() / lengths.mean() - 1) < 0.2
    assert 250 <= np.median(lengths) <= 290


def test_dna_tokens() -> None:
    assert dna_tokens(np.array([1, 150, 300, 500])).tolist() == [3, 33, 63, 104]


def test_sample() -> None:
    genomes = sample_genomes()
    assert len(genomes) > 10
    assert all(set(genome) <= set(b"ACGTRYSWKMBDHVN") for genome in genomes)


@pytest.mark.parametrize("packed", [False, True])
def test_lengths_of_a_file(tmp_path: Path, packed: bool) -> None:
    text = b">a some words\nMKT\nAYI\r\n\n>b\nM\n>empty\n>c\n" + b"A" * 70_000
    path = tmp_path / ("p.faa.gz" if packed else "p.faa")
    path.write_bytes(gzip.compress(text) if packed else text)
    found = file_workload(path, dna=False, tokens=70_011)
    assert sorted(found.lengths.tolist()) == [3, 8, 70_002]
    assert found.name == path.name
    in_bases = file_workload(path, dna=True, tokens=14_000)
    assert in_bases.lengths.max() == 14_288


def test_a_file_with_few_sequences_is_drawn_from_again(tmp_path: Path) -> None:
    path = tmp_path / "p.faa"
    path.write_text(">a\nMKTAYI\n>b\nMKTAYIAK\n")
    found = file_workload(path, dna=False, tokens=900)
    assert len(found.lengths) == 100
    assert found.span == "8 to 10 tokens"


@pytest.mark.parametrize("text", ["", "MKT\n>a\nMK\n", ">a\n>b\n"])
def test_what_is_no_fasta_of_sequences(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.faa"
    path.write_text(text)
    with pytest.raises(InputError, match=r"p\.faa"):
        file_workload(path, dna=False, tokens=100)
