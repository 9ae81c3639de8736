from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from jobs.doctor import main as doctor
from vnp.doctor import engine
from vnp.doctor import known as room
from vnp.doctor.known import Answer, compare, frames, known, known_answers, random_proteins
from vnp.encoders import from_folder
from vnp.encoders.models.bare import random_model
from vnp.encoders.spec import spec, weighted
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY
from vnp.virnucpro import merge_data

FOLDER = "goldens/known_answers"


@pytest.fixture
def published(shared: Path) -> Path:
    folder = shared / FOLDER
    if not folder.is_dir():
        pytest.skip(f"no known answers: {folder} does not exist")
    return folder


def kept(answer: Answer, rows: Any) -> np.ndarray:
    return np.asarray(rows, np.float64)[:, answer.first :: answer.step]


def fasta(path: Path) -> dict[str, str]:
    lines = path.read_text().split()
    return {name[1:]: sequence for name, sequence in zip(lines[::2], lines[1::2], strict=True)}


@pytest.mark.parametrize("name", ["esm2_650m", "esm2_3b"])
def test_the_numbers_are_the_means_over_residues_that_the_official_code_gave(name: str, published: Path) -> None:
    golden = load_file(published / f"{name}.safetensors")
    assert golden["input__attention_mask"].sum(1).tolist() == [len(one) + 2 for one in random_proteins()]
    answer = known_answers(name)[0]
    hidden, mask = golden["output__last_hidden_state"].double(), golden["residue_mask"]
    means = torch.stack([one[keep].mean(0) for one, keep in zip(hidden, mask, strict=True)])
    assert means.shape[1] == spec(name).width
    np.testing.assert_allclose(np.array(answer.rows), kept(answer, means), rtol=6e-4)


def test_the_sequences_are_those_that_the_official_code_read(published: Path) -> None:
    ids = load_file(published / "esm2_650m.safetensors")["input__input_ids"].tolist()
    assert ["".join(ESM2_VOCABULARY[i] for i in row if i > 3) for row in ids] == random_proteins()


def test_the_numbers_and_frames_are_those_that_virnucpro_left(published: Path) -> None:
    folder = published / "virnucpro_broad"
    dna, protein = fasta(folder / "identified_nucleotide.fa"), fasta(folder / "identified_protein.faa")
    assert (frames("dna"), frames("protein")) == (list(dna.values()), list(protein.values()))
    merged = torch.load(folder / "output_1_merged.pt", weights_only=True)
    rows = dict(zip(merged["ids"], merged["data"], strict=True))
    (of_dna,) = known_answers("dnabert_s")
    of_protein = known_answers("esm2_3b")[1]
    both = torch.stack([rows[name] for name in dna])
    np.testing.assert_allclose(np.array(of_dna.rows), kept(of_dna, both[:, :768]), rtol=6e-4)
    np.testing.assert_allclose(np.array(of_protein.rows), kept(of_protein, both[:, 768:]), rtol=6e-4)


def test_merge_data_gives_the_file_that_virnucpro_left(published: Path, tmp_path: Path) -> None:
    folder = published / "virnucpro_broad"
    merged = merge_data(folder / "output_1_DNABERT_S.pt", folder / "output_1_ESM.pt", tmp_path / "merged.pt")
    expected = torch.load(folder / "output_1_merged.pt", weights_only=True)
    written = torch.load(tmp_path / "merged.pt", weights_only=True)
    for found in (merged, written):
        assert list(found["ids"]) == list(expected["ids"])
        assert torch.equal(found["data"], expected["data"])


def test_what_is_in_the_package() -> None:
    found = {one.name: known_answers(one.name) for one in weighted()}
    assert {name for name, answers in found.items() if answers} == {"esm2_650m", "esm2_3b", "dnabert_s"}
    for name, answers in found.items():
        for one in answers:
            count = len(range(one.first, spec(name).width, one.step))
            assert [len(row) for row in one.rows] == [count] * (3 if one.sequences == "proteins" else 4)
    assert sum(len(row) for answers in found.values() for one in answers for row in one.rows) < 500


