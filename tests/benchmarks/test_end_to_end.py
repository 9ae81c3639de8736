"""Folders with random weights and reads are such that extract runs on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.end_to_end import learn_tokens
from vnp.encoders import describe, load
from vnp.encoders.tokens.tokenizers import DnabertTokenizer
from vnp.errors import WeightsError
from vnp.sequences.reading import read_records
from vnp.speed.runs import write_reads
from vnp.speed.workloads import find_model, sample_genomes


def test_encoders_load(thin_weights: Path) -> None:
    for name, molecule, text in (("fastesm2_650", "protein", "MKTAYIAK"), ("dnabert_s", "dna", "ACGTTGCAACGTAGCTAG")):
        assert describe(name, molecule, thin_weights)["name"] == name
        assert load(name, weights=thin_weights, device="cpu").embed([text]).shape == (
            1,
            1280 if molecule == "protein" else 768,
        )


def test_real_weights_are_measured_where_they_are_named(thin_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = find_model("fastesm2_650", "cpu", weights=thin_weights, full=False)
    assert subject.source == f"weights of {thin_weights / 'fastesm2_650'}"
    assert subject.size == "1 layers of 1280"
    text = "MKTAYIAKQRQISFVK"
    own = load("fastesm2_650", weights=thin_weights, device="cpu")
    ids = own._tokenizer.encode_batch([text])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(subject.encoder("fp32").embed_ids(ids), own.embed([text]))
    assert not subject.is_random
    assert find_model("esm2_3b", "cpu", weights=thin_weights, full=False).is_random
    with pytest.raises(WeightsError, match="fastesm2_650"):
        find_model("fastesm2_650", "cpu", weights=thin_weights / "nothing", full=False)
    monkeypatch.setenv("VNP_WEIGHTS", str(thin_weights / "nothing"))
    assert find_model("dnabert_s", "cpu", weights=None, full=False).source == "random weights, small"


def test_tokens_are_as_long_as_the_published_ones() -> None:
    genomes = sample_genomes()
    tokenizer = DnabertTokenizer(learn_tokens(genomes))
    pieces = [genome[:500].decode() for genome in genomes]
    ids = tokenizer.encode_batch(pieces)
    assert all(each[0] == 1 and each[-1] == 2 for each in ids)
    assert max(each.max() for each in ids) > 2000
    assert 4 < sum(map(len, pieces)) / sum(len(each) - 2 for each in ids) < 6


def test_reads(tmp_path: Path) -> None:
    for name in ("a.fa", "b.fa"):
        write_reads(tmp_path / name, 400, seed=5)
    assert (tmp_path / "a.fa").read_bytes() == (tmp_path / "b.fa").read_bytes()
    write_reads(tmp_path / "c.fa", 400, seed=6)
    assert (tmp_path / "a.fa").read_bytes() != (tmp_path / "c.fa").read_bytes()
    records = list(read_records(tmp_path / "a.fa"))
    assert len(records) == 400
    assert {len(each.sequence) for each in records} == {150}
    assert all(each.problem is None for each in records)
    assert len({each.sequence for each in records}) > 390


def test_reads_are_the_genomes_with_some_bases_replaced(tmp_path: Path) -> None:
    genomes = b"|".join(sample_genomes())
    other = genomes.translate(bytes.maketrans(b"ACGT", b"TGCA"))[::-1]
    write_reads(tmp_path / "exact.fa", 100, substitutions=0.0)
    exact = [each.sequence for each in read_records(tmp_path / "exact.fa")]
    assert all(read in genomes or read in other for read in exact)
    assert 20 < sum(read in genomes for read in exact) < 80
    write_reads(tmp_path / "some.fa", 1000, substitutions=0.01)
    write_reads(tmp_path / "none.fa", 1000, substitutions=0.0)
    pairs = zip(read_records(tmp_path / "some.fa"), read_records(tmp_path / "none.fa"), strict=True)
    differ = [sum(a != b for a, b in zip(one.sequence, two.sequence, strict=True)) for one, two in pairs]
    assert 0.008 < np.mean(differ) / 150 < 0.012
