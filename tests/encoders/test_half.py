from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.encoders._folders import write_folder
from vnp.encoders import device, half
from vnp.encoders.device import choose_precision
from vnp.encoders.half import HalfRecord, bears_bf16, measure_half
from vnp.encoders.measured import weights_digest
from vnp.encoders.registry import load, settled_precision
from vnp.encoders.spec import EncoderSpec
from vnp.encoders.weights.folders import locate
from vnp.encoders.weights.lock import resolve

GOOD = HalfRecord("x", "w", "p", 1, "t", 0.9995, 0.995, 1.9)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, on a machine without a GPU whose processor has units for bfloat16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "multiplies_bf16", lambda: True)
    return write_folder(tmp_path / "model")


def spec_of(model: Path) -> EncoderSpec:
    return resolve(locate(str(model), "protein", None)[0], model)


@pytest.mark.parametrize(
    ("changed", "passes"),
    [({}, True), ({"min_cosine": 0.998}, False), ({"min_difference": 0.98}, False), ({"times": 1.1}, False)],
)
def test_rounding_must_be_small_and_worth_it(changed: dict[str, float], passes: bool) -> None:
    assert replace(GOOD, **changed).passes is passes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "bears", "int8", "expected"),
    [
        (True, True, False, "bf16"),
        (True, False, False, "fp32"),
        (False, True, False, "fp32"),
        (True, True, True, "int8"),
    ],
)
def test_auto_asks_the_processor_then_the_weights(
    units: bool, bears: bool, int8: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "multiplies_bf16", lambda: units)
    monkeypatch.setattr(device, "multiplies_bytes", lambda: True)
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, int8=int8, bears_bf16=lambda: bears) == expected
    assert choose_precision("fp32", cpu, int8=int8, bears_bf16=lambda: bears) == "fp32"


@pytest.mark.parametrize(("flags", "torchs_word", "expected"), [
    ("avx512f avx512_bf16", True, True), ("amx_tile amx_bf16", True, True), ("avx512f avx512_vnni", True, False),
    ("avx512_bf16", False, False),
])  # fmt: skip
def test_units_are_what_the_system_and_torch_say(
    flags: str, torchs_word: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_fact", lambda _name: flags)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: torchs_word)
    assert device.multiplies_bf16.__wrapped__() is expected


def test_a_measurement_is_of_these_weights(model: Path) -> None:
    found = measure_half(spec_of(model), model)
    assert 0.99 < found.min_cosine < 1
    assert 0.9 < found.min_difference < 1
    assert found.times > 0
    assert found.weights == weights_digest(spec_of(model))


def test_it_is_measured_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def measure(_spec: EncoderSpec, folder: Path) -> HalfRecord:
        asked.append(folder)
        return GOOD

    monkeypatch.setattr(half, "measure_half", measure)
    assert [bears_bf16(spec_of(model), model) for _ in range(3)] == [True] * 3
    assert len(asked) == 1
    (kept,) = (model.parent / "cache").rglob("bf16/*.json")
    kept.write_text(kept.read_text().replace("1.9", "9.1"))
    assert bears_bf16(spec_of(model), model)
    assert len(asked) == 2, "what was changed is measured again"
    torch.set_num_threads(threads := torch.get_num_threads() + 1)
    try:
        bears_bf16(spec_of(model), model)
    finally:
        torch.set_num_threads(threads - 1)
    assert len(asked) == 3, "other threads, other times"


@pytest.mark.parametrize(("times", "precision"), [(1.9, "bf16"), (0.9, "fp32")])
def test_encoders_and_runs_follow_the_measurement(
    times: float, precision: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "measure_half", lambda _spec, _folder: replace(GOOD, times=times))
    assert settled_precision(str(model), "protein", None, "cpu") == precision
    encoder = load(str(model), molecule="protein", device="cpu")
    assert encoder.precision == precision
    assert encoder.embed(["MKTLLV"]).shape == (1, encoder.width)
