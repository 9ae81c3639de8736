from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.encoders._models import GOLDENS, Golden, encoder

HIDDEN, MEAN = 2e-5, 1e-5


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden.read(shared / "goldens" / request.param)


@pytest.mark.parametrize("attention", ["packed", "padded"])
@pytest.mark.parametrize("together", ["alone", "mixed"])
def test_published_outputs(
    golden: Golden, attention: str, together: str, record_property: Callable[[str, object], None], one_thread: None
) -> None:
    engine = encoder(golden.config, golden.state, attention=attention)
    order = np.random.default_rng(7).permutation(len(golden.ids))
    calls = [[int(i)] for i in order] if together == "alone" else [[int(i) for i in order]]
    hidden_error = mean_error = 0.0
    for call in calls:
        ids = [golden.ids[i] for i in call]
        for i, hidden, mean in zip(call, engine.hidden(ids), engine.embed_ids(ids), strict=True):
            assert hidden.shape == golden.hidden[i].shape
            hidden_error = max(hidden_error, float(np.abs(hidden - golden.hidden[i]).max()))
            mean_error = max(mean_error, float(np.abs(mean - golden.means[i]).max()))
    record_property("max_abs_hidden", hidden_error)
    record_property("max_abs_mean", mean_error)
    print(f"max error: hidden {hidden_error:.2e}, mean {mean_error:.2e}")  # noqa: T201
    assert hidden_error <= HIDDEN
    assert mean_error <= MEAN


def test_goldens_reach_beyond_position_tables(golden: Golden) -> None:
    assert max(len(each) for each in golden.ids) > golden.config["max_position_embeddings"]


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.9999), ("bf16", 0.999)])
@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_half_precision_is_near(
    golden: Golden, precision: str, cosine: float, attention: str, one_thread: None
) -> None:
    chosen = [i for i, each in enumerate(golden.ids) if len(each) < 200]
    engine = encoder(golden.config, golden.state, precision=precision, attention=attention)
    got = engine.embed_ids([golden.ids[i] for i in chosen])
    want = np.stack([golden.means[i] for i in chosen])
    assert got.dtype == np.float32
    cosines = (got * want).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1))
    assert cosines.min() >= cosine
    assert torch.get_default_dtype() == torch.float32
