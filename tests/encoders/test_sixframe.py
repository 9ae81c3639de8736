"""The six-frame network: what it reads, and that a row depends on nothing but its window."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import vnp
from vnp.encoders import Encoder, describe, from_folder, identity, load
from vnp.encoders.models import eight_bits
from vnp.encoders.models.eight_bits import multiplies_bytes
from vnp.encoders.models.sixframe import (
    KINDS,
    SHORTEST,
    SixFrame,
    SixFrameConfig,
    base_codes,
    codon_ids,
    padded_length,
    viral_logit,
)
from vnp.encoders.spec import spec
from vnp.encoders.windows import SixFrameEncoder
from vnp.errors import EncoderError, WeightsError

SMALL = SixFrameConfig(embedding=8, stem=8, local=16, context=16, heads=4, hidden=16)
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


@pytest.fixture(scope="module")
def encoder() -> SixFrameEncoder:
    """A network whose normalisations have something to fold."""
    torch.manual_seed(5)
    network = SixFrame(SMALL)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.3)
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.05, 0.2)
    return SixFrameEncoder(network)


def dna(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGTN"), length, p=[0.25, 0.25, 0.25, 0.24, 0.01]))


def by_hand(sequence: str) -> list[list[int]]:
    """The frames, spelled out."""
    letters = {letter: at for at, letter in enumerate("ACGT")}
    codons = (len(sequence) - 2) // 3
    found = []
    for strand in (sequence, sequence.translate(COMPLEMENT)[::-1]):
        for frame in range(3):
            words = [strand[frame + 3 * at : frame + 3 * at + 3] for at in range(codons)]
            found.append(
                [64 if "N" in word else sum(letters[b] * 4 ** (2 - i) for i, b in enumerate(word)) for word in words]
            )
    return found


@given(st.text("ACGTN", min_size=5, max_size=70), st.integers(0, 9))
@settings(max_examples=60)
def test_codons_are_those_of_both_strands(sequence: str, padding: int) -> None:
    codes = torch.from_numpy(base_codes(sequence))[None]
    assert codon_ids(codes)[0].tolist() == by_hand(sequence)
    behind = torch.cat((codes, torch.full((1, padding), 2, dtype=torch.uint8)), 1)
    padded = codon_ids(behind, torch.tensor([len(sequence)]))
    assert padded[0, :, : (len(sequence) - 2) // 3].tolist() == by_hand(sequence)


def test_letters_of_either_case_and_of_rna_are_bases() -> None:
    assert base_codes("ACGTacgtUuNn-R").tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("length", [8, 9, 10, 11, 100, 149, 150, 151, 500, 998, 1300])
def test_both_strands_have_the_same_row(encoder: SixFrameEncoder, length: int) -> None:
    sequence = dna(length)
    one, other = encoder.embed([sequence, sequence.translate(COMPLEMENT)[::-1]])
    assert np.abs(one).max() > 0
    np.testing.assert_array_equal(one, other)


def test_row_depends_on_its_window_alone(encoder: SixFrameEncoder) -> None:
    sequences = [dna(length, seed) for seed, length in enumerate([30, 31, 150, 150, 150, 151, 399, 400, 401, 1000])]
    together = encoder.embed(sequences)
    assert together.dtype == np.float32
    assert together.shape == (10, SMALL.width)
    for row, sequence in zip(together, sequences, strict=True):
        np.testing.assert_array_equal(row, encoder.embed([sequence])[0])
    np.testing.assert_array_equal(together[::-1], encoder.embed(sequences[::-1]))
    assert len({row.tobytes() for row in together}) == 10


@pytest.mark.parametrize("length", [8, 20, 61, 150, 333])
def test_padding_never_changes_a_row(encoder: SixFrameEncoder, length: int) -> None:
    codes = torch.from_numpy(base_codes(dna(length)))[None]
    with torch.inference_mode():
        alone = encoder.network.rows(codon_ids(codes))
        for more in (1, 2, 3, 4, 50):
            behind = torch.cat((codes, torch.randint(0, 5, (1, more), dtype=torch.uint8)), 1)
            lengths = torch.tensor([length])
            padded = encoder.network.rows(codon_ids(behind, lengths), (lengths - 2) // 3)
            torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_the_last_mean_is_of_the_track_that_has_more_and_of_both_in_older_networks() -> None:
    stored = SMALL.to_json()
    assert stored.pop("stronger_track") is True
    older = SixFrameConfig.from_json(stored)
    assert not older.stronger_track
    torch.manual_seed(0)
    network = SixFrame(SMALL).fold()
    before = SixFrame(older).fold()
    before.load_state_dict(network.state_dict())
    seen = []
    network.weigh_places.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    ids = torch.randint(0, 64, (2, 6, 50))
    with torch.inference_mode():
        new, old = network.rows(ids), before.rows(ids)
    tracks = seen[0].mean(3)
    assert torch.allclose(new[:, -SMALL.context :], tracks.amax(2), atol=1e-6)
    assert torch.allclose(old[:, -SMALL.context :], tracks.mean(2), atol=1e-6)
    assert torch.equal(new[:, : -SMALL.context], old[:, : -SMALL.context])
    assert not torch.allclose(new, old)


def test_folding_changes_nothing_but_speed() -> None:
    torch.manual_seed(1)
    network = SixFrame(SMALL).train()
    ids = codon_ids(torch.randint(0, 4, (8, 90), dtype=torch.uint8))
    for _ in range(5):
        network(ids)
    with torch.inference_mode():
        before = network.eval()(ids)
        after = network.fold()(ids)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_too_short_windows_have_rows_of_zeros(encoder: SixFrameEncoder) -> None:
    rows = encoder.embed(["", "ACG", "A" * (SHORTEST - 1), "A" * SHORTEST, "N" * 50])
    assert not rows[:3].any()
    assert rows[3:].any(axis=1).all()
    assert np.isfinite(rows).all()
    assert encoder.embed([]).shape == (0, SMALL.width)


def test_viral_probability_is_the_sum_of_the_virus_kinds() -> None:
    logits = torch.randn(6, len(KINDS))
    torch.testing.assert_close(torch.sigmoid(viral_logit(logits)), torch.softmax(logits, 1)[:, :2].sum(1))


@given(st.integers(1, 300_000))
def test_lengths_are_rounded_up_by_an_eighth_at_most(length: int) -> None:
    assert length <= padded_length(length) <= max(length + 12, length * 9 / 8 + 1)
    assert padded_length(padded_length(length)) == padded_length(length)


@pytest.mark.parametrize("change", [{"heads": 5}, {"stem": 0}, {"local": "many"}, {"embedding": None}])
def test_impossible_configurations_are_refused(change: dict[str, object]) -> None:
    assert SixFrameConfig.from_json(SMALL.to_json()) == SMALL
    with pytest.raises(WeightsError):
        SixFrameConfig.from_json({**SMALL.to_json(), **change})
    with pytest.raises(WeightsError):
        SixFrameConfig.from_json({})


@pytest.fixture(scope="module")
def bundled() -> Encoder:
    return load("sixframe", device="cpu")


def test_the_bundled_encoder_is_in_the_registry(bundled: Encoder) -> None:
    precision = "int8" if multiplies_bytes() else "fp32"
    assert identity(bundled) == {**describe("sixframe", "dna"), "precision": precision}
    assert identity(bundled)["weights"] == dict(spec("sixframe").pins)
    rows = bundled.embed(["ACGT" * 60, "TTGCA" * 40, "ACGT" * 60])
    assert rows.shape == (3, bundled.spec.width) == (3, bundled.width)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert bundled.tokens_read == 680


def test_rows_do_not_depend_on_the_number_of_threads(bundled: Encoder) -> None:
    sequences = [dna(length, length) for length in (100, 150, 333, 999, 2000)] * 3
    alone = bundled.embed(sequences)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        np.testing.assert_array_equal(bundled.embed(sequences), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("budget", [1, 700, 100_000])
def test_batches_of_any_size_give_nearly_the_same(bundled: Encoder, budget: int) -> None:
    sequences = [dna(length, length) for length in (100, 150, 150, 150, 333, 999, 2000)]
    other = load("sixframe", device="cpu", token_budget=budget)
    np.testing.assert_allclose(other.embed(sequences), bundled.embed(sequences), rtol=1e-3, atol=1e-4)


def test_bytes_say_nearly_what_float32_says() -> None:
    sequences = [dna(length, length) for length in (8, 100, 149, 150, 333, 500, 999, 2000)] + ["A" * 700, "N" * 300]
    rows, logits = [], []
    for precision in ("fp32", "int8"):
        encoder = load("sixframe", device="cpu", precision=precision)
        assert isinstance(encoder, SixFrameEncoder)
        rows.append(encoder.embed(sequences).astype(np.float64))
        logits.append(viral_logit(torch.from_numpy(encoder.logits(sequences))).numpy())
    cosines = (rows[0] * rows[1]).sum(1) / np.linalg.norm(rows[0], axis=1) / np.linalg.norm(rows[1], axis=1)
    assert cosines.min() > 0.99
    assert not np.array_equal(rows[0], rows[1])
    # What a window's odds are turned into moves by less than a tenth.
    np.testing.assert_allclose(logits[1][:-2], logits[0][:-2], atol=0.4)


@pytest.mark.skipif(not multiplies_bytes(), reason="this CPU has no products of bytes")
def test_a_cpu_without_products_of_bytes_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [dna(length, length) for length in (8, 149, 999, 2000, *range(300, 340))] + ["A" * 700, "N" * 300]
    with_them = load("sixframe", device="cpu", precision="int8").embed(sequences)
    monkeypatch.setattr(eight_bits, "multiplies_bytes", lambda: False)
    np.testing.assert_array_equal(load("sixframe", device="cpu", precision="int8").embed(sequences), with_them)


def test_bytes_are_for_cpus() -> None:
    network = SixFrame(SixFrameConfig(embedding=8, stem=8, local=8, context=8, heads=2, hidden=8))
    with pytest.raises(EncoderError, match="int8 is for CPUs"):
        SixFrameEncoder(network, device="meta", precision="int8")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with another network than the bundled one, as finetune writes it."""
    folder, source = tmp_path / "trained", Path(vnp.__file__).parent / "native"
    folder.mkdir()
    state = {name: tensor * 0.5 for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config["weights_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_of_finetune_takes_the_place_of_the_bundled_weights(trained: Path, bundled: Encoder) -> None:
    other = load("sixframe", weights=trained, device="cpu")
    assert identity(other) == {**describe("sixframe", "dna", trained), "precision": other.precision}
    assert identity(other)["weights"] != identity(bundled)["weights"]
    assert not np.allclose(other.embed(["ACGT" * 60]), bundled.embed(["ACGT" * 60]))
    np.testing.assert_array_equal(
        from_folder(trained, precision="auto").embed(["ACGT" * 60]), other.embed(["ACGT" * 60])
    )
    # A folder with a folder an encoder, as fetch makes it, has the bundled ones where it has none of its own.
    trained.rename(trained.parent / "sixframe")
    assert describe("sixframe", "dna", trained.parent)["weights"] == identity(other)["weights"]
    (trained.parent / "empty").mkdir()
    assert describe("sixframe", "dna", trained.parent / "empty")["weights"] == identity(bundled)["weights"]


def test_damaged_or_foreign_weights_are_refused(trained: Path) -> None:
    content = bytearray((trained / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (trained / "model.safetensors").write_bytes(content)
    for use in (describe, load):
        with pytest.raises(WeightsError, match="train it again"):
            use("sixframe", molecule="dna", weights=trained)
    with pytest.raises(WeightsError, match="does not exist; sixframe has its weights in the package"):
        describe("sixframe", "dna", trained / "missing")
    (trained / "config.json").write_text('{"model_type": "fast_esm", "hidden_size": 1280}')
    with pytest.raises(WeightsError, match="type 'fast_esm'; sixframe has its weights in the package"):
        describe("sixframe", "dna", trained)
    with pytest.raises(EncoderError, match="sees no GPU"):
        load("sixframe", device="cuda")
