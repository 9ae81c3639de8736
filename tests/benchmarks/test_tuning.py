"""What ``benchmarks tuning`` and ``benchmarks learning`` measure, at sizes that a test has time for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import Cases
from benchmarks.learning.measures import classify, kmer_rows, unigram_perplexity
from benchmarks.learning.packed import pack, read_sets
from benchmarks.tuning.checks import check_gradients, made_up
from benchmarks.tuning.speed import measure_ours, operations, table
from tests.jobs.commands import clean, measure
from tests.runs.datasets import Genome, write_dataset
from vnp.encoders.models.bare import random_model
from vnp.encoders.models.kmer import KmerEncoder
from vnp.encoders.spec import spec
from vnp.encoders.tokens.tokenizers import Esm2Tokenizer
from vnp.errors import InputError
from vnp.finetune.language.examples import read_examples
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.recipe import TuningRecipe


def genomes(moved: int = 0) -> list[Genome]:
    """Two dozen, of which viral ones have more A."""
    found = []
    for number in range(24):
        viral = number % 2 == 0
        chances = (0.4, 0.2, 0.2, 0.2) if viral else (0.1, 0.4, 0.4, 0.1)
        bases = bytes(np.random.default_rng(number).choice(np.frombuffer(b"ACGT", np.uint8), 900, p=chances))
        found.append(Genome(f"g{number}", bases, viral, f"unit {number}", (number + moved) // 2 % 3))
    return found


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("cpu", spec("esm2_650m", "protein"), layers=2)
    recipe = TuningRecipe(objective="labels", train="lora")
    lengths = np.array([9, 30, 17, 5])
    assert check_gradients(model, recipe, lengths, compiled=False)["passes"]
    real = TunedEsm2._run

    def wrong(self: TunedEsm2, x: Any, *rest: Any) -> Any:
        # Of packed proteins that are computed again alone.
        out, qkv = real(self, x, *rest)
        return out * (1.01 if self.checkpointing else 1.0), qkv

    monkeypatch.setattr(TunedEsm2, "_run", wrong)
    assert not check_gradients(model, recipe, lengths, compiled=False)["passes"]


def test_operations_are_those_of_the_products() -> None:
    model = random_model("cpu", spec("esm2_650m", "protein"), layers=3)
    sizes = model.sizes
    forward = 2 * sizes.depth * (4 * sizes.width**2 + 2 * sizes.width * sizes.inner)
    attention = 4 * sizes.depth * sizes.width * 50
    assert operations(model, TuningRecipe(train="all"), 50) == pytest.approx(3 * 50 * (forward + attention))
    adapters = 4 * 2 * 2 * 8 * sizes.width * sizes.depth
    spared = 2 * 3 * sizes.width**2
    expected = 50 * (2 * forward - spared + 3 * (attention + adapters))
    assert operations(model, TuningRecipe(train="lora"), 50) == pytest.approx(expected)


def test_speed_is_that_of_whole_steps() -> None:
    model = random_model("cpu", spec("esm2_650m", "protein"), layers=1)
    recipe = TuningRecipe(train="lora", steps=3, tokens=64, warm_up=1)
    found: dict[str, Any] = measure_ours(model, recipe, 10)
    assert found["tokens_per_second"] > 0
    rival = {**found, "way": "transformers, batch 2", "tokens_per_second": found["tokens_per_second"] / 2}
    lines = table([found, rival], None).splitlines()
    assert lines[2].startswith("| lora | 10 | vnp, spread attention |")
    assert lines[2].endswith("| 2.00 |")


def test_a_case_that_fails_keeps_nothing_from_running(tmp_path: Path) -> None:
    said: list[str] = []
    cases = Cases(tmp_path / "lines.jsonl", said.append)

    def broken() -> dict[str, object]:
        raise RuntimeError("CUDA error")

    assert cases.add("first", broken) == {"error": "RuntimeError: CUDA error"}
    assert cases.add("second", lambda: {"value": 3}) == {"value": 3}
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines] == ["first", "second"]
    assert any("Traceback" in line for line in said)


def test_learning_tells_every_way_apart(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "set", genomes(), lengths=(90,))
    done = measure("learning", source, "--pack", "--out", tmp_path / "packed")
    assert done.exit_code == 0, done.output
    file = tmp_path / "packed/set.npz"
    examples = read_examples(source, Esm2Tokenizer())
    again = read_sets([file])[0]
    assert again.describe() == examples.describe()
    assert np.array_equal(again.tokens, examples.tokens)
    sizes = ("--shape", "tiny", "--mlm-steps", 4, "--label-steps", 3, "--tokens", 400, "--device", "cpu")
    done = measure("learning", file, *sizes, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    lines = {line["case"]: line for line in map(json.loads, (tmp_path / "out/learning.jsonl").read_text().splitlines())}
    for case in ("kmer", "tiny random", "tiny mlm", "tiny mlm + lora", "tiny mlm + all", "tiny all alone"):
        assert 0 <= lines[f"{case} set 0"]["auc"] <= 1
    assert 5 < lines["tiny mlm"]["unigram_perplexity"] < 25
    assert "| tiny mlm + all set 0 |" in (tmp_path / "out/learning.md").read_text()
    other = write_dataset(tmp_path / "other", genomes(moved=2), lengths=(90,))
    done = measure("learning", file, other, *sizes, "--out", tmp_path / "no")
    assert done.exit_code == 1
    assert "deals out unit" in clean(done)
    (tmp_path / "no.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="no set that --pack wrote"):
        read_sets([tmp_path / "no.npz"])


def test_baselines_are_what_they_say(tmp_path: Path) -> None:
    examples = made_up(np.full(40, 202), 1)
    # Twenty residues alike.
    assert unigram_perplexity(examples, np.arange(40), TuningRecipe()) == pytest.approx(20, rel=0.02)
    values = np.random.default_rng(1).standard_normal((6000, 8)).astype(np.float32)
    label = (values[:, 0] > 0).astype(np.int8)
    thirds = {part: slice(2000 * part, 2000 * (part + 1)) for part in range(3)}
    rows, labels = ({part: one[third] for part, third in thirds.items()} for one in (values, label))
    assert classify(rows, labels, torch.device("cpu"), 1) > 0.95
    letters = "LAGVSERTIDPKQNFYMHWC"
    words = ["".join(letters[one - 4] for one in examples.ids(row)[1:-1]) for row in range(3)]
    np.testing.assert_array_equal(kmer_rows(examples, np.arange(3)), KmerEncoder("protein").embed(words))
    pack(examples, tmp_path / "set.npz")
    assert torch.equal(torch.from_numpy(read_sets([tmp_path / "set.npz"])[0].tokens), torch.from_numpy(examples.tokens))
