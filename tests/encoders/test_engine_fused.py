from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.encoders._interpreted import interpreted
from tests.encoders._models import DNABERT, ESM2, encoder, random_ids, random_state
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.models.esm2 import Esm2
from vnp.encoders.packing import AttentionShape, Borders, distinct
from vnp.errors import EncoderError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
SMALL = {"num_attention_heads": 2, "hidden_size": 64, "intermediate_size": 256}
SHORT = ((3, 20, 1),)


@needs_triton
@pytest.mark.parametrize("what", ["rows", "linear", "attention", "esm2", "dnabert"])
def test_interpreted(what: str) -> None:
    interpreted(f"from tests.encoders import test_engine_fused as t; t.interpret_{what}()")


def interpret_rows() -> None:
    from torch.nn.functional import gelu, layer_norm

    from vnp.encoders.kernels import triton_steps

    x = torch.linspace(-12, 12, 5001)
    assert (triton_steps.gelu_in_place(x.clone()) - gelu(x.double())).abs().max() < 4e-7
    tail = torch.linspace(-4, -1e-3, 1000)
    assert (triton_steps.gelu_in_place(tail.clone()) / gelu(tail.double()) - 1).abs().max() < 1e-4
    rows, shift, weight, bias = torch.randn(7, 96), torch.randn(96), torch.randn(96), torch.randn(96)
    want = layer_norm(rows + shift, (96,), weight, bias, 1e-5)
    got = triton_steps.normalise(rows, shift, (weight, bias), 1e-5, torch.full((7, 96), torch.nan))
    torch.testing.assert_close(got, want, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(triton_steps.normalise(rows, shift, (weight, bias), 1e-5, rows), want)
    ids, words, scale = torch.tensor([3, 0, 7]), torch.randn(8, 40), torch.randn(3)
    torch.testing.assert_close(triton_steps.embed_scaled(ids, words, scale), words[ids] * scale[:, None])
    both = torch.randn(5, 2 * 91)
    got = triton_steps.gate(both, torch.full((5, 91), torch.nan))
    torch.testing.assert_close(got, gelu(both[:, :91]) * both[:, 91:], atol=1e-6, rtol=1e-6)


def interpret_linear() -> None:
    from torch.nn.functional import gelu

    from vnp.encoders.kernels.triton_steps import interleave, linear_gelu

    for rows in (1, 130):
        x, weight, bias = torch.randn(rows, 64).half(), torch.randn(512, 64).half() / 8, torch.randn(512)
        raw = x.float() @ weight.float().T
        got = linear_gelu(x, weight, bias, torch.full((rows, 512), torch.nan).half())
        torch.testing.assert_close(got.float(), gelu(raw + bias), atol=3e-3, rtol=1e-3)
        got = linear_gelu(x, interleave(weight), None, torch.full((rows, 256), torch.nan).half())
        torch.testing.assert_close(got.float(), gelu(raw[:, :256]) * raw[:, 256:], atol=3e-3, rtol=1e-3)


def interpret_attention() -> None:
    from vnp.encoders.kernels import triton_attention
    from vnp.encoders.kernels.attention import ByLength
    from vnp.encoders.kernels.triton_attention import TritonAttention

    for longest, turn_inside in ((40, 256), (90, 256), (90, 64)):
        triton_attention._TURN_INSIDE = turn_inside
        lengths = np.array([longest, 3, 1])
        borders = Borders(lengths, "packed", CPU)
        positions = torch.cat([torch.arange(int(n)) for n in lengths])
        qkv = torch.randn(len(positions), 3, 2, 32).half()
        angles = torch.arange(400)[:, None] * 0.3 ** torch.arange(16)
        cos, sin = (each[positions][:, None] for each in (angles.cos(), angles.sin()))
        low, high = qkv[:, :2].float().flatten(1, 2).chunk(2, dim=-1)
        turned = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).view(-1, 2, 2, 32)
        of = AttentionShape(2, 32, None, torch.float32, CPU)
        want = ByLength(of).prepare(borders)(turned[:, 0], turned[:, 1], qkv[:, 2].float())
        kernel = TritonAttention(AttentionShape(2, 32, None, torch.float16, CPU), rotary=True)
        got = kernel.prepare(borders).turned(qkv, positions, (angles.cos(), angles.sin()))
        torch.testing.assert_close(got.float(), want, atol=5e-3, rtol=5e-3)


def interpret_esm2() -> None:
    from vnp.encoders.kernels.fused import FusedEsm2, agree
    from vnp.encoders.kernels.triton_attention import TritonAttention

    config = {**ESM2, **SMALL}
    model = Esm2(config, random_state(config), CPU, torch.float16)
    shape = AttentionShape(2, 32, None, torch.float16, CPU)
    attention = TritonAttention(shape, rotary=True)
    for joint in (False, True):
        fused = FusedEsm2(model, joint=joint)
        agree(fused, attention, model, shape, SHORT)
    other = Esm2(config, random_state(config, seed=1), CPU, torch.float16)
    with pytest.raises(EncoderError, match="differ from the plain layers"):
        agree(fused, attention, other, shape, SHORT)


def interpret_dnabert() -> None:
    from vnp.encoders.kernels.fused import FusedMosaicBert, agree
    from vnp.encoders.kernels.triton_attention import TritonAttention

    config = {**DNABERT, **SMALL}
    model = MosaicBert(config, random_state(config), CPU, torch.float16)
    shape = AttentionShape(2, 32, model.slopes, torch.float16, CPU)
    for joint in (False, True):
        agree(FusedMosaicBert(model, joint=joint), TritonAttention(shape), model, shape, SHORT)


def test_fused_needs_a_gpu() -> None:
    with pytest.raises(EncoderError, match="no fused layers run on cpu"):
        encoder(ESM2, random_state(ESM2), attention="fused")


def test_environment_names_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNP_ATTENTION", "padded")
    assert encoder(ESM2, random_state(ESM2)).kernel == "padded"
    assert encoder(ESM2, random_state(ESM2), attention="packed").kernel == "by-length"


def test_sequences_that_are_the_same_are_embedded_once() -> None:
    engine = encoder(ESM2, random_state(ESM2))
    ids = random_ids(6, 30)
    many: list[NDArray[np.integer]] = [ids[0], ids[1], ids[0].astype(np.int32), ids[2], ids[1]]
    got = engine.embed_ids(many)
    assert engine.tokens_read == sum(len(each) for each in ids[:3])
    np.testing.assert_array_equal(got, engine.embed_ids(ids[:3])[[0, 1, 0, 2, 1]])
    firsts, places = distinct(many)
    assert firsts.tolist() == [0, 1, 3]
    assert places.tolist() == [0, 1, 0, 2, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("config", [{**ESM2, **SMALL}, {**DNABERT, **SMALL}], ids=["esm2", "dnabert"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_fused_on_the_gpu(config: dict[str, object], precision: str) -> None:
    state = random_state(config)
    ids = random_ids(20, 300) + random_ids(1, 1500, seed=1)
    fused = encoder(config, state, precision=precision, device="cuda")
    assert fused.kernel == "fused"
    got = fused.embed_ids(ids)
    want = encoder(config, state, attention="padded", device="cuda").embed_ids(ids)
    cosine = (got * want).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1))
    assert cosine.min() >= {"fp16": 0.9999, "bf16": 0.999}[precision]
