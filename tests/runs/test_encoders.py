"""Loading encoders: side by side, and beside the reading of the first block."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.runs import making
from tests.runs.making import coding, make_one, plan_run, small_blocks, write_fasta
from vnp.encoders import Encoder, load
from vnp.errors import EncoderError, WeightsError
from vnp.runs import units as rows
from vnp.runs.making import encoders, pipeline
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.request import Request, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    records = [(f"c{number}", coding(500, number)) for number in range(20)]
    return small_blocks(plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", records)], shards=1), 10)


@pytest.fixture
def request_of_a_run(run: Run) -> Request:
    return run.request


def test_encoders_are_loaded_side_by_side(request_of_a_run: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def slow(name: str, *, molecule: str, **_: object) -> Encoder:
        both.wait(timeout=60)  # breaks if the other one is not loaded meanwhile
        encoder = load(name, molecule=molecule)
        encoder.weights_seconds = {"dna": 1.5, "protein": 4.0}[molecule]  # type: ignore[attr-defined]
        return encoder

    monkeypatch.setattr(encoders, "load", slow)
    found = RunEncoders.load(request_of_a_run)
    assert [one.spec.molecule for one in found.by_molecule().values()] == ["dna", "protein"]
    assert found.weights_seconds == 4.0


@pytest.mark.parametrize("broken", ["dna", "protein"])
def test_what_is_wrong_with_an_encoder_is_said(
    request_of_a_run: Request, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def failing(name: str, *, molecule: str, **_: object) -> Encoder:
        if molecule == broken:
            raise WeightsError(f"{molecule} is damaged")
        return load(name, molecule=molecule)

    monkeypatch.setattr(encoders, "load", failing)
    with pytest.raises(WeightsError, match=f"{broken} is damaged"):
        RunEncoders.load(request_of_a_run)


def test_the_first_block_is_read_while_encoders_are_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = threading.Event()

    def note(*args: Any, **more: Any) -> Any:
        read.set()
        return rows.prepare(*args, **more)

    def loaded() -> RunEncoders:
        assert read.wait(timeout=60)
        return making.pair()

    monkeypatch.setattr(pipeline, "prepare", note)
    assert make_one(run, 0, loaded).state == "done"


def test_encoders_that_cannot_be_loaded_end_the_task(run: Run) -> None:
    def broken() -> RunEncoders:
        raise EncoderError("out of order")

    before = set(threading.enumerate())
    with pytest.raises(EncoderError, match="out of order"):
        make_one(run, 0, broken)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert make_one(run, 0).state == "done"
