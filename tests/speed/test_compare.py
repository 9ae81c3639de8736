from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.rivals import rivals
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.speed import compare as room
from vnp.speed.compare import Contestant, Entry, Ready, SpeedRequest, compare
from vnp.speed.measure import Clock
from vnp.speed.results import ModelReport, as_json, table, write
from vnp.speed.workloads import Workload

FAST = SpeedRequest(precisions=("fp32",), repeats=2, rival_seconds=0.01, ceiling_seconds=0.001, sweeps=False)
WORKLOADS = [Workload("short", np.array([5, 9, 7, 6])), Workload("long", np.array([40, 12]))]


def run(model: BareModel, request: SpeedRequest = FAST, seconds: float = 600) -> ModelReport:
    others = rivals(model, request.precisions)
    return compare(model, WORKLOADS, request, Clock(seconds), lambda _: None, others)


def fails_at_once(_: BareModel) -> Ready:
    raise EncoderError("no such kernel\nand more")


def fails_on_long_ones(model: BareModel) -> Ready:
    encoder = model.encoder("fp32")

    def prepare(ids: Any, _: float) -> Entry:
        found = list(ids)
        if len(found) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return Entry(encoder.embed_ids, [np.arange(len(found))], "")

    return Ready(prepare)


def wrong_numbers(model: BareModel) -> Ready:
    def noise(ids: Any) -> np.ndarray:
        return np.ones((len(list(ids)), 7), np.float32)

    return Ready(lambda ids, _: Entry(noise, [np.arange(len(ids))], ""))


def test_rows_of_all_and_how_they_compare(dna: BareModel) -> None:
    report = run(dna)
    assert [(row.contestant, row.workload) for row in report.rows] == [
        ("vnp", "short"),
        ("vnp", "long"),
        ("VirNucPro's way: one sequence at a time", "short"),
        ("VirNucPro's way: one sequence at a time", "long"),
    ]
    ours, _, loop, _ = report.rows
    assert (ours.sequences, ours.tokens, ours.compared, len(ours.rounds)) == (4, 27, 4, 2)
    assert ours.least_cosine is not None
    assert ours.least_cosine > 0.99999
    assert ours.times_rival is None
    assert ours.times_loop == pytest.approx(ours.tokens_per_second / loop.tokens_per_second)
    ceiling = report.ceilings[0]
    assert ceiling.before
    assert ceiling.after
    assert ceiling.tflops == pytest.approx((ceiling.before + ceiling.after) / 2)
    assert ours.share == pytest.approx(ours.tflops / (ceiling.tflops or 0))
    assert ours.tflops == pytest.approx(dna.operations(WORKLOADS[0].lengths) / np.median(ours.rounds) / 1e12)
    assert (loop.times_loop, loop.times_rival) == (None, None)


def test_one_that_fails_does_not_end_the_others(dna: BareModel) -> None:
    others = [
        Contestant("broken", "rival", "fp32", fails_at_once),
        Contestant("greedy", "rival", "fp32", fails_on_long_ones),
        Contestant("wrong", "rival", "fp32", wrong_numbers),
    ]
    report = compare(dna, WORKLOADS, FAST, Clock(600), lambda _: None, others)
    rows = {(row.contestant, row.workload): row for row in report.rows}
    assert rows["broken", "short"].error == rows["broken", "long"].error == "no such kernel"
    assert rows["greedy", "short"].error is None
    assert rows["greedy", "long"].error == "out of memory"
    # Numbers of another width cannot be compared, which is that contestant's fault alone.
    assert "ValueError" in (rows["wrong", "short"].error or "")
    assert rows["vnp", "long"].error is None
    assert rows["vnp", "short"].times_rival is not None


def test_a_precision_that_is_not_there_is_a_row_that_says_so(protein: BareModel) -> None:
    pytest.importorskip("transformers")
    report = run(protein, replace(FAST, precisions=("fp8", "fp32"), repeats=1))
    rows = {(row.kind, row.precision, row.workload): row for row in report.rows}
    assert "fp8" in (rows["ours", "fp8", "short"].error or "")
    assert rows["ours", "fp32", "short"].error is None
    ceilings = {each.precision: each for each in report.ceilings}
    assert "fp8 needs a GPU" in (ceilings["fp8"].error or "")
    assert ceilings["fp32"].tflops
    assert rows["rival", "fp32", "short"].error is None
    assert rows["loop", "fp32", "long"].error is None


