from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.encoders._models import DNABERT, ESM2, encoder, random_ids, random_state
from vnp.encoders.build import default_budget
from vnp.encoders.engine import Model, TransformerEncoder
from vnp.encoders.packing import Batch
from vnp.errors import EncoderError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")


class Small:
    """A model on a device with little memory."""

    apart_below = 0

    def __init__(self, model: Model, rows: int) -> None:
        self.vocabulary, self.width = model.vocabulary, model.width
        self.sizes: list[int] = []
        self._model, self._rows = model, rows

    def __call__(self, batch: Batch) -> torch.Tensor:
        self.sizes.append(batch.borders.rows)
        if batch.borders.rows > self._rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return self._model(batch)


class Broken(Small):
    """A model that overflows for sequences with a certain token."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self._model(batch).masked_fill((batch.ids == 23)[:, None], torch.inf)


def with_model(kind: type[Small], rows: int, budget: int) -> tuple[TransformerEncoder, Small]:
    engine = encoder(ESM2, random_state(ESM2), token_budget=budget)
    model = kind(engine._model, rows)
    engine._model = model
    return engine, model


def test_out_of_memory_halves_the_budget_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    ids = random_ids(30, 60, seed=1)
    want = encoder(ESM2, random_state(ESM2)).embed_ids(ids)
    engine, model = with_model(Small, 150, 1024)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(engine.embed_ids(ids), want)
    assert engine.token_budget == 128
    assert engine.events[0].startswith("CUDA out of memory at 1024 tokens: going on with ")
    assert engine.events[0] in caplog.text
    assert sum(size <= 150 for size in model.sizes) >= len(model.sizes) - 3
    told = len(engine.events)
    engine.embed_ids(ids)
    assert len(engine.events) == told


def test_halving_goes_below_a_batch_that_was_never_full() -> None:
    engine, model = with_model(Small, 150, 65536)
    engine.embed_ids(random_ids(9, 40, seed=2))
    assert engine.token_budget < 65536
    assert len(engine.events) == model.sizes.index(next(s for s in model.sizes if s <= 150))


def test_one_sequence_too_long_for_the_memory_is_named() -> None:
    engine, _ = with_model(Small, 50, 1024)
    with pytest.raises(EncoderError, match="sequence 1 with 61 tokens does not fit"):
        engine.embed_ids([np.full(5, 7), np.full(61, 7), np.full(9, 7)])


def test_value_that_is_not_finite_names_the_sequence() -> None:
    engine, _ = with_model(Broken, 0, 16)
    ids = [np.array([0, 5, 6, 2]), np.array([0, 5, 23, 2]), np.array([0, 23, 2])]
    with pytest.raises(EncoderError, match=r"NaN or Inf .*: 1"):
        engine.embed_ids(ids[:2])
    with pytest.raises(EncoderError, match=r"fp32 gave NaN or Inf for 2 sequences \(in this call: 1, 2\)"):
        engine.embed_ids([*ids[:2], np.array([0, 23, 2])])
    with pytest.raises(EncoderError, match=r": 1\)"):
        engine.hidden(ids[:2])


@pytest.mark.parametrize("budget", [1, 7, 50, 64, 1000])
def test_batches_keep_to_the_budget(budget: int) -> None:
    for attention in ("packed", "padded"):
        engine = encoder(ESM2, random_state(ESM2), attention=attention)
        model = Small(engine._model, 10**9)
        engine._model, engine.token_budget = model, budget
        ids = random_ids(25, 60, seed=4)
        engine.embed_ids(ids)
        lengths = [len(each) for each in ids]
        assert all(size <= budget or size in lengths for size in model.sizes)
        if attention == "packed":
            assert sum(model.sizes) == sum(lengths)


def test_nothing_in_nothing_out() -> None:
    engine = encoder(ESM2, random_state(ESM2))
    assert engine.embed([]).shape == (0, 60)
    assert engine.hidden([]) == []


def test_letters_go_through_the_tokenizer() -> None:
    engine = encoder(ESM2, random_state(ESM2))
    rows = engine.embed(["MKT", "MKTAY"])
    assert engine.tokens_read == 5 + 7
    np.testing.assert_array_equal(engine.embed(["MKTAY", "MKT"]), rows[::-1])


def test_no_residues_is_an_error_for_a_protein_and_none_for_dna() -> None:
    with pytest.raises(EncoderError, match="sequence 1 has no residues"):
        encoder(ESM2, random_state(ESM2)).embed_ids([np.array([0, 5, 2]), np.array([0, 2])])
    assert np.isfinite(encoder(DNABERT, random_state(DNABERT)).embed_ids([np.array([1, 2])])).all()


@pytest.mark.parametrize("bad", [np.array([[0, 2]]), np.array([0.0, 5.0, 2.0]), np.array([], np.int64)])
def test_ids_must_be_a_row_of_integers(bad: Any) -> None:
    with pytest.raises(EncoderError, match="sequence 0"):
        encoder(DNABERT, random_state(DNABERT)).embed_ids([bad])


@pytest.mark.parametrize("bad", [-1, 33])
def test_tokens_outside_the_vocabulary_are_refused(bad: int) -> None:
    with pytest.raises(EncoderError, match=r"sequence 1 has a token outside 0\.\.32"):
        encoder(ESM2, random_state(ESM2)).embed_ids([np.array([0, 5, 2]), np.array([0, bad, 2])])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int16])
def test_any_integers_do(dtype: type) -> None:
    engine = encoder(ESM2, random_state(ESM2))
    ids = random_ids(3, 20)
    np.testing.assert_array_equal(engine.embed_ids([each.astype(dtype) for each in ids]), engine.embed_ids(ids))


def test_pooling() -> None:
    ids = random_ids(5, 30, seed=6)
    for config in (ESM2, DNABERT):
        engine = encoder(config, random_state(config))
        inner = slice(1, -1) if config is ESM2 else slice(None)
        want = np.stack([each[inner].mean(axis=0) for each in engine.hidden(ids)])
        np.testing.assert_allclose(engine.embed_ids(ids), want, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"device": "tpu9"}, "no device is called 'tpu9'"),
        ({"device": "cuda:63"}, "'cuda:63': torch sees"),
        ({"precision": "int8"}, "int8"),
        ({"attention": "magic"}, "no attention is called 'magic'"),
        ({"token_budget": 0}, "above 0"),
        ({"token_budget": -5}, "above 0"),
    ],
)
def test_impossible_wishes(asked: Mapping[str, Any], said: str) -> None:
    with pytest.raises((EncoderError, UsageError), match=said):
        encoder(ESM2, random_state(ESM2), **asked)


def test_budgets_fit_the_device() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    assert default_budget(cpu, "fp32") == 8192
    assert default_budget(cuda, "fp16") == default_budget(cuda, "bf16") == 65536
    assert default_budget(cuda, "fp32") == 16384
