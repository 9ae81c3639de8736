from __future__ import annotations

import gzip
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.virnucpro.making import RESIDUES, Broken, esm, esm_folder, fasta, loaded, proteins
from vnp.encoders import Encoder, from_folder, load
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY, DnabertTokenizer
from vnp.errors import InputError, UsageError, WeightsError
from vnp.virnucpro import extract_dnabert_s, extract_fast_esm, merge_data

__all__ = ["esm", "esm_folder"]


@pytest.fixture(scope="module")
def dnabert(shared: Path) -> Encoder:
    return from_folder(shared / "goldens/dnabert_s_tiny")


@pytest.fixture(scope="module")
def bpe(shared: Path) -> DnabertTokenizer:
    return DnabertTokenizer((shared / "data/tokenizers/dnabert_s/tokenizer.dcvbin-padded2000.json").read_text())


class TestProteins:
    def test_rows_are_the_reference_means_in_the_order_of_the_file(
        self, esm: Encoder, esm_folder: Path, tmp_path: Path
    ) -> None:
        golden = load_file(esm_folder / "golden.safetensors")
        letters = {i: token for i, token in enumerate(ESM2_VOCABULARY) if len(token) == 1 and token.isalpha()}
        expected = {}
        sequences = {}
        for key, ids in golden.items():
            inner = ids[1:-1].tolist() if key.startswith("ids_") else [-1]
            if inner and all(token in letters for token in inner):
                sequences[key] = "".join(letters[token] for token in inner)
                expected[key] = golden[key.replace("ids_", "mean_")]
        assert len(sequences) >= 3
        out = tmp_path / "x_ESM.pt"
        names, data = extract_fast_esm(fasta(tmp_path / "x.faa", sequences), out, esm, truncation_seq_length=None)
        assert names == list(sequences)
        for name, row in zip(names, data, strict=True):
            assert row.dtype == torch.float32
            assert row.shape == (80,)
            np.testing.assert_allclose(row.numpy(), expected[name], atol=1e-5)
        stored = loaded(out)
        assert list(stored) == ["proteins", "data"]
        assert stored["proteins"] == names
        assert all(torch.equal(a, b) for a, b in zip(stored["data"], data, strict=True))

    def test_longer_proteins_are_cut_at_1024_unless_told_otherwise(self, esm: Encoder, tmp_path: Path) -> None:
        rng = random.Random(3)
        long = "".join(rng.choices(RESIDUES, k=1300))
        source = fasta(tmp_path / "x.faa", {"long": long, "cut": long[:1024], "short": long[:50]})
        _, (default, cut, _) = extract_fast_esm(source, model=esm)
        torch.testing.assert_close(default, cut, rtol=0, atol=1e-6)
        _, (whole, _, _) = extract_fast_esm(source, model=esm, truncation_seq_length=None)
        np.testing.assert_allclose(whole.numpy(), esm.embed([long])[0], atol=1e-6)
        assert (whole - default).abs().max() > 1e-3
        _, short = extract_fast_esm(source, model=esm, truncation_seq_length=50)
        torch.testing.assert_close(short[0], short[2], rtol=0, atol=1e-6)

    def test_a_folder_is_loaded_with_the_given_budget(
        self, esm: Encoder, esm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = fasta(tmp_path / "x.faa", proteins(9))
        asked: list[Any] = []

        def spy(folder: str, **options: Any) -> Encoder:
            asked.append(options["token_budget"])
            return from_folder(folder, **{**options, "device": "cpu", "precision": "fp32"})

        monkeypatch.setattr("vnp.virnucpro.functions.from_folder", spy)
        _, from_path = extract_fast_esm(str(source), model=esm_folder)
        _, from_text = extract_fast_esm(source, model=str(esm_folder), toks_per_batch=100)
        _, given = extract_fast_esm(source, model=esm)
        assert asked == [2048, 100]
        for rows in zip(from_path, from_text, given, strict=True):
            torch.testing.assert_close(rows[0], rows[2], rtol=0, atol=1e-6)
            torch.testing.assert_close(rows[1], rows[2], rtol=0, atol=1e-6)

    def test_a_name_is_loaded(self, tmp_path: Path) -> None:
        sequences = proteins(5)
        names, data = extract_fast_esm(fasta(tmp_path / "x.faa", sequences), model="kmer")
        assert names == list(sequences)
        expected = load("kmer", molecule="protein").embed(list(sequences.values()))
        np.testing.assert_array_equal(np.stack([row.numpy() for row in data]), expected)

    def test_without_weights_the_default_says_how_to_get_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VNP_WEIGHTS", str(tmp_path / "none"))
        source = fasta(tmp_path / "x.faa", proteins(1))
        with pytest.raises(WeightsError, match=r"jobs\.fetch fastesm2_650"):
            extract_fast_esm(source)
        with pytest.raises(WeightsError, match=r"jobs\.fetch dnabert_s"):
            extract_dnabert_s(fasta(tmp_path / "x.fa", {"a": "ACGT"}))

    def test_a_tokenizer_of_transformers_can_be_called(self, esm: Encoder, tmp_path: Path) -> None:
        def tokenizer(texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[0, *(ESM2_VOCABULARY.index(letter) for letter in text), 2] for text in texts]}

        source = fasta(tmp_path / "x.faa", proteins(6))
        _, own = extract_fast_esm(source, model=esm)
        _, called = extract_fast_esm(source, model=esm, tokenizer=tokenizer)
        assert all(torch.equal(a, b) for a, b in zip(own, called, strict=True))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"model": torch.nn.Linear(1, 1)}, "Linear is no encoder of vnp.*folder"),
            ({"model": "fastesm"}, "no protein encoder is called 'fastesm'"),
            ({"model": "dnabert_s"}, "no protein encoder is called 'dnabert_s'"),
            ({"model": "kmer", "tokenizer": print}, "leave the tokenizer out"),
            ({"model": "kmer", "toks_per_batch": 0}, "toks_per_batch"),
            ({"model": "kmer", "truncation_seq_length": 0}, "truncation_seq_length"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, options: dict[str, Any], words: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=words):
            extract_fast_esm(fasta(tmp_path / "x.faa", proteins(2)), tmp_path / "x.pt", **options)
        assert not (tmp_path / "x.pt").exists()

    def test_an_encoder_of_the_other_molecule_is_refused(self, dnabert: Encoder, esm: Encoder, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="reads dna, and the file holds protein"):
            extract_fast_esm(fasta(tmp_path / "x.faa", proteins(2)), model=dnabert)
        with pytest.raises(UsageError, match="reads protein, and the file holds dna"):
            extract_dnabert_s(fasta(tmp_path / "x.fa", {"a": "ACGT"}), model=esm)

    def test_something_that_is_no_tokenizer_is_refused(self, esm: Encoder, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="int is no tokenizer"):
            extract_fast_esm(fasta(tmp_path / "x.faa", proteins(2)), model=esm, tokenizer=3)


