from __future__ import annotations

import gzip
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from vnp.encoders import Encoder, from_folder, load
from vnp.encoders.registry import Launched
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY, DnabertTokenizer
from vnp.errors import FeatureError, InputError, RunExistsError, UsageError, WeightsError
from vnp.virnucpro import extract_dnabert_s, extract_fast_esm, merge_data

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def esm_folder(shared: Path) -> Path:
    return shared / "goldens/fastesm2_tiny"


@pytest.fixture(scope="module")
def esm(esm_folder: Path) -> Encoder:
    return from_folder(esm_folder)


@pytest.fixture(scope="module")
def dnabert(shared: Path) -> Encoder:
    return from_folder(shared / "goldens/dnabert_s_tiny")


@pytest.fixture(scope="module")
def bpe(shared: Path) -> DnabertTokenizer:
    return DnabertTokenizer((shared / "data/tokenizers/dnabert_s/tokenizer.dcvbin-padded2000.json").read_text())


def fasta(path: Path, sequences: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    return path


def proteins(count: int, seed: int = 0) -> dict[str, str]:
    rng = random.Random(seed)
    return {f"seq_chunk_{i}F1": "".join(rng.choices(RESIDUES, k=rng.randint(1, 120))) for i in range(count)}


def loaded(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", torch.load(path, weights_only=True))


class Broken:
    """Stands where nothing may be embedded again."""

    def __init__(self, like: Encoder) -> None:
        self.spec, self.width, self.precision = like.spec, like.width, like.precision
        self.token_budget: int | None = None
        self.events: list[str] = []
        self.kernel, self.tokens_read = like.kernel, 0

    def prepare(self, sequences: Sequence[str]) -> Sequence[str]:
        return sequences

    def embed(self, sequences: Sequence[str]) -> np.ndarray:
        raise AssertionError(f"{len(sequences)} sequences were embedded again")

    def launch(self, work: Sequence[str]) -> Launched:
        raise AssertionError(f"{len(work)} sequences were embedded again")

    def token_counts(self, sequences: Sequence[str]) -> np.ndarray:
        raise AssertionError


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


class TestResume:
    def test_what_is_there_is_read_and_not_made_again(self, tmp_path: Path) -> None:
        source, out = fasta(tmp_path / "x.faa", proteins(8)), tmp_path / "x.pt"
        first = extract_fast_esm(source, out, "kmer")
        before = out.stat().st_mtime_ns
        second = extract_fast_esm(source, out, Broken(load("kmer", molecule="protein")))
        assert out.stat().st_mtime_ns == before
        assert second[0] == first[0]
        assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))
        dna, made = fasta(tmp_path / "x.fa", {"a": "ACGTACGT", "b": "ACG"}), tmp_path / "y.pt"
        assert extract_dnabert_s(dna, made, model="kmer") == extract_dnabert_s(
            dna, made, model=Broken(load("kmer", molecule="dna"))
        )

    def test_virnucpros_own_order_is_accepted(self, tmp_path: Path) -> None:
        sequences = proteins(4)
        out = tmp_path / "x.pt"
        torch.save({"proteins": [*sequences][::-1], "data": [torch.full((1280,), float(i)) for i in range(4)]}, out)
        names, data = extract_fast_esm(fasta(tmp_path / "x.faa", sequences), out, "kmer")
        assert names == [*sequences][::-1]
        assert [float(row[0]) for row in data] == [0, 1, 2, 3]

    def test_other_sequences_are_refused(self, tmp_path: Path) -> None:
        out = tmp_path / "x.pt"
        extract_fast_esm(fasta(tmp_path / "x.faa", {"a": "MKT", "b": "MM"}), out, "kmer")
        before = out.read_bytes()
        with pytest.raises(FeatureError, match=r"'c' is in .*y\.faa and not in .*x\.pt"):
            extract_fast_esm(fasta(tmp_path / "y.faa", {"a": "MKT", "b": "MM", "c": "MA"}), out, "kmer")
        with pytest.raises(FeatureError, match=r"'b' is in .*x\.pt and not in .*z\.faa"):
            extract_fast_esm(fasta(tmp_path / "z.faa", {"a": "MKT"}), out, "kmer")
        assert out.read_bytes() == before

    def test_another_width_is_refused(self, esm: Encoder, esm_folder: Path, tmp_path: Path) -> None:
        source, out = fasta(tmp_path / "x.faa", proteins(3)), tmp_path / "x.pt"
        extract_fast_esm(source, out, esm)
        for model in (None, "kmer", "fastesm2_650"):
            with pytest.raises(FeatureError, match=r"x\.pt: .*expected 1280, got 80"):
                extract_fast_esm(source, out, model)
        assert len(extract_fast_esm(source, out, esm_folder)[0]) == 3

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({"data": []}, "has no 'proteins'; it holds 'data'"),
            ({"proteins": ["a", "b"], "data": [torch.zeros(4)]}, "2 ids in 'proteins' and 1 rows"),
            ({"proteins": ["a", "a"], "data": [torch.zeros(4)] * 2}, "the id 'a' is there 2 times"),
            ({"proteins": ["a", "b"], "data": [torch.zeros(4), torch.zeros(5)]}, r"'b': expected \(4,\), got \(5,\)"),
            ({"proteins": ["a"], "data": [torch.zeros(1, 4)]}, r"'a': expected one dimension, got \(1, 4\)"),
            ({"proteins": ["a"], "data": [torch.tensor([0.0, float("nan")])]}, "'a' holds NaN or infinity"),
            ({"proteins": ["a"], "data": ["text"]}, "'a' is not a list of numbers"),
            ({"proteins": "a", "data": [torch.zeros(4)]}, "must be a list of ids"),
            ([1, 2], "holds a list; expected a dictionary"),
        ],
    )
    def test_faulty_files_are_named(self, content: Any, words: str, tmp_path: Path) -> None:
        out = tmp_path / "x.pt"
        torch.save(content, out)
        with pytest.raises(FeatureError, match=words) as caught:
            extract_fast_esm(fasta(tmp_path / "x.faa", {"a": "MKT"}), out, "kmer")
        assert str(out) in str(caught.value)

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        source, out = fasta(tmp_path / "x.faa", proteins(30)), tmp_path / "x.pt"
        extract_fast_esm(source, out, "kmer")
        whole = out.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], b"no such thing"):
            out.write_bytes(damaged)
            with pytest.raises(FeatureError, match=r"x\.pt cannot be read"):
                extract_fast_esm(source, out, "kmer")

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "was run"),)

        out = tmp_path / "x.pt"
        torch.save({"proteins": ["a"], "data": [Bomb()]}, out)
        with pytest.raises(FeatureError, match="cannot be read"):
            extract_fast_esm(fasta(tmp_path / "x.faa", {"a": "MKT"}), out, "kmer")
        assert not (tmp_path / "was run").exists()


