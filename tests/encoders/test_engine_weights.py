from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.encoders._models import DNABERT, ESM2, GOLDENS, Golden, encoder, random_ids, random_state, spec_for
from vnp.encoders.build import build
from vnp.errors import WeightsError

PREFIX = {"esm": "esm.", "bert": "bert."}
BOTH = [pytest.param(ESM2, id="esm2"), pytest.param(DNABERT, id="dnabert")]
WORDS = "embeddings.word_embeddings.weight"


def refused(config: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> str:
    with pytest.raises(WeightsError) as error:
        encoder(config, state)
    return str(error.value)


@pytest.mark.parametrize("config", BOTH)
def test_prefix_or_none(config: Mapping[str, Any]) -> None:
    state = random_state(config)
    ids = random_ids(3, 20)
    plain = encoder(config, state).embed_ids(ids)
    prefixed = {PREFIX[config["model_type"]] + name: tensor for name, tensor in state.items()}
    np.testing.assert_array_equal(encoder(config, prefixed).embed_ids(ids), plain)


@pytest.mark.parametrize("config", BOTH)
def test_half_prefixed_is_refused(config: Mapping[str, Any]) -> None:
    state = random_state(config)
    prefix = PREFIX[config["model_type"]]
    state[prefix + WORDS] = state.pop(WORDS)
    message = refused(config, state)
    assert "missing" in message
    assert "unexpected" in message


@pytest.mark.parametrize("config", BOTH)
def test_missing_tensors_are_named(config: Mapping[str, Any]) -> None:
    state = random_state(config)
    del state[WORDS]
    message = refused(config, state)
    assert "1 tensor missing" in message
    assert f"{WORDS} ({config['vocab_size']}, {config['hidden_size']})" in message


def test_an_empty_checkpoint_names_a_few() -> None:
    message = refused(ESM2, {})
    assert "35 tensors missing" in message
    assert "and 31 more" in message


@pytest.mark.parametrize("config", BOTH)
@pytest.mark.parametrize("name", ["encoder.layer.2.output.dense.bias", "adapter.weight", "embeddings.scale"])
def test_unexpected_tensor_is_named(config: Mapping[str, Any], name: str) -> None:
    message = refused(config, {**random_state(config), name: torch.zeros(3)})
    assert f"1 tensor unexpected: {name} (3,)" in message


def test_positions_of_an_ordinary_bert_are_refused() -> None:
    name = "embeddings.position_embeddings.weight"
    assert name in refused(DNABERT, {**random_state(DNABERT), name: torch.zeros(512, 84)})


@pytest.mark.parametrize("config", BOTH)
def test_misshapen_tensor_shows_both_shapes(config: Mapping[str, Any]) -> None:
    state = random_state(config)
    state[WORDS] = state[WORDS][:-1]
    vocabulary, width = config["vocab_size"], config["hidden_size"]
    assert f"(expected ({vocabulary}, {width}), got ({vocabulary - 1}, {width}))" in refused(config, state)


def test_integers_and_nan_are_refused() -> None:
    state = random_state(ESM2)
    assert "not floating point" in refused(ESM2, {**state, WORDS: state[WORDS].int()})
    broken = state[WORDS].clone()
    broken[3, 3] = torch.nan
    assert f"with NaN or Inf: {WORDS}" in refused(ESM2, {**state, WORDS: broken})


def test_what_checkpoints_carry_beside_the_trunk() -> None:
    state = random_state(ESM2)
    frequencies = 1 / 10000 ** (torch.arange(0, 12, 2) / 12)
    beside = {
        "lm_head.bias": torch.zeros(33),
        "lm_head.dense.weight": torch.zeros(60, 60),
        "lm_head.layer_norm.weight": torch.zeros(60),
        "lm_head.decoder.weight": torch.zeros(33, 60),
        "esm.contact_head.regression.weight": torch.zeros(1, 10),
        "esm.pooler.dense.weight": torch.zeros(60, 60),
        "esm.embeddings.position_ids": torch.arange(1026)[None],
        "esm.embeddings.position_embeddings.weight": torch.zeros(1026, 60),
        "esm.rotary_embeddings.inv_freq": frequencies,
        "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq": frequencies.half(),
    }
    encoder(ESM2, {**{f"esm.{name}": tensor for name, tensor in state.items()}, **beside})


def test_other_rotary_frequencies_are_refused() -> None:
    other = 1 / 500000 ** (torch.arange(0, 12, 2) / 12)
    assert "inv_freq" in refused(ESM2, {**random_state(ESM2), "rotary_embeddings.inv_freq": other})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 7}, "7 heads"),
        ({"position_embedding_type": "absolute"}, "absolute"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"model_type": "t5"}, "t5"),
        ({"model_type": ["esm"]}, "model_type"),
    ],
)
def test_config_that_is_no_esm2(change: dict[str, object], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        build({**ESM2, **change}, {}, None, spec_for(ESM2), device="cpu", precision="fp32")  # type: ignore[arg-type]


def test_width_must_be_the_specs() -> None:
    config = {**ESM2, "hidden_size": 120}
    with pytest.raises(WeightsError, match=r"60 wide, but .* hidden_size 120"):
        build(config, random_state(config), None, spec_for(ESM2), device="cpu", precision="fp32")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GOLDENS)
def test_published_names_lose_no_tensor_unseen(name: str, shared: Path) -> None:
    golden = Golden.read(shared / "goldens" / name)
    for key in golden.state:
        ignored = any(part in key for part in ("lm_head", "contact_head", "inv_freq", "pooler"))
        rest = {other: tensor for other, tensor in golden.state.items() if other != key}
        if ignored:
            encoder(golden.config, rest)
        else:
            assert key in refused(golden.config, rest)