class TestReading:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"", "empty"),
            (b"MKT\n", "."),
            (b"@a\nMKT\n+\nIII\n", "FASTQ"),
            (b">a\nMKT\n>b\n\n>c\nMM\n", "line 3, record 'b': the record is empty"),
            (b">a\nMKT\n>b\nMK1\n", "line 3, record 'b': invalid letter '1' at residue 3"),
            (b">a x\nMKT\n>b\nMK\n>a y\nMM\n", "line 5, record 'a': the id was used in line 1"),
            (b">a\nMKT\n>\nMK\n", "no name"),
            (b">a\n" + b"ACGTN" * 50 + b"\n", "holds DNA"),
        ],
    )
    def test_bad_protein_files_are_named(self, text: bytes, words: str, tmp_path: Path) -> None:
        source = tmp_path / "x.faa"
        source.write_bytes(text)
        with pytest.raises(InputError, match=words) as caught:
            extract_fast_esm(source, tmp_path / "x.pt", "kmer")
        assert str(source) in str(caught.value)
        assert not (tmp_path / "x.pt").exists()

    def test_missing_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            extract_fast_esm(tmp_path / "none.faa", model="kmer")
        with pytest.raises(InputError, match="no such file"):
            extract_dnabert_s(tmp_path / "none.fa", model="kmer")

    def test_line_ends_case_lines_and_compression_do_not_matter(self, tmp_path: Path) -> None:
        plain = fasta(tmp_path / "x.faa", {"a": "MKTAYIAKQR", "b": "MX*-"})
        names, expected = extract_fast_esm(plain, model="kmer")
        odd = tmp_path / "x.faa.gz"
        odd.write_bytes(gzip.compress(b"\r\n>a first\r\nmktay\r\niakqr\r\n\r\n>b\tsecond\r\nMX*-"))
        found, rows = extract_fast_esm(odd, model="kmer")
        assert found == names == ["a", "b"]
        assert all(torch.equal(a, b) for a, b in zip(rows, expected, strict=True))

    def test_ids_that_are_not_ascii_are_kept(self, tmp_path: Path) -> None:
        names, _ = extract_fast_esm(fasta(tmp_path / "x.faa", {"é_chunk_1F1": "MKT"}), model="kmer")
        assert names == ["é_chunk_1F1"]

    def test_bad_dna_is_named(self, tmp_path: Path) -> None:
        source = fasta(tmp_path / "x.fa", {"a": "ACGT", "b": "AC-T", "c": "ACG"})
        with pytest.raises(InputError, match="line 3, record 'b': invalid letter - at base 3"):
            extract_dnabert_s(source, model="kmer")
        twice = tmp_path / "y.fa"
        twice.write_text(">a\nACGT\n>a\nACGT\n")
        with pytest.raises(InputError, match="line 3, record 'a': the id was used in line 1"):
            extract_dnabert_s(twice, model="kmer")


