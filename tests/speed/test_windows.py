from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vnp.encoders.models.eight_bits import multiplies_bytes
from vnp.encoders.windows import SixFrameEncoder
from vnp.speed.encoders import SpeedRequest
from vnp.speed.measure import Clock
from vnp.speed.results import table
from vnp.speed.windows import default_windows, measure_windows, window_precisions
from vnp.speed.workloads import Workload, file_workload

FAST = SpeedRequest(precisions=("fp32",), token_budget=400, repeats=2, ceiling_seconds=0.001, sample=2)
WORKLOADS = [
    Workload("short", np.array([150, 150, 100]), "bases"),
    Workload("mixed", np.array([301, 120]), "bases"),
]
CPU = torch.device("cpu")


def test_bases_a_second_beside_the_convolutions_alone() -> None:
    report = measure_windows("sixframe", CPU, None, WORKLOADS, FAST, Clock(60), lambda _: None)
    short, mixed = report.rows
    (ceiling,) = report.ceilings
    assert (short.sequences, short.tokens, len(short.rounds), short.compared) == (3, 400, 2, 2)
    assert short.least_cosine == pytest.approx(1)
    assert short.tokens_per_second == pytest.approx(400 / np.median(short.rounds))
    assert ceiling.before is not None
    assert short.share == pytest.approx(short.tflops / ceiling.before)
    # A window of 320 bases, which 301 are rounded up to, costs as many more operations as it has more places.
    seconds = [float(np.median(row.rounds)) for row in (short, mixed)]
    operations = [row.tflops * spent for row, spent in zip((short, mixed), seconds, strict=True)]
    assert operations[1] / operations[0] == pytest.approx((320 + 120) / 400, rel=0.05)
    assert "Mbp a minute" in "\n".join(table(report))
    assert "3 sequences of 100 to 150 bases" in "\n".join(table(report))


@pytest.mark.skipif(not multiplies_bytes(), reason="this CPU has no products of bytes")
def test_bytes_have_a_limit_of_their_own() -> None:
    assert window_precisions(CPU) == ("int8", "fp32")
    report = measure_windows("sixframe", CPU, None, WORKLOADS, replace(FAST, precisions=("int8",)), Clock(60), print)
    (ceiling,), rows = report.ceilings, report.rows
    assert ceiling.precision == "int8"
    assert all(row.error is None and row.least_cosine is not None and 0.99 < row.least_cosine < 1 for row in rows)
    # As many operations as in float32: 1.6 million a base, and a little more where a short window is all border.
    assert rows[0].tflops * float(np.median(rows[0].rounds)) * 1e12 / 400 == pytest.approx(1.7e6, rel=0.15)
    assert "Mbp a minute of one core's time" in "\n".join(table(report))


def test_what_fails_says_why_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(_self: SixFrameEncoder, _work: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(SixFrameEncoder, "launch", scarce)
    report = measure_windows("sixframe", CPU, None, WORKLOADS[:1], FAST, Clock(60), lambda _: None)
    assert [row.error for row in report.rows] == ["out of memory"]


def test_workloads(tmp_path: Path) -> None:
    made = default_windows(60_000)
    assert [each.name for each in made][:2] == ["windows of 2,000 bases", "windows of 1,000 bases"]
    assert all(40_000 < each.tokens < 80_000 for each in made)
    assert len(default_windows(60_000, few=True)) == 2
    (tmp_path / "a.fa").write_text(">a\n" + "ACGT" * 50 + "\n")
    assert file_workload(tmp_path / "a.fa", dna=True, tokens=400, bases=True).lengths.tolist() == [200, 200]
