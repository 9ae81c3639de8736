"""Attention within sequence borders that gradients go through: torch's varlen kernel on a GPU, padded elsewhere."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vnp.encoders.packing import Attend, Attention, Borders, Layout, to_device


class VarlenAttention:
    """FlashAttention over packed rows (Dao, ICLR 2024), as torch has it; half precision only."""

    name = "varlen"
    layout: Layout = "packed"

    def prepare(self, borders: Borders) -> Attend:
        """Bring the borders to the device."""
        from torch.nn.attention.varlen import varlen_attn

        starts = to_device(borders.starts.astype(np.int32), borders.device)
        longest = borders.longest

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return cast("Tensor", varlen_attn(q, k, v, starts, starts, longest, longest))

        return attend


class SpreadAttention:
    """Queries, keys and values of packed rows are spread out to the longest sequence, for this product alone."""

    name = "spread"
    layout: Layout = "packed"

    def prepare(self, borders: Borders) -> Attend:
        """Note where each row goes."""
        lengths, longest = borders.lengths, borders.longest
        within = np.arange(lengths.sum()) - np.repeat(borders.starts[:-1], lengths)
        places = to_device(np.repeat(np.arange(len(lengths)), lengths) * longest + within, borders.device)
        there = torch.zeros(len(lengths) * longest, dtype=torch.bool, device=borders.device)
        there[places] = True
        mask = there.view(len(lengths), 1, 1, longest)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            def spread(one: Tensor) -> Tensor:
                wide = one.new_zeros(len(there), *one.shape[1:]).index_copy(0, places, one)
                return wide.view(len(lengths), longest, *one.shape[1:]).transpose(1, 2)

            found = scaled_dot_product_attention(spread(q), spread(k), spread(v), attn_mask=mask)
            return found.transpose(1, 2).flatten(0, 1)[places]

        return attend


def choose_attention(device: torch.device, dtype: torch.dtype) -> Attention:
    """The best that runs here."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return SpreadAttention()
        del varlen_attn
        return VarlenAttention()
    return SpreadAttention()