class TestDna:
    def test_format_and_numbers(self, dnabert: Encoder, bpe: DnabertTokenizer, tmp_path: Path) -> None:
        rng = random.Random(1)
        sequences = {f"s{i}": "".join(rng.choices("ACGT", k=rng.randint(3, 300))) for i in range(7)}
        out = tmp_path / "x_DNABERT_S.pt"
        names, data = extract_dnabert_s(
            fasta(tmp_path / "x.fa", sequences), out, model_loaded=True, tokenizer=bpe, model=dnabert
        )
        stored = loaded(out)
        assert list(stored) == ["nucleotide", "data"]
        assert stored["nucleotide"] == names == list(sequences)
        assert stored["data"] == data
        assert [sorted(item) for item in data] == [["label", "mean_representation"]] * 7
        assert [item["label"] for item in data] == names
        ids = bpe.encode_batch(list(sequences.values()))
        expected = cast("Any", dnabert).embed_ids(ids)
        np.testing.assert_allclose([item["mean_representation"] for item in data], expected, atol=1e-6)

    def test_the_mean_is_over_all_tokens(self, dnabert: Encoder, bpe: DnabertTokenizer, tmp_path: Path) -> None:
        _, data = extract_dnabert_s(fasta(tmp_path / "x.fa", {"a": "ACGTTGCA"}), tokenizer=bpe, model=dnabert)
        (hidden,) = cast("Any", dnabert).hidden(bpe.encode_batch(["ACGTTGCA"]))
        np.testing.assert_allclose(data[0]["mean_representation"], hidden.mean(axis=0), atol=1e-5)

    def test_model_loaded_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="model_loaded"):
            extract_dnabert_s(fasta(tmp_path / "x.fa", {"a": "ACGT"}), model_loaded=True)


FULL_DISK = """
import sys
from pathlib import Path
import torch
from vnp.errors import StorageError
from vnp.export.formats import save
try:
    save({"ids": ["a"], "data": torch.zeros(1000, 1000)}, Path(sys.argv[1]))
except StorageError as error:
    print(error)
    sys.exit(1)
"""


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    target = tmp_path / "x.pt"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(target)], capture_output=True, text=True, preexec_fn=limit, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"writing {target}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    source = fasta(tmp_path / "x.faa", proteins(2))
    with pytest.raises(UsageError, match=r"there is no folder .*none"):
        extract_fast_esm(source, tmp_path / "none/x.pt", Broken(load("kmer", molecule="protein")))
    with pytest.raises(UsageError, match="is a folder"):
        merge_data(source, source, tmp_path)
