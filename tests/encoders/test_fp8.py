"""8-bit products: on a GPU they agree with float32, and nobody uses them without a measurement."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.encoders._folders import TINY, write_folder
from tests.encoders._interpreted import interpreted
from tests.encoders._models import DNABERT, ESM2, encoder, random_ids, random_state
from vnp.doctor.reference import fp8, proteins
from vnp.encoders.measured import RECORD_NAME, Fp8Record, keep_fp8_record, require_fp8_record, weights_digest
from vnp.encoders.packing import Batch
from vnp.encoders.registry import _allowed
from vnp.encoders.spec import EncoderSpec, spec
from vnp.encoders.weights.lock import resolve
from vnp.errors import EncoderError, UsageError

GOOD = Fp8Record("tiny", "", 10, 100, 0.9995, 0.9999, 0.992, "a GPU", "2.11", "0.1.0")
WIDE = {**ESM2, "num_attention_heads": 4, "hidden_size": 256, "intermediate_size": 1024}


def hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EncoderSpec, Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "weights" / "tiny")
    return resolve(TINY, folder), folder


def test_without_a_measurement_8_bits_are_refused(tiny: tuple[EncoderSpec, Path]) -> None:
    with pytest.raises(EncoderError, match=r"nobody measured .* run: python -m jobs.doctor --fp8 tiny"):
        _allowed("fp8", *tiny)
    assert _allowed("fp16", *tiny) == "fp16"


def test_a_measurement_that_passes_allows_them(tiny: tuple[EncoderSpec, Path]) -> None:
    one, folder = tiny
    assert keep_fp8_record(replace(GOOD, weights=weights_digest(one)), folder) == folder / RECORD_NAME
    assert _allowed("fp8", one, folder) == "fp8"


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        ({"min_cosine": 0.9989}, r"0.99890 \(at least 0.999\)"),
        ({"min_difference": 0.98}, r"0.99950 .* apart 0.9800 \(at least 0.99\)"),
    ],
)
def test_one_that_does_not_pass_forbids_them(tiny: tuple[EncoderSpec, Path], worse: Any, said: str) -> None:
    one, folder = tiny
    keep_fp8_record(replace(GOOD, weights=weights_digest(one), **worse), folder)
    with pytest.raises(EncoderError, match=rf"smallest cosine to float32 of {said}.*: use --precision fp16"):
        require_fp8_record(one, folder)


def test_one_of_other_weights_does_not_count(tiny: tuple[EncoderSpec, Path]) -> None:
    one, folder = tiny
    keep_fp8_record(replace(GOOD, weights="0" * 64), folder)
    with pytest.raises(EncoderError, match="nobody measured"):
        require_fp8_record(one, folder)
    assert weights_digest(one) != weights_digest(replace(one, weights={"model.safetensors": "1" * 64}))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": "vnp-fp8/1"}', '{"schema": "other"}'])
def test_a_damaged_record_does_not_count(tiny: tuple[EncoderSpec, Path], content: str) -> None:
    (tiny[1] / RECORD_NAME).write_text(content)
    with pytest.raises(EncoderError, match="nobody measured"):
        require_fp8_record(*tiny)


def test_where_the_weights_cannot_be_written_the_cache_keeps_it(
    tiny: tuple[EncoderSpec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, folder = tiny
    (folder / RECORD_NAME).mkdir()  # as good as a folder that refuses: nothing can be put in its place
    path = keep_fp8_record(replace(GOOD, weights=weights_digest(one)), folder)
    assert path.is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert json.loads(path.read_text())["min_cosine"] == GOOD.min_cosine
    require_fp8_record(one, folder)


def test_dnabert_runs_in_half_precision_beside_it(tmp_path: Path) -> None:
    assert _allowed("fp8", spec("dnabert_s"), tmp_path) == "fp16"
    with pytest.raises(UsageError, match="has no 8-bit form"):
        fp8("dnabert_s", None)


def test_8_bits_need_a_gpu_and_esm2() -> None:
    with pytest.raises(EncoderError, match=r"fp8 does not run on cpu: .*; use fp16"):
        encoder(ESM2, random_state(ESM2), precision="fp8")
    with pytest.raises(EncoderError, match="fp8 is for ESM2"):
        encoder(DNABERT, random_state(DNABERT), precision="fp8")


def test_short_sequences_share_no_batch_with_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encoder(ESM2, random_state(ESM2))
    ids = [np.arange(n) % 20 + 4 for n in (60, 10, 48, 47, 3, 52)]
    want = plain.embed_ids(ids)
    seen: list[list[int]] = []
    model: Any = plain._model
    run = type(model).__call__

    def noted(self: object, batch: Batch) -> torch.Tensor:
        seen.append(batch.borders.lengths.tolist())
        return torch.as_tensor(run(self, batch))

    monkeypatch.setattr(type(model), "__call__", noted)
    model.apart_below = 48
    np.testing.assert_array_equal(plain.embed_ids(ids), want)
    assert seen == [[60, 52, 48], [47, 10, 3]]


def test_the_doctor_s_proteins_are_of_all_lengths_and_always_the_same() -> None:
    found = proteins()
    lengths = {len(each) for each in found}
    assert min(lengths) == 10
    assert max(lengths) == 2000
    assert found == proteins()
    assert set("".join(found)) <= set("ACDEFGHIKLMNPQRSTVWY")
    assert len(set(found)) == len(found)


def test_the_doctor_says_why_it_cannot_measure(tmp_path: Path) -> None:
    found = fp8("fastesm2_650", tmp_path / "nowhere", device="cpu")
    assert found.state == "fails"
    assert "nowhere" in found.found


@pytest.mark.gpu
@pytest.mark.skipif(not hopper(), reason="no Hopper GPU")
@pytest.mark.parametrize("longest", [90, 300, 1500])
def test_on_the_gpu(longest: int) -> None:
    state = random_state(WIDE)
    rng = np.random.default_rng(0)
    ids = [np.concatenate(([0], rng.integers(4, 24, n), [2])) for n in rng.integers(80, longest, 60)]
    short = random_ids(20, 40)
    eight = encoder(WIDE, state, precision="fp8", device="cuda")
    assert eight.kernel == "fused fp8"
    got = eight.embed_ids([*ids, *short])
    want = encoder(WIDE, state, attention="padded", device="cuda").embed_ids(ids)
    cosine = (got[:60] * want).sum(1) / (np.linalg.norm(got[:60], axis=1) * np.linalg.norm(want, axis=1))
    assert cosine.min() >= 0.998
    half = encoder(WIDE, state, precision="fp16", device="cuda")
    assert np.abs(half.embed_ids(ids) - want).max() < np.abs(got[:60] - want).max()
    np.testing.assert_array_equal(got[60:], half.embed_ids(short))


@pytest.mark.gpu
@pytest.mark.skipif(not hopper(), reason="no Hopper GPU")
def test_first_layer_of_a_deep_model_is_in_half_precision_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state(WIDE)
    rng = np.random.default_rng(0)
    ids = [np.concatenate(([0], rng.integers(4, 24, 100), [2])) for _ in range(60)]
    want = encoder(WIDE, state, attention="padded", device="cuda").embed_ids(ids)
    lost = []
    for deep in (0, 33):
        monkeypatch.setattr("vnp.encoders.kernels.fp8._DEEP", deep)
        got = encoder(WIDE, state, precision="fp8", device="cuda").embed_ids(ids)
        lost.append(float(np.linalg.norm(got - want)))
    assert 0 < lost[0] < 0.9 * lost[1]


@pytest.mark.gpu
@pytest.mark.skipif(not hopper(), reason="no Hopper GPU")
def test_kernels_on_the_gpu() -> None:
    check_kernels("cuda")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_columns_of_a_weight_make_up_for_each_other() -> None:
    from vnp.encoders.kernels.rounding import quantise, quantise_together

    torch.manual_seed(0)
    # Inputs that go together, as those of one language's few letters do.
    inputs = torch.randn(2, 400, 40) @ torch.randn(2, 40, 200)
    weights = torch.randn(2, 64, 200)
    rounded = quantise_together(weights, inputs.mT @ inputs / 400)
    for weight, given, rows in zip(weights, inputs, rounded, strict=True):
        plain, scale = quantise(weight)
        each, together = ((given @ (one.float() * scale - weight).T).norm() for one in (plain, rows))
        assert together < 0.4 * each
        assert (rows.float() * scale - weight).norm() < 0.1 * weight.norm()
    # What says nothing of the inputs rounds each column by itself.
    for nothing in (torch.zeros(2, 200, 200), torch.full((2, 200, 200), torch.nan)):
        for weight, rows in zip(weights, quantise_together(weights, nothing), strict=True):
            torch.testing.assert_close(rows.float(), quantise(weight)[0].float())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_interpreted() -> None:
    interpreted("from tests.encoders.test_fp8 import check_kernels; check_kernels('cpu')")


def check_kernels(place: str) -> None:
    from torch.nn.functional import gelu, layer_norm

    from vnp.encoders.kernels.fp8 import Stream
    from vnp.encoders.kernels.rounding import KIND, Weight, centred_behind_norm, centred_onto_stream

    torch.manual_seed(0)
    # The interpreter loses the carry where rounding up reaches a power of two, one number in fifty.
    rounding = 0.04 if place == "cuda" else 0.1
    rows, width, inner, scale = 130, 256, 512, 0.05
    x = (torch.randn(rows, width, device=place) * 2 + 0.3).half()
    original = x.float()
    stream = Stream.enter(x, 1e-5, scale)
    centred = original - original.mean(dim=1, keepdim=True)
    torch.testing.assert_close(stream.x.float(), centred, atol=4e-3, rtol=4e-3)
    assert (stream.eight.float() * scale - centred).norm() / centred.norm() < rounding

    def normal() -> torch.Tensor:
        """LayerNorm of the stream as it was rounded, by the spreads of the stream as it is."""
        return stream.eight.float() * scale / ((stream.x.float() ** 2).mean(dim=1, keepdim=True) + 1e-5).sqrt()

    norm = torch.rand(width, device=place) + 0.5, torch.randn(width, device=place) / 10
    weight, bias = torch.randn(inner, width, device=place) * width**-0.5, torch.randn(inner, device=place)
    up = Weight.of(centred_behind_norm((weight, bias), norm), torch.zeros(width, device=place), scale)
    product = normal() @ (up.rows.float() * (up.scale / scale)).T + up.bias
    want = layer_norm(original, (width,), *norm) @ weight.T + bias
    assert (product - want).norm() / want.norm() < 2 * rounding
    assert float(product.abs().max()) <= up.largest
    out = torch.empty(rows, inner, device=place).half()
    stream.linear(up, out)
    assert (out.float() - product).norm() / product.norm() < 2e-3
    active = torch.empty(rows, inner, dtype=KIND, device=place)
    stream.linear_gelu(up, active, 448 / up.largest)
    assert (active.float() * (up.largest / 448) - gelu(product)).norm() / gelu(product).norm() < rounding
    back, offset = torch.randn(width, inner, device=place) * inner**-0.5, torch.randn(width, device=place)
    mean = active.float().mean(dim=0) * (up.largest / 448)
    down = Weight.of(centred_onto_stream((back, offset)), mean, up.largest / 448)
    added = stream.x.float() + active.float() @ (down.rows.float() * down.scale).T + down.bias
    exact = centred + active.float() * (up.largest / 448) @ back.T + offset
    # What rounding takes from the mean input is in the bias, and rows stay without a mean of their own.
    assert (added.mean(dim=0) - (exact - exact.mean(dim=1, keepdim=True)).mean(dim=0)).abs().max() < 1e-2
    assert added.mean(dim=1).abs().max() < 0.02
    stream.add(active, down, 1e-5, scale)
    assert (stream.x.float() - added).norm() / added.norm() < 3e-3
    assert (stream.eight.float() * scale - added).norm() / added.norm() < rounding
    product = normal() @ (up.rows.float() * (up.scale / scale)).T + up.bias
    stream.linear(up, out)
    assert (out.float() - product).norm() / product.norm() < 2e-3
