from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from tests.encoders._interpreted import interpreted
from vnp.encoders.kernels.attention import ByLength, Padded, VarlenFlash, alibi_slopes, check_kernel, choose
from vnp.encoders.packing import Attention, AttentionShape, Borders
from vnp.errors import EncoderError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def shape(heads: int = 3, head: int = 8, alibi: bool = True, dtype: torch.dtype = torch.float32) -> AttentionShape:
    return AttentionShape(heads, head, alibi_slopes(heads) if alibi else None, dtype, CPU)


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], of: AttentionShape) -> torch.Tensor:
    """The definition, one sequence and head at a time, in float64."""
    out, start = torch.zeros_like(v, dtype=torch.float64), 0
    for length in lengths:
        rows = slice(start, start + length)
        places = torch.arange(length, dtype=torch.float64)
        for head in range(of.heads):
            scores = q[rows, head].double() @ k[rows, head].double().T * of.head**-0.5
            if of.slopes is not None:
                scores = scores - of.slopes[head] * (places[:, None] - places).abs()
            out[rows, head] = scores.softmax(-1) @ v[rows, head].double()
        start += length
    return out


def run(kernel: Attention, lengths: list[int], of: AttentionShape) -> float:
    """The largest difference to the definition."""
    total = sum(lengths)
    q, k, v = torch.randn(total, 3, of.heads, of.head, generator=torch.Generator().manual_seed(0)).unbind(1)
    want = by_hand(q, k, v, lengths, of)
    borders = Borders(np.array(lengths), kernel.layout, CPU)
    if kernel.layout == "padded":
        keep = torch.cat([int(s) + torch.arange(n) for s, n in zip(borders.starts, lengths, strict=False)])
        spread = [each.new_zeros(borders.rows, *each.shape[1:]).index_copy(0, keep, each) for each in (q, k, v)]
        got = kernel.prepare(borders)(*spread)[keep]
    else:
        got = kernel.prepare(borders)(q, k, v)
    return float((got - want).abs().max())


@pytest.mark.parametrize("kind", [ByLength, Padded])
@pytest.mark.parametrize("alibi", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], [7, 1, 7, 30, 30, 2], [1100, 3]])
def test_kernels_compute_the_definition(kind: type[ByLength | Padded], alibi: bool, lengths: list[int]) -> None:
    of = shape(alibi=alibi)
    assert run(kind(of), lengths, of) < 2e-6


@pytest.mark.parametrize("heads", [2, 5, 12])
def test_kernel_check_accepts_what_is_right(heads: int) -> None:
    of = shape(heads, 16)
    check_kernel(ByLength(of), of)


@pytest.mark.parametrize("slopes", [None, (0.5, 0.25, 0.3)])
def test_kernel_check_refuses_other_slopes(slopes: tuple[float, ...] | None) -> None:
    of = shape()
    with pytest.raises(EncoderError, match="differs by"):
        check_kernel(ByLength(AttentionShape(3, 8, slopes, torch.float32, CPU)), of)


def test_choice_on_cpu() -> None:
    assert choose("auto", shape()).name == choose("packed", shape()).name == "by-length"
    assert choose("padded", shape()).name == "padded"
    assert not VarlenFlash.takes(shape(alibi=False, head=64, dtype=torch.float16))


def test_kernel_that_cannot_run_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "vnp.encoders.kernels.triton_attention", raising=False)
    with pytest.raises(EncoderError, match="no attention kernel runs on cpu: triton: ModuleNotFoundError"):
        choose("triton", shape())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernel_interpreted() -> None:
    interpreted("from tests.encoders import test_engine_attention as t; t.interpret()")


def interpret() -> None:
    from vnp.encoders.kernels.triton_attention import TritonAttention

    for of in (shape(2, 16), shape(3, 64, alibi=False), shape(5, 24)):
        assert run(TritonAttention(of), [3, 70, 1, 129, 64], of) < 2e-6
        half = AttentionShape(of.heads, of.head, of.slopes, torch.float16, CPU)
        check_kernel(TritonAttention(half), half)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", ["esm2", "dnabert"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_packed_on_the_gpu(family: str, precision: str) -> None:
    from vnp.doctor.engine import check_packed

    assert check_packed("cuda", precision, model=family).passes
