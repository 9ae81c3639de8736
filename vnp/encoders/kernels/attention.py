"""Attention within sequence borders: one object a kernel, the fastest that agrees, chosen once an encoder is built.

A kernel is asked per batch to prepare what depends on the borders alone (``prepare``), and gives back the
function that every layer then calls. All compute softmax(q k^T / sqrt(d) + bias) v, where the bias is
ALiBi's ``-slope * |i - j|`` for each head that has a slope (Press et al., ICLR 2022), else nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from vnp.encoders.packing import Attend, Attention, AttentionShape, Borders, Layout, to_device
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from jaxtyping import Float

log = logging.getLogger(__name__)

_CHECK_LENGTHS = (3, 70, 1, 129)
_CHECK_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
_TABLE = 1024  # longest distance table kept; beyond it the bias is made for a strip of queries at a time
_STRIP = 512


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slope of each head as in Press et al. (ICLR 2022).

    For a power of two the slopes are the geometric series 2^(-8/n), 2^(-16/n), ...; for another number, the
    series of the next lower power of two, followed by every other slope of the next higher one.
    """
    lower = 2 ** int(math.log2(heads))
    series = tuple(2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower))
    between = tuple(2.0 ** (-8.0 * (i + 1) / (2 * lower)) for i in range(0, 2 * lower, 2))
    return series + between[: heads - lower]


class _Bias:
    """ALiBi's bias for a range of queries against all keys of one sequence."""

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape
        self._slopes = torch.tensor(shape.slopes, dtype=torch.float32, device=shape.device)
        self._table: torch.Tensor | None = None

    def __call__(self, first: int, last: int, keys: int) -> Float[torch.Tensor, "heads queries keys"]:
        if keys > _TABLE:
            return self._make(first, last, keys)
        if self._table is None or self._table.shape[-1] < keys:
            size = min(_TABLE, 1 << max(6, (keys - 1).bit_length()))
            self._table = self._make(0, size, size)
        return self._table[:, first:last, :keys]

    def _make(self, first: int, last: int, keys: int) -> Float[torch.Tensor, "heads queries keys"]:
        device = self._shape.device
        queries = torch.arange(first, last, device=device, dtype=torch.float32)[:, None]
        distance = (queries - torch.arange(keys, device=device, dtype=torch.float32)).abs()
        return (-self._slopes[:, None, None] * distance).to(self._shape.dtype)


def _by_head(x: torch.Tensor, length: int) -> torch.Tensor:
    """(n * length, heads, head) to (n, heads, length, head), without a copy."""
    return x.view(-1, length, *x.shape[1:]).transpose(1, 2)


