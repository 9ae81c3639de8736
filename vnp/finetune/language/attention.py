"""Attention within sequence borders that gradients go through: our own kernel on a GPU, else spread out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vnp.encoders.models.esm2 import RotaryTable, rotate
from vnp.encoders.models.trunk import Sizes
from vnp.encoders.packing import Attend, Attention, AttentionShape, Batch, Borders, Layout, collate, to_device
from vnp.errors import EncoderError

log = logging.getLogger(__name__)

_TURNED_HEADS = (32, 64, 128)
_CHECKED = ((3, 50), (102, 1, 70), (150, 40, 300))
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


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


def attend(
    qkv: Float[Tensor, "rows 3 heads head"], batch: Batch, rotary: RotaryTable
) -> Float[Tensor, "rows heads head"]:
    """Turn queries and keys by their positions, and attend within the batch's sequences."""
    if (turned := getattr(batch.attend, "turned", None)) is not None:
        return cast("Tensor", turned(qkv, batch.positions, rotary.tables(batch.borders.longest)))
    cos, sin = (one[:, None] for one in rotary(batch.positions, batch.borders.longest))
    q, k, v = qkv.unbind(1)
    return batch.attend(rotate(q, cos, sin), rotate(k, cos, sin), v)


def choose_attention(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Attention:
    """The best that runs here and agrees with plain attention in float32, gradients too."""
    if device.type != "cuda" or dtype == torch.float32 or sizes.head not in _TURNED_HEADS:
        return SpreadAttention()
    try:
        from vnp.encoders.kernels.turned import TurnedAttention

        found = TurnedAttention(AttentionShape(sizes.heads, sizes.head, None, dtype, device))
        check_attention(found, sizes, device, dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a library raises, the other one may run
        log.warning("attention of fine-tuning: %s: %s", type(error).__name__, error)
        return SpreadAttention()
    return found


def check_attention(
    found: Attention, sizes: Sizes, device: torch.device, dtype: torch.dtype,
    batches: Sequence[Sequence[int]] = _CHECKED,
) -> None:  # fmt: skip
    """Compare it and its gradient with float32 on batches of so many tokens; ``EncoderError`` where they differ."""
    table = RotaryTable(sizes.head, 10_000.0, device)
    chance = torch.Generator().manual_seed(0)
    for lengths in batches:
        ids = [np.zeros(length, np.int64) for length in lengths]
        size = (sum(lengths), sizes.heads, sizes.head)
        first = torch.randn(size[0], 3, *size[1:], generator=chance).to(device, dtype)
        toward = torch.randn(size, generator=chance).to(device, dtype)
        came = []
        for way, half in ((found, dtype), (SpreadAttention(), torch.float32)):
            batch = collate(ids, np.arange(len(ids)), way, device, None)
            qkv = first.to(half).requires_grad_()
            out = attend(qkv, batch, table)
            (into,) = torch.autograd.grad(out, qkv, toward.to(half))
            came.append((out.detach().float(), into.float()))
        for got, want in zip(*came, strict=True):
            error = float((got - want).norm() / want.norm())
            if not error <= _TOLERANCE[dtype]:
                raise EncoderError(f"{found.name} differs by {error:.2g} from float32 attention")