def test_when_the_time_is_up_ours_are_measured_still(dna: BareModel) -> None:
    report = run(dna, SpeedRequest(("fp32",), ceiling_seconds=0.001), seconds=0)
    errors = {(row.kind, row.workload): row.error for row in report.rows}
    assert errors["ours", "short"] is errors["ours", "long"] is None
    assert "time was used up" in (errors["loop", "short"] or "")
    assert "time was used up" in (report.sweeps[0].error or "")


def test_an_interruption_leaves_what_was_measured(dna: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = room._measure, iter(range(9))

    def measured(*given: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(room, "_measure", measured)
    report = run(dna)
    assert report.interrupted
    assert [row.error for row in report.rows] == [None, "interrupted", "interrupted", "interrupted"]
    assert report.rows[0].share
    assert report.sweeps == ()
    assert "interrupted" in "\n".join(table(report))


def test_rivals_run_before_our_further_precisions(dna: BareModel, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, str]] = []
    contest = room._contest

    def noted(model: BareModel, contestant: Contestant, *rest: Any) -> Any:
        order.append((contestant.kind, contestant.precision))
        return contest(model, contestant, *rest)

    monkeypatch.setattr(room, "_contest", noted)
    request = SpeedRequest(
        ("fp32", "bf16"), repeats=1, rival_seconds=0.01, ceiling_seconds=0.001, sample=2, sweeps=False
    )
    report = compare(dna, WORKLOADS[:1], request, Clock(60), lambda _: None, rivals(dna, ("fp32",)))
    assert order == [("ours", "fp32"), ("loop", "fp32"), ("ours", "bf16")]
    assert [(row.kind, row.precision) for row in report.rows] == [("ours", "fp32"), ("ours", "bf16"), ("loop", "fp32")]


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


def test_sweeps_and_files(dna: BareModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "ranges", lambda _: ((8, 16), (128, 256)))
    report = run(dna, SpeedRequest(("fp32", "bf16"), repeats=1, rival_seconds=0.01, ceiling_seconds=0.001, tune=True))
    assert [(sweep.over, sweep.precision) for sweep in report.sweeps] == [
        ("length", "fp32"),
        ("budget", "fp32"),
        ("budget", "bf16"),
    ]
    assert all(sweep.best in (128, 256) for sweep in report.sweeps[1:])
    files = write(tmp_path / "out", {"name": "cpu"}, [report])
    assert [path.name for path in files] == ["speed.json", "speed.tsv", "speed.png"]
    stored = json.loads(files[0].read_text())
    assert stored["schema"] == "vnp-speed/1"
    assert stored["models"][0]["rows"][0]["rounds"] == list(report.rows[0].rounds)
    assert stored["models"][0]["ceilings"][0]["tflops"] > 0
    lines = [line.split("\t") for line in files[1].read_text().splitlines()]
    assert len(lines) == 1 + len(report.rows)
    assert len({len(line) for line in lines}) == 1
    assert files[2].read_bytes().startswith(b"\x89PNG")
    text = "\n".join(table(report))
    for words in ("dnabert_s, short: 4 sequences of 5 to 9 tokens", "the smallest batch within 1 %", "x VirNucPro"):
        assert words in text


def test_what_is_not_finite_is_null_in_json(dna: BareModel) -> None:
    report = run(dna)
    broken = type(report)(
        **{**vars(report), "rows": (type(report.rows[0])(**{**vars(report.rows[0]), "least_cosine": float("nan")}),)}
    )
    assert as_json({}, [broken])["models"][0]["rows"][0]["least_cosine"] is None
    assert "not finite" in "\n".join(table(broken))


def test_table_and_picture_of_nothing_but_errors(
    dna: BareModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "ours", lambda *_: Contestant("vnp", "ours", "fp32", fails_at_once))
    report = run(dna, SpeedRequest(("fp32",), ceiling_seconds=0.001))
    assert "no such kernel" in "\n".join(table(report))
    assert len(write(tmp_path, {}, [report])) == 3
