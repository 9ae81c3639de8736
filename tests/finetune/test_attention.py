"""The attention that gradients go through: its own kernels, interpreted, and what notices one that is wrong."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from tests.encoders._interpreted import interpreted
from vnp.encoders.models.bare import random_model
from vnp.encoders.models.esm2 import Esm2Config
from vnp.encoders.packing import Attend, Borders
from vnp.encoders.spec import spec
from vnp.errors import EncoderError
from vnp.finetune.language.attention import SpreadAttention, check_attention, choose_attention

CPU = torch.device("cpu")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_give_the_gradient_of_plain_attention() -> None:
    # A tile of 64 rows, one of 128, and several.
    interpreted(
        """
import torch
from types import SimpleNamespace
from vnp.encoders.kernels.turned import TurnedAttention
from vnp.encoders.packing import AttentionShape
from vnp.finetune.language.attention import check_attention
cpu, half = torch.device("cpu"), torch.float32
own = TurnedAttention(AttentionShape(2, 32, None, half, cpu))
check_attention(own, SimpleNamespace(heads=2, head=32), cpu, half, [(3, 50), (70, 5), (131, 1, 66)])
"""
    )


class Wrong(SpreadAttention):
    """Right forward; of what comes back to values a hundredth is missing."""

    name = "wrong"

    def prepare(self, borders: Borders) -> Attend:
        attend = super().prepare(borders)

        def wrong(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, k, 0.99 * v + 0.01 * v.detach())

        return wrong


def test_a_wrong_gradient_is_noticed() -> None:
    sizes = Esm2Config.read(random_model("cpu", spec("esm2_650m", "protein"), layers=1).config)
    assert choose_attention(sizes, CPU, torch.float32).name == "spread"
    check_attention(SpreadAttention(), sizes, CPU, torch.float32, [(3, 7)])
    with pytest.raises(EncoderError, match=r"wrong differs by 0\.00.* from float32 attention"):
        check_attention(Wrong(), sizes, CPU, torch.float32, [(3, 7)])
