from __future__ import annotations

from pathlib import Path
from threading import Barrier

import pytest

from tests.runs.making import coding, plan_run, write_fasta
from vnp.encoders import Encoder, load
from vnp.errors import WeightsError
from vnp.runs import pair
from vnp.runs.pair import EncoderPair
from vnp.runs.request import Request


@pytest.fixture
def request_of_a_run(tmp_path: Path) -> Request:
    return plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", [("a", coding(100, 1))])]).request


def test_encoders_are_loaded_side_by_side(request_of_a_run: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2)

    def slow(name: str, *, molecule: str, **_: object) -> Encoder:
        both.wait(timeout=60)  # breaks if the other one is not loaded meanwhile
        encoder = load(name, molecule=molecule)
        encoder.weights_seconds = {"dna": 1.5, "protein": 4.0}[molecule]  # type: ignore[attr-defined]
        return encoder

    monkeypatch.setattr(pair, "load", slow)
    found = EncoderPair.load(request_of_a_run)
    assert (found.dna.spec.molecule, found.protein.spec.molecule) == ("dna", "protein")
    assert found.weights_seconds == 4.0


@pytest.mark.parametrize("broken", ["dna", "protein"])
def test_what_is_wrong_with_an_encoder_is_said(
    request_of_a_run: Request, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def failing(name: str, *, molecule: str, **_: object) -> Encoder:
        if molecule == broken:
            raise WeightsError(f"{molecule} is damaged")
        return load(name, molecule=molecule)

    monkeypatch.setattr(pair, "load", failing)
    with pytest.raises(WeightsError, match=f"{broken} is damaged"):
        EncoderPair.load(request_of_a_run)
