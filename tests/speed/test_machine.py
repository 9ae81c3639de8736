from __future__ import annotations

import torch

from vnp.speed.measure import cpu_has_bf16, default_precisions, describe_machine


def test_machine() -> None:
    found = describe_machine(torch.device("cpu"))
    assert found["name"] == "cpu"
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__  # type: ignore[index]
    assert "memory_gib" not in found


def test_bf16_where_the_cpu_multiplies_it() -> None:
    assert cpu_has_bf16("fpu avx2 avx512_bf16")
    assert cpu_has_bf16("amx_tile amx_bf16")
    assert not cpu_has_bf16("fpu avx2 avx512f")
    assert default_precisions(torch.device("cpu"))[0] == "fp32"
    assert default_precisions(torch.device("cuda")) == ("fp16", "bf16")
    assert default_precisions(torch.device("cuda"), few=True) == ("fp16",)
