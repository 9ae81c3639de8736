"""In float32 on CPU an embedding depends on its sequence alone, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.encoders._models import DNABERT, ESM2, encoder, random_ids, random_state
from vnp.encoders.models.trunk import gelu

WIDE = {**ESM2, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "num_hidden_layers": 1}
ODD = {**ESM2, "hidden_size": 68, "num_attention_heads": 2}
FAMILIES = [
    pytest.param(ESM2, id="esm2"),
    pytest.param(WIDE, id="esm2-wide"),
    pytest.param(ODD, id="esm2-odd"),
    pytest.param(DNABERT, id="dnabert"),
]


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("config", FAMILIES)
def test_same_bits_in_any_company(config: Mapping[str, Any], threads: int) -> None:
    engine = encoder(config, random_state(config))
    ids = random_ids(24, 90, seed=3) + random_ids(2, 1300, seed=4)
    ids += [ids[5].copy(), ids[0].copy()]
    whole = engine.embed_ids(ids)
    hidden = engine.hidden(ids)
    rng = np.random.default_rng(5)
    for budget in (64, 1000):
        engine.token_budget = budget
        order = rng.permutation(len(ids))
        np.testing.assert_array_equal(engine.embed_ids([ids[i] for i in order]), whole[order])
    for i in (0, 7, 24, 25):
        np.testing.assert_array_equal(engine.embed_ids([ids[i]])[0], whole[i])
        np.testing.assert_array_equal(engine.hidden([ids[i]])[0], hidden[i])
    np.testing.assert_array_equal(whole[-1], whole[0])


@pytest.mark.parametrize("config", FAMILIES)
def test_same_bits_on_one_thread_and_two(config: Mapping[str, Any]) -> None:
    before = torch.get_num_threads()
    engine = encoder(config, random_state(config))
    ids = random_ids(30, 120, seed=6)
    torch.set_num_threads(1)
    one = engine.embed_ids(ids)
    torch.set_num_threads(2)
    two = engine.embed_ids(ids)
    torch.set_num_threads(before)
    np.testing.assert_array_equal(one, two)


def test_same_bits_whatever_length_came_first(one_thread: None) -> None:
    short, long = random_ids(3, 40, seed=8), random_ids(1, 2400, seed=9)
    fresh = encoder(ESM2, random_state(ESM2)).embed_ids(short)
    used = encoder(ESM2, random_state(ESM2))
    used.embed_ids(long)
    np.testing.assert_array_equal(used.embed_ids(short), fresh)


@pytest.mark.parametrize("config", [pytest.param(ESM2, id="esm2"), pytest.param(DNABERT, id="dnabert")])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_packed_is_padded(config: Mapping[str, Any], precision: str, one_thread: None) -> None:
    state = random_state(config)
    ids = random_ids(12, 150, seed=10) + random_ids(1, 1200, seed=11)
    want = encoder(config, state, attention="padded").embed_ids(ids)
    got = encoder(config, state, attention="packed", precision=precision).embed_ids(ids)
    cosine = (got * want).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1))
    assert cosine.min() >= {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999}[precision]
    if precision == "fp32":
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_gelu_of_a_number_does_not_depend_on_its_place(threads: int) -> None:
    x = 2 * torch.randn(200_003, generator=torch.Generator().manual_seed(0))
    whole = gelu(x)
    # In float64, because torch's own kernels of float32 differ by more than this between kinds of CPU.
    torch.testing.assert_close(whole.double(), torch.nn.functional.gelu(x.double()), atol=1e-6, rtol=0)
    for first, last in ((0, 1), (1, 4), (5, 36), (7, 50_000), (3, 200_003)):
        torch.testing.assert_close(gelu(x[first:last]), whole[first:last], atol=0, rtol=0)
    strided = x[:200_000].view(400, 500)[:, :53]
    torch.testing.assert_close(gelu(strided), whole[:200_000].view(400, 500)[:, :53], atol=0, rtol=0)