@pytest.fixture
def official(shared: Path) -> Callable[[bool], list[Answer]]:
    """What transformers' ESM2 makes of the fixed proteins with the tiny weights."""
    from transformers import EsmModel

    model = EsmModel.from_pretrained(shared / "goldens/esm2_tiny", add_pooling_layer=False)

    model.eval()  # type: ignore[no-untyped-call]

    def answers(special: bool) -> list[Answer]:
        rows = []
        for protein in random_proteins():
            ids = [0, *(ESM2_VOCABULARY.index(letter) for letter in protein), 2]
            with torch.inference_mode():
                hidden = model(input_ids=torch.tensor([ids]))[0][0]
            mean = (hidden if special else hidden[1:-1]).mean(0)
            rows.append(tuple(float(f"{value:.4g}") for value in mean[3::5].tolist()))
        return [Answer("tiny", "transformers", "fp32", "proteins", 3, 5, tuple(rows))]

    return answers


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_tiny_weights_give_what_the_official_code_gives(
    precision: str, official: Callable[[bool], list[Answer]], shared: Path
) -> None:
    finding = compare("tiny", from_folder(shared / "goldens/esm2_tiny", precision=precision), official(False))
    assert finding.state == "ok", finding
    assert f"in {precision}, published in fp32 by transformers" in finding.found


def test_other_weights_and_another_mean_fail(official: Callable[[bool], list[Answer]], shared: Path) -> None:
    right = official(False)
    assert compare("tiny", from_folder(shared / "goldens/esm2_tiny"), official(True)).state == "fails"
    assert compare("tiny", from_folder(shared / "goldens/fastesm2_tiny"), right).state == "fails"
    one_wrong = dataclasses.replace(right[0], rows=(*right[0].rows[:2], right[0].rows[0]))
    finding = compare("tiny", from_folder(shared / "goldens/esm2_tiny"), [*right, one_wrong])
    assert finding.state == "fails"
    assert "do not use these weights" in finding.mend


@pytest.fixture
def random_dnabert(shared: Path, tmp_path: Path) -> Path:
    """A DNABERT-S of the right width and tokenizer, with one layer of random weights."""
    folder = tmp_path / "weights" / "dnabert_s"
    folder.mkdir(parents=True)
    model = random_model("cpu", spec("dnabert_s"), full=True, layers=1)
    tokenizers = shared / "data/tokenizers"
    config = json.loads((tokenizers / "dnabert_s/config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    (folder / "tokenizer.json").write_bytes((tokenizers / "dnabert2/tokenizer.json").read_bytes())
    save_file(dict(model.state), folder / "model.safetensors")
    return folder


def test_random_weights_fail(random_dnabert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "gpus_and_kernels", lambda: [])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(doctor, ["--known", "--weights", str(random_dnabert.parent), "--json"])
    rows = {row["about"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 1
    assert rows["known answers dnabert_s"]["state"] == "fails"
    assert "over 4 sequences in f" in rows["known answers dnabert_s"]["found"]
    assert rows["known answers esm2_650m"]["state"] == rows["known answers esm2_3b"]["state"] == "not here"
    assert "nobody published" in rows["known answers fastesm2_650"]["found"]
    monkeypatch.setattr(room, "available_memory", lambda: 10_000_000)
    finding = known(spec("dnabert_s"), random_dnabert)
    assert (finding.state, "0.0 GB are free" in finding.found) == ("warning", True)


def test_weights_that_are_needed_and_missing_or_damaged_fail(random_dnabert: Path, tmp_path: Path) -> None:
    finding = known(spec("esm2_650m"), random_dnabert.parent)
    assert (finding.state, "no weights for esm2_650m" in finding.found) == ("fails", True)
    with (random_dnabert / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    finding = known(spec("dnabert_s"), random_dnabert, needed=False)
    assert (finding.state, "jobs.fetch dnabert_s" in finding.mend) == ("fails", True)
