"""Files of VirNucPro's functions: what is there is gone on from, read and merged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.virnucpro.making import Broken, esm, esm_folder, fasta, loaded, proteins
from vnp.encoders import Encoder, load
from vnp.errors import FeatureError, RunExistsError, UsageError
from vnp.virnucpro import extract_dnabert_s, extract_fast_esm, merge_data

__all__ = ["esm", "esm_folder"]


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
