from __future__ import annotations

import pytest
import torch

from vnp.speed import measure
from vnp.speed.measure import default_precisions, describe_machine


def test_machine() -> None:
    found = describe_machine(torch.device("cpu"))
    assert found["name"] == "cpu"
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__  # type: ignore[index]
    assert "memory_gib" not in found


def test_bf16_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for units in (True, False):
        monkeypatch.setattr(measure, "multiplies_bf16", lambda units=units: units)
        assert default_precisions(torch.device("cpu")) == (("fp32", "bf16") if units else ("fp32",))
    assert default_precisions(torch.device("cuda")) == ("fp16", "bf16")
    assert default_precisions(torch.device("cuda"), few=True) == ("fp16",)