class ByLength:
    """Packed rows on any device: sequences of one length attend together, without padding.

    What a sequence gets does not depend on how many others have its length, so results in float32 on CPU are
    the same bits in any batch (with two heads or more: a lone head is split over threads). A CPU's matrix
    products may round differently where memory is aligned differently, so each row of a head fills whole
    cache lines of 64 bytes.
    """

    name = "by-length"
    layout: Layout = "packed"

    def __init__(self, shape: AttentionShape) -> None:
        self._bias = None if shape.slopes is None else _Bias(shape)
        self._head = shape.head
        self._filling = -shape.head % (64 // shape.dtype.itemsize)

    def prepare(self, borders: Borders) -> Attend:
        """Find the runs of sequences of one length."""
        lengths, starts = borders.lengths, borders.starts
        edges = np.flatnonzero(np.diff(lengths, prepend=-1, append=-1))
        runs = [(int(starts[a]), int(starts[b]), int(lengths[a])) for a, b in pairwise(edges)]

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if self._filling:
                q, k, v = (pad(each, (0, self._filling)) for each in (q, k, v))
            out = torch.empty_like(v, memory_format=torch.contiguous_format)
            for start, end, length in runs:
                a, b, c = (_by_head(each[start:end], length) for each in (q, k, v))
                out[start:end] = self._within(a, b, c, length).transpose(1, 2).flatten(0, 1)
            return out[..., : self._head]

        return attend

    def _within(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: int) -> torch.Tensor:
        strip = length if length <= _TABLE or self._bias is None else _STRIP
        parts = []
        for first in range(0, length, strip):
            last = min(first + strip, length)
            bias = None if self._bias is None else self._bias(first, last, length)[None]
            part = scaled_dot_product_attention(q[:, :, first:last], k, v, attn_mask=bias, scale=self._head**-0.5)
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class Padded:
    """Every sequence padded to the longest, with a mask: the plain method, and the check on every device."""

    name = "padded"
    layout: Layout = "padded"

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape
        self._bias = None if shape.slopes is None else _Bias(shape)

    def prepare(self, borders: Borders) -> Attend:
        """Build the mask, with ALiBi's bias in it."""
        longest = borders.longest
        mask = self._mask(borders, longest)

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            a, b, c = (_by_head(each, longest) for each in (q, k, v))
            out = scaled_dot_product_attention(a, b, c, attn_mask=mask)
            return out.transpose(1, 2).flatten(0, 1)

        return attend

    def _mask(self, borders: Borders, longest: int) -> torch.Tensor | None:
        ragged = bool((borders.lengths != longest).any())
        bias = None if self._bias is None else self._bias(0, longest, longest)[None]
        if not ragged:
            return bias
        lengths = to_device(borders.lengths, borders.device)
        real = (torch.arange(longest, device=borders.device) < lengths[:, None])[:, None, None, :]
        if bias is None:
            return real.expand(-1, 1, longest, -1)
        return bias.masked_fill(~real, -torch.inf)


class VarlenFlash:
    """Packed rows through ``torch.nn.attention.varlen`` (FlashAttention); half precision on CUDA, no bias."""

    name = "varlen-flash"
    layout: Layout = "packed"

    def __init__(self) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._kernel = varlen_attn

    @staticmethod
    def takes(shape: AttentionShape) -> bool:
        """Whether FlashAttention can run this model here."""
        return (
            shape.slopes is None
            and shape.device.type == "cuda"
            and shape.dtype in (torch.float16, torch.bfloat16)
            and shape.head % 8 == 0
            and shape.head <= 256
            and torch.cuda.get_device_capability(shape.device) >= (8, 0)
        )

    def prepare(self, borders: Borders) -> Attend:
        """Bring the cumulative lengths to the device."""
        starts = to_device(borders.starts.astype(np.int32), borders.device)
        longest = borders.longest

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out = self._kernel(q, k, v, starts, starts, longest, longest)
            return out if isinstance(out, torch.Tensor) else out[0]

        return attend


def choose(name: str, shape: AttentionShape) -> Attention:
    """The first kernel that takes the model and agrees with padded attention in float32.

    Args:
        name: ``auto`` (packed where a packed kernel is fast, padded for float32 on CUDA), ``packed``, ``padded``, or
            the name of one kernel.
        shape: the model, its precision and its device.

    Raises:
        EncoderError: there is no such kernel, or it does not run here.
    """
    makers = _makers(shape)
    if name in makers:
        wanted = [name]
    elif name in ("auto", "packed"):
        wanted = _order(shape, packed=name == "packed")
    else:
        raise EncoderError(f"no attention is called {name!r}; there are: auto, packed, {', '.join(makers)}")
    faults = []
    for each in wanted:
        try:
            kernel = makers[each]()
            if shape.device.type == "cuda" and each != "padded":
                check_kernel(kernel, shape)
        except Exception as error:  # whatever a kernel's compiler or library raises, the next one may run
            faults.append(f"{each}: {type(error).__name__}: {error}")
            log.warning("attention kernel %s", faults[-1])
        else:
            return kernel
    raise EncoderError(f"no attention kernel runs on {shape.device}: {'; '.join(faults)}")


def _makers(shape: AttentionShape) -> dict[str, Callable[[], Attention]]:
    def triton() -> Attention:
        from vnp.encoders.kernels.triton_attention import TritonAttention

        return TritonAttention(shape)

    return {
        VarlenFlash.name: VarlenFlash,
        "triton": triton,
        ByLength.name: lambda: ByLength(shape),
        Padded.name: lambda: Padded(shape),
    }


def _order(shape: AttentionShape, *, packed: bool) -> list[str]:
    if shape.device.type != "cuda":
        return [ByLength.name]
    if shape.dtype == torch.float32:
        # Without tensor cores a packed kernel saves nothing that padding would lose.
        return ["triton", ByLength.name] if packed else [Padded.name]
    flash = [VarlenFlash.name] if VarlenFlash.takes(shape) else []
    return [*flash, "triton", ByLength.name] if packed else [*flash, "triton", Padded.name]


def check_kernel(kernel: Attention, shape: AttentionShape) -> None:
    """Compare a kernel with float32 attention on a few short sequences."""
    lengths = np.array(_CHECK_LENGTHS, np.int64)
    generator = torch.Generator(device=shape.device).manual_seed(0)
    rows = int(lengths.sum())
    size = (3, rows, shape.heads, shape.head)
    q, k, v = torch.randn(size, generator=generator, device=shape.device).to(shape.dtype)
    exact = AttentionShape(shape.heads, shape.head, shape.slopes, torch.float32, shape.device)
    reference = ByLength(exact).prepare(Borders(lengths, "packed", shape.device))
    with torch.inference_mode():
        got = kernel.prepare(Borders(lengths, kernel.layout, shape.device))(q, k, v).float()
        worst = float((got - reference(q.float(), k.float(), v.float())).abs().max())
    if not worst <= _CHECK_TOLERANCE[shape.dtype]:
        raise EncoderError(f"differs by {worst:.2g} from float32 attention")
