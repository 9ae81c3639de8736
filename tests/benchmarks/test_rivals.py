from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.rivals import EsmModel, best_batch, rivals, token_batches
from vnp.encoders.models.bare import BareModel
from vnp.encoders.spec import spec
from vnp.errors import EncoderError
from vnp.speed.compare import ours, sample_pieces, sorted_batches
from vnp.speed.measure import embed_in_pieces, least_cosine

LENGTHS = np.array([3, 90, 12, 40, 41, 7, 64, 20, 33])


@pytest.mark.parametrize("kind", ["protein", "dna"])
def test_everybody_computes_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    model: BareModel = request.getfixturevalue(kind)
    if kind == "protein":
        pytest.importorskip("transformers")
    ids = model.sequences(LENGTHS)
    want = model.encoder("fp32", "padded").embed_ids(ids)
    precisions = ("fp32", "bf16")
    field = [*(ours(each, None) for each in precisions), *rivals(model, precisions)]
    assert [each.kind for each in field] == (
        ["ours", "ours", "rival", "loop"] if kind == "protein" else ["ours", "ours", "loop"]
    )
    for each in field:
        entry = each.build(model).prepare(ids, 1.0)
        assert sorted(np.concatenate(entry.pieces).tolist()) == list(range(len(ids)))
        got = embed_in_pieces(entry.run, ids, entry.pieces)
        assert least_cosine(got, want) >= (0.999999 if each.precision == "fp32" else 0.999), each.name
        again = embed_in_pieces(entry.run, ids, sample_pieces(entry, each.kind, ids))
        np.testing.assert_allclose(again, got, atol=1e-5 if each.precision == "fp32" else 0.1)


def test_esm2_3b_runs_against_batches_of_tokens_in_float32(protein: BareModel) -> None:
    pytest.importorskip("transformers")
    model = replace(protein, spec=spec("esm2_3b"))
    loop = rivals(model, ("bf16",))[-1]
    assert (loop.kind, loop.precision) == ("loop", "fp32")
    ids = model.sequences(np.full(60, 100))
    assert [len(each) for each in loop.build(model).prepare(ids, 1.0).pieces] == [20, 20, 20]


def test_rivals_know_no_fp8(protein: BareModel) -> None:
    assert [each.precision for each in rivals(protein, ("fp8", "bf16"))] == ["bf16", "bf16"]
    assert rivals(protein, ("fp8",))[-1].precision == "fp32"


def test_batches() -> None:
    assert [each.tolist() for each in sorted_batches(np.array([1, 9, 5]), 2)] == [[1, 2], [0]]
    pieces = token_batches(np.array([10, 50, 10, 200, 10]), 100)
    assert [each.tolist() for each in pieces] == [[0, 2, 4], [1], [3]]


def test_best_batch_stops_at_what_does_not_fit(protein: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    model = EsmModel(protein, "fp32", copy_each=False)
    ids = protein.sequences(np.full(12, 9))
    right = EsmModel.run

    def scarce(self: EsmModel, ids: list[np.ndarray]) -> np.ndarray:
        if len(ids) > 4:
            raise torch.OutOfMemoryError("no")
        return right(self, ids)

    monkeypatch.setattr(EsmModel, "run", scarce)
    batch, pieces = best_batch(model, ids, (2, 4, 8), 60.0)
    assert batch in (2, 4)
    assert {len(each) for each in pieces} == {batch}
    with pytest.raises(EncoderError, match="a batch of 8 does not fit"):
        best_batch(model, ids, (8,), 60.0)


def test_without_transformers_the_extra_is_named(protein: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EncoderError, match=r"vnp\[reference\]"):
        EsmModel(protein, "fp32", copy_each=False)


def test_a_rival_that_lacks_weights_is_refused(protein: BareModel) -> None:
    pytest.importorskip("transformers")
    state = {name: each for name, each in protein.state.items() if "intermediate" not in name}
    with pytest.raises(EncoderError, match=r"intermediate\.dense"):
        EsmModel(replace(protein, state=state), "fp32", copy_each=False)