class TestMerge:
    IDS = ("a_chunk_1F1", "a_chunk_1R2", "b_chunk_1F1")

    def write(
        self, folder: Path, *, dna: Sequence[str] = IDS, protein: Sequence[str] = IDS, widths: tuple[int, int] = (4, 3)
    ) -> tuple[Path, Path]:
        values = {name: float(i) for i, name in enumerate(self.IDS)}
        pair = folder / "x_DNABERT_S.pt", folder / "x_ESM.pt"
        torch.save(
            {
                "nucleotide": list(dna),
                "data": [{"label": name, "mean_representation": [values.get(name, 9.0)] * widths[0]} for name in dna],
            },
            pair[0],
        )
        rows = [torch.full((widths[1],), 10 + values.get(name, 9.0), dtype=torch.float16) for name in protein]
        torch.save({"proteins": list(protein), "data": rows}, pair[1])
        return pair

    @pytest.mark.parametrize(("data_type", "labels"), [("viral", [1]), ("host", [0]), (None, None)])
    def test_rows_follow_their_ids(self, data_type: str | None, labels: list[int] | None, tmp_path: Path) -> None:
        dna, protein = self.write(tmp_path, protein=self.IDS[::-1])
        merged = merge_data(str(dna), str(protein), str(tmp_path / "m.pt"), data_type)
        stored = loaded(tmp_path / "m.pt")
        assert list(stored) == (["ids", "data", "labels"] if labels else ["ids", "data"])
        assert stored["ids"] == merged["ids"] == list(self.IDS)
        assert stored.get("labels") == labels
        assert stored["data"].dtype == torch.float32
        expected = torch.tensor([[i, i, i, i, 10 + i, 10 + i, 10 + i] for i in range(3)], dtype=torch.float32)
        assert torch.equal(stored["data"], expected)
        assert torch.equal(merged["data"], expected)

    def test_what_the_extractors_write_can_be_merged(self, esm: Encoder, tmp_path: Path) -> None:
        sequences = proteins(12)
        bases = {name: "ACGTTGCAAC"[: 3 + i % 7] for i, name in enumerate(reversed(sequences))}
        pair = tmp_path / "d.pt", tmp_path / "p.pt"
        extract_dnabert_s(fasta(tmp_path / "x.fa", bases), pair[0], model="kmer")
        extract_fast_esm(fasta(tmp_path / "x.faa", sequences), pair[1], esm)
        merged = merge_data(*pair, tmp_path / "m.pt", "viral")
        assert merged["ids"] == list(bases)
        assert merged["data"].shape == (12, 768 + 80)
        dna = load("kmer", molecule="dna").embed(list(bases.values()))
        protein = esm.embed([sequences[name] for name in bases])
        np.testing.assert_allclose(merged["data"].numpy(), np.concatenate([dna, protein], axis=1), atol=1e-6)

    def test_a_sequence_missing_on_one_side_is_an_error(self, tmp_path: Path) -> None:
        for options, words in (
            ({"protein": self.IDS[:2]}, r"1 of 3 sequences of .*DNABERT_S\.pt are missing in .*ESM\.pt.*'b_chunk_1F1'"),
            ({"dna": self.IDS[1:]}, r"1 of 3 sequences of .*ESM\.pt are missing in .*DNABERT_S\.pt.*'a_chunk_1F1'"),
        ):
            pair = self.write(tmp_path, **cast("Any", options))
            with pytest.raises(FeatureError, match=words):
                merge_data(*pair, tmp_path / "m.pt")
            assert not (tmp_path / "m.pt").exists()

    def test_rows_under_another_ids_label_are_refused(self, tmp_path: Path) -> None:
        dna, protein = self.write(tmp_path)
        stored = loaded(dna)
        stored["data"].reverse()
        torch.save(stored, dna)
        with pytest.raises(FeatureError, match="item 0 of 'data' is not the mean_representation of 'a_chunk_1F1'"):
            merge_data(dna, protein, tmp_path / "m.pt")

    def test_what_is_there_stays(self, tmp_path: Path) -> None:
        pair, out = self.write(tmp_path), tmp_path / "m.pt"
        merge_data(*pair, out, "viral")
        before = out.stat().st_mtime_ns, out.read_bytes()
        merge_data(*pair, out, "viral")
        with pytest.raises(
            RunExistsError, match=r"m\.pt is there and holds something else.*labels \[0\].*labels \[1\]"
        ):
            merge_data(*pair, out, "host")
        with pytest.raises(RunExistsError, match=r"expected \(3, 8\).*got \(3, 7\)"):
            merge_data(*self.write(tmp_path, widths=(4, 4)), out, "viral")
        assert (out.stat().st_mtime_ns, out.read_bytes()) == before

    def test_unknown_data_types_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="'virus'; use 'viral', 'host' or None"):
            merge_data(*self.write(tmp_path), tmp_path / "m.pt", "virus")

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        dna, _ = self.write(tmp_path)
        with pytest.raises(FeatureError, match=r"none\.pt: there is no such file"):
            merge_data(dna, tmp_path / "none.pt", tmp_path / "m.pt")
        with pytest.raises(FeatureError, match="has no 'proteins'"):
            merge_data(dna, dna, tmp_path / "m.pt")


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
