from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import rivals as room
from benchmarks.rivals import (
    EsmModel,
    Rival,
    best_batch,
    embed_in_pieces,
    measure_rivals,
    rivals_of,
    sorted_batches,
    token_batches,
)
from vnp.encoders.measured import cosines
from vnp.encoders.models.bare import BareModel
from vnp.encoders.spec import spec
from vnp.errors import EncoderError
from vnp.speed.encoders import SpeedRequest, measure_model
from vnp.speed.measure import Clock
from vnp.speed.results import table
from vnp.speed.workloads import Workload

LENGTHS = np.array([3, 90, 12, 40, 41, 7, 64, 20, 33])


@pytest.mark.parametrize("kind", ["protein", "dna"])
def test_everybody_computes_the_same(kind: str, request: pytest.FixtureRequest) -> None:
    model: BareModel = request.getfixturevalue(kind)
    if kind == "protein":
        pytest.importorskip("transformers")
    ids = model.sequences(LENGTHS)
    want = model.encoder("fp32", "padded").embed_ids(ids)
    field = rivals_of(model, ("fp32", "bf16"))
    assert [each.kind for each in field] == (["rival", "loop"] if kind == "protein" else ["loop"])
    for each in field:
        run, pieces, _ = each.build(model)(ids, 1.0)
        assert sorted(np.concatenate(pieces).tolist()) == list(range(len(ids)))
        assert cosines(embed_in_pieces(run, ids, pieces), want).min() >= 0.999999, each.name


def test_rows_beside_ours(dna: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_at_once(_: BareModel) -> room.Prepare:
        raise EncoderError("no such kernel\nand more")

    def fails_on_long_ones(model: BareModel) -> room.Prepare:
        run = model.encoder("fp32").embed_ids

        def prepare(ids: list[np.ndarray], _: float) -> tuple[room.Run, room.Pieces, str]:
            if len(ids) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            return run, [np.arange(len(ids))], ""

        return prepare  # type: ignore[return-value]

    def wrong_numbers(_: BareModel) -> room.Prepare:
        return lambda ids, _: (lambda some: np.ones((len(some), 7), np.float32), [np.arange(len(ids))], "")

    field = rivals_of(dna, ("fp32",))
    field += [
        Rival("broken", "rival", "fp32", fails_at_once),
        Rival("greedy", "rival", "fp32", fails_on_long_ones),
        Rival("wrong", "rival", "fp32", wrong_numbers),
    ]
    monkeypatch.setattr(room, "rivals_of", lambda *_: field)
    workloads = [Workload("short", np.array([5, 9, 7, 6])), Workload("long", np.array([40, 12]))]
    asked = SpeedRequest(("fp32",), repeats=2, ceiling_seconds=0.001)
    clock = Clock(600)
    report = measure_model(
        dna, workloads, asked, clock, print, lambda courses: measure_rivals(dna, asked, clock, print, courses)
    )
    rows = {(row.contestant, row.workload): row for row in report.rows}
    ours, loop = rows["vnp", "short"], rows["VirNucPro's way: one sequence at a time", "short"]
    assert ours.times_loop == pytest.approx(ours.tokens_per_second / loop.tokens_per_second)
    assert ours.times_rival is not None
    assert (loop.times_loop, loop.times_rival) == (None, None)
    assert rows["broken", "short"].error == rows["broken", "long"].error == "no such kernel"
    assert rows["greedy", "short"].error is None
    assert rows["greedy", "long"].error == "out of memory"
    # Numbers of another width cannot be compared, which is that rival's fault alone.
    assert "ValueError" in (rows["wrong", "short"].error or "")
    assert "x VirNucPro" in "\n".join(table(report))
    late = list(measure_rivals(dna, asked, Clock(0), print, []))
    assert late == []


def test_esm2_3b_runs_against_batches_of_tokens_in_float32(protein: BareModel) -> None:
    pytest.importorskip("transformers")
    model = replace(protein, spec=spec("esm2_3b"))
    loop = rivals_of(model, ("bf16",))[-1]
    assert (loop.kind, loop.precision) == ("loop", "fp32")
    ids = model.sequences(np.full(60, 100))
    assert [len(each) for each in loop.build(model)(ids, 1.0)[1]] == [20, 20, 20]


def test_rivals_know_no_fp8(protein: BareModel) -> None:
    assert [each.precision for each in rivals_of(protein, ("fp8", "bf16"))] == ["bf16", "bf16"]
    assert rivals_of(protein, ("fp8",))[-1].precision == "fp32"


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
    with pytest.raises(EncoderError, match=r"\[reference\]"):
        EsmModel(protein, "fp32", copy_each=False)


def test_a_rival_that_lacks_weights_is_refused(protein: BareModel) -> None:
    pytest.importorskip("transformers")
    state = {name: each for name, each in protein.state.items() if "intermediate" not in name}
    with pytest.raises(EncoderError, match=r"intermediate\.dense"):
        EsmModel(replace(protein, state=state), "fp32", copy_each=False)
