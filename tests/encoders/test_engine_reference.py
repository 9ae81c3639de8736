"""The engine against transformers' ESM at sizes that no published model has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.encoders._models import encoder
from vnp.encoders.kernels.attention import alibi_slopes

pytestmark = pytest.mark.usefixtures("one_thread")
MASK = 32


def reference(**switches: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.EsmConfig(
        vocab_size=33,
        mask_token_id=MASK,
        pad_token_id=1,
        hidden_size=42,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=77,
        layer_norm_eps=1e-4,
        position_embedding_type="rotary",
        **switches,
    )
    torch.manual_seed(3)
    model = transformers.EsmForMaskedLM(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3)
    return model


def sequences(masked: bool) -> list[Any]:
    rng = np.random.default_rng(4)
    ids = [np.concatenate(([0], rng.integers(4, 24, n), [2])) for n in (1, 5, 33, 70)]
    if masked:
        ids[1][2] = MASK
        ids[2][[3, 4, 20]] = MASK
    return ids


@pytest.mark.parametrize("norm_before", [True, False])
@pytest.mark.parametrize("token_dropout", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_same_as_transformers(norm_before: bool, token_dropout: bool, masked: bool, attention: str) -> None:
    model = reference(emb_layer_norm_before=norm_before, token_dropout=token_dropout)
    ids = sequences(masked)
    engine = encoder(model.config.to_dict(), model.state_dict(), attention=attention)
    for got, each in zip(engine.hidden(ids), ids, strict=True):
        with torch.no_grad():
            row = torch.tensor(each)[None]
            want = model.esm(row, attention_mask=torch.ones_like(row)).last_hidden_state[0].numpy()
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_mask_tokens_are_zero_and_the_rest_scaled_up() -> None:
    """With token dropout, which token stood under a mask cannot matter, and how many were masked must."""
    model = reference(token_dropout=True)
    state = model.state_dict()
    engine = encoder(model.config.to_dict(), state)
    before = engine.hidden(sequences(True))
    state["esm.embeddings.word_embeddings.weight"][MASK] += 5.0
    after = encoder(model.config.to_dict(), state).hidden(sequences(True))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(engine.hidden(sequences(False))[2][1] - before[2][1]).max() > 1e-3


def test_slopes_for_powers_of_two_and_others() -> None:
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(1) == (2.0**-8,)
    assert alibi_slopes(3) == (2.0**-4, 2.0**-8, 2.0**-2)
    twelve = alibi_slopes(12)
    assert twelve[:8] == alibi_slopes(8)
    np.testing.assert_allclose(twelve[8:], [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
