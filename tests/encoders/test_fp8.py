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
def test_kernels_on_the_gpu() -> None:
    check_kernels("cuda")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_interpreted() -> None:
    interpreted("from tests.encoders.test_fp8 import check_kernels; check_kernels('cpu')")


def check_kernels(place: str) -> None:
    from torch.nn.functional import gelu, layer_norm

    from vnp.encoders.kernels import fp8 as triton_fp8

    torch.manual_seed(0)
    # The interpreter loses the carry where rounding up reaches a power of two, one number in fifty.
    rounding = 0.04 if place == "cuda" else 0.1
    rows, width, inner = 130, 256, 512
    x, shift = torch.randn(rows, width, device=place).half(), torch.randn(width, device=place) / 10
    norm = torch.rand(width, device=place) + 0.5, torch.randn(width, device=place) / 10
    weight, bias = torch.randn(inner, width, device=place) * width**-0.5, torch.randn(inner, device=place)
    eight, scales = torch.empty(rows, width, dtype=triton_fp8.KIND, device=place), torch.empty(rows, device=place)
    bounds = torch.empty(rows, device=place)
    steep = triton_fp8.steepness(weight, bias)
    triton_fp8.normalise_fp8(x, shift, norm, 1e-5, (eight, scales), bounds, steep)
    normal = eight.float() * scales[:, None]
    want = layer_norm(x.float() + shift, (width,), *norm, 1e-5)
    assert (normal - want).norm() / want.norm() < rounding
    rounded = triton_fp8.quantise(weight)
    product = normal @ (rounded[0].float() * rounded[1][:, None]).T + bias
    assert (product.abs().amax(1) <= bounds * 448).all()
    out = torch.empty(rows, inner, device=place).half()
    triton_fp8.linear_fp8((eight, scales), rounded, bias, out)
    assert (out.float() - product).norm() / product.norm() < 2e-3
    active = torch.empty(rows, inner, dtype=triton_fp8.KIND, device=place), bounds
    triton_fp8.linear_gelu_fp8((eight, scales), rounded, bias, active)
    assert (active[0].float() * bounds[:, None] - gelu(product)).norm() / gelu(product).norm() < rounding
    stream = torch.randn(rows, width, device=place).half()
    down = triton_fp8.quantise(torch.randn(width, inner, device=place) * inner**-0.5)
    added = stream.float() + (active[0].float() * bounds[:, None]) @ (down[0].float() * down[1][:, None]).T
    triton_fp8.add_linear_fp8(active, down, stream)
    assert (stream.float() - added).norm() / added.norm() < 3e-3
