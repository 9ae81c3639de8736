from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.speed import encoders as room
from vnp.speed.encoders import LEFT_OUT, ModelReport, SpeedRequest, measure_model
from vnp.speed.measure import Clock
from vnp.speed.results import as_json, table, write
from vnp.speed.workloads import Workload

FAST = SpeedRequest(precisions=("fp32",), repeats=2, ceiling_seconds=0.001)
WORKLOADS = [Workload("short", np.array([5, 9, 7, 6])), Workload("long", np.array([40, 12]))]


def run(model: BareModel, request: SpeedRequest = FAST, seconds: float = 600) -> ModelReport:
    return measure_model(model, WORKLOADS, request, Clock(seconds), lambda _: None)


def test_rows_beside_the_ceiling(dna: BareModel) -> None:
    report = run(dna)
    assert [(row.contestant, row.workload) for row in report.rows] == [("vnp", "short"), ("vnp", "long")]
    ours, _ = report.rows
    assert (ours.sequences, ours.tokens, ours.compared, len(ours.rounds)) == (4, 27, 4, 2)
    assert ours.least_cosine is not None
    assert ours.least_cosine > 0.99999
    assert ours.least_difference is not None
    assert ours.least_difference > 0.9999
    assert (ours.times_rival, ours.times_loop) == (None, None)
    ceiling = report.ceilings[0]
    assert ceiling.before
    assert ceiling.after
    assert ceiling.tflops == pytest.approx((ceiling.before + ceiling.after) / 2)
    assert ours.share == pytest.approx(ours.tflops / (ceiling.tflops or 0))
    assert ours.tflops == pytest.approx(dna.operations(WORKLOADS[0].lengths) / np.median(ours.rounds) / 1e12)


def test_one_that_fails_does_not_end_the_others(dna: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TransformerEncoder.embed_ids

    def scarce(self: TransformerEncoder, ids: list[np.ndarray]) -> np.ndarray:
        if max(map(len, ids)) > 30 and self.attention.name != "padded":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return right(self, ids)

    monkeypatch.setattr(TransformerEncoder, "embed_ids", scarce)
    rows = {row.workload: row for row in run(dna).rows}
    assert rows["short"].error is None
    assert rows["long"].error == "out of memory"


def test_a_precision_that_is_not_there_is_a_row_that_says_so(protein: BareModel) -> None:
    report = run(protein, replace(FAST, precisions=("fp8", "fp32"), repeats=1))
    rows = {(row.precision, row.workload): row for row in report.rows}
    assert "fp8" in (rows["fp8", "short"].error or "")
    assert rows["fp32", "short"].error is None
    ceilings = {each.precision: each for each in report.ceilings}
    assert "fp8 needs a GPU" in (ceilings["fp8"].error or "")
    assert ceilings["fp32"].tflops


def test_when_the_time_is_up_the_first_is_measured_once_and_the_others_are_left_out(dna: BareModel) -> None:
    report = run(dna, seconds=0)
    assert [(row.error, len(row.rounds)) for row in report.rows] == [(None, 1), (LEFT_OUT, 0)]


def test_an_interruption_leaves_what_was_measured(dna: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = room._measure, iter(range(9))

    def measured(*given: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(room, "_measure", measured)
    report = run(dna)
    assert report.interrupted
    assert [row.error for row in report.rows] == [None, "interrupted"]
    assert report.rows[0].share
    assert report.sweeps == ()
    assert "interrupted" in "\n".join(table(report))


def test_without_a_reference_there_is_no_cosine(dna: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right = BareModel.encoder

    def no_padded(self: BareModel, precision: str, attention: str = "auto", token_budget: int | None = None) -> object:
        if attention == "padded":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(self, precision, attention, token_budget)

    monkeypatch.setattr(BareModel, "encoder", no_padded)
    report = run(dna)
    assert report.reference_error == "out of memory"
    assert report.rows[0].error is None
    assert report.rows[0].least_cosine is None


def test_tuning_and_files(dna: BareModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "budgets_of", lambda _: (128, 256))
    report = run(dna, SpeedRequest(("fp32", "bf16"), repeats=1, ceiling_seconds=0.001, tune=True))
    assert [(sweep.over, sweep.precision) for sweep in report.sweeps] == [("budget", "fp32"), ("budget", "bf16")]
    assert all(sweep.best in (128, 256) for sweep in report.sweeps)
    files = write(tmp_path / "out", {"name": "cpu"}, [report])
    assert [path.name for path in files] == ["speed.json", "speed.tsv"]
    stored = json.loads(files[0].read_text())
    assert stored["schema"] == "vnp-speed/1"
    assert stored["models"][0]["rows"][0]["rounds"] == list(report.rows[0].rounds)
    assert stored["models"][0]["ceilings"][0]["tflops"] > 0
    lines = [line.split("\t") for line in files[1].read_text().splitlines()]
    assert len(lines) == 1 + len(report.rows)
    assert len({len(line) for line in lines}) == 1
    text = "\n".join(table(report))
    for words in ("4 sequences of 5 to 9 tokens", "the smallest batch within 1 %"):
        assert words in text
    assert "x rival" not in text


def test_tokens_of_a_batch_against_memory(dna: BareModel) -> None:
    report = run(dna, replace(FAST, repeats=1))
    assert (report.rows[0].fitting(80), "that fit" in "\n".join(table(report))) == (None, False)  # a CPU says nothing
    measured = [
        replace(row, weights_gib=2.0, token_bytes=size) for row, size in zip(report.rows, (2e4, 4e4), strict=True)
    ]
    # Nine tenths of 24 GB without the weights; by the workload that takes most for a token.
    assert measured[1].fitting(24) == int((0.9 * 24e9 - 2 * 2**30) / 4e4)
    assert measured[1].fitting(1) == 0
    lines = "\n".join(table(replace(report, rows=tuple(measured)))).splitlines()
    (line,) = (line for line in lines if line.startswith("  fp32  "))
    assert line.split() == ["fp32", "2.00", "39.1", "486,312", "846,312", "1,746,312", "3,118,812"]


def test_what_is_not_finite_is_null_in_json(dna: BareModel) -> None:
    report = run(dna)
    broken = replace(report, rows=(replace(report.rows[0], least_cosine=float("nan")),))
    assert as_json({}, [broken])["models"][0]["rows"][0]["least_cosine"] is None
    assert "not finite" in "\n".join(table(broken))


def test_table_of_nothing_but_errors(dna: BareModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise EncoderError("no such kernel\nand more")

    monkeypatch.setattr(BareModel, "encoder", fails)
    report = run(dna)
    assert [row.error for row in report.rows] == ["no such kernel"] * 2
    assert "no such kernel" in "\n".join(table(report))
    assert len(write(tmp_path, {}, [report])) == 2
