"""The network of six frames in bytes, for a CPU that multiplies them several times as fast as float32.

Codons and what the convolutions give are bytes with one scale a layer, weights are bytes with one scale a channel, and
sums are whole numbers, so no sum depends on its order. Weighing and pooling stay in float32. How large the outputs of a
layer become is seen on made-up windows, with room above.

A CPU without instructions for products of bytes gives the very same bytes, at less than the speed of float32: sums of
whole numbers below 2^24 are exact in float32, in any order, and what is done with them is done in the order in which
oneDNN does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from vnp.encoders.models.sixframe import Block, Codons, Convolution, SixFrame, codon_ids, masked
from vnp.files.machine import cpu_fact

_INSTRUCTIONS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_LARGEST = 255
_MIDDLE = 128  # the byte that stands for 0 in the numbers of a codon, which alone are negative too
# Outputs of the bundled network on 100 million bases of genomes are at most 1.5 times those on the made-up windows.
_ROOM = 1.5
_SHARES_GC = (0.2, 0.35, 0.5, 0.65, 0.8)
_WINDOW = 2000
_EXACT = 1 << 24  # whole numbers below it are exact in float32, and so are their sums


class ByteCodons(nn.Module):
    """Numbers of each codon, which are given in float32, as bytes."""

    def __init__(self, codons: Codons) -> None:
        super().__init__()
        numbers = codons.weight.detach()
        self.scale = float(numbers.abs().max()) / (_LARGEST - _MIDDLE)
        table = (numbers / self.scale).round() + _MIDDLE
        # The last row is for places behind the end of a window.
        table = torch.cat((table, torch.full((1, table.shape[1]), float(_MIDDLE))))
        self.register_buffer("table", table.to(torch.uint8), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """As ``Codons``, in bytes around 128."""
        table: Tensor = self.table  # type: ignore[assignment]
        if mask is not None:
            ids = ids.where(mask[:, :, 0, :] > 0, len(table) - 1)
        return table[ids].permute(0, 3, 1, 2)


class ByteConvolution(nn.Module):
    """A convolution of bytes, and ReLU.

    Args:
        part: the same in float32, folded.
        into: one in what it reads, as a number.
        middle: what it reads for 0.
        scale: one in what it gives, as a number.
        native: by the instructions of the CPU; else in floating point, with the same result.
    """

    def __init__(self, part: Convolution, into: float, middle: int, scale: float, *, native: bool = True) -> None:
        super().__init__()
        conv = part.conv
        assert conv.bias is not None
        weight = conv.weight.detach()
        self.scale = scale
        self.products = weight[0].numel()
        self._into, self._middle = into, middle
        self._places = (list(conv.stride), [int(each) for each in conv.padding], list(conv.dilation))
        self._scales = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / 127
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = conv.bias.detach().float()
        whole = (weight / self._scales[:, None, None, None]).round().contiguous(memory_format=torch.channels_last)
        self._native = native
        if native:
            self._weight = torch.ops.onednn.qconv_prepack(
                whole.to(torch.int8), self._scales, into, middle, *self._places, 1, None
            )
        else:
            largest = float(whole.abs().sum((1, 2, 3)).max()) * max(middle, _LARGEST - middle)
            self._weight = whole.to(torch.float32 if largest < _EXACT else torch.float64)

    def forward(self, x: Tensor, mask: Tensor | None = None, beside: Tensor | None = None, one: float = 1.0) -> Tensor:
        """As ``Convolution``, in bytes; what is not yet in bytes is put into them.

        Args:
            x: (windows, before, rows, places).
            mask: has 0 where the output is to be 0.
            beside: bytes that are added before ReLU; they are written over.
            one: one in these, as a number.
        """
        if x.is_floating_point():
            x = (x / self._into).round_().clamp_(0, _LARGEST).to(torch.uint8)
        x = x.contiguous(memory_format=torch.channels_last)
        return masked(self._multiplied(x, beside, one) if self._native else self._reckoned(x, beside, one), mask)

    def _multiplied(self, x: Tensor, beside: Tensor | None, one: float) -> Tensor:
        given = (x, self._into, self._middle, self._weight, self._scales, self._zeros)
        how = (self._bias, *self._places, 1, self.scale, 0, torch.uint8)
        made: Tensor = (
            torch.ops.onednn.qconv2d_pointwise(*given, *how, "relu", [], "")
            if beside is None
            else torch.ops.onednn.qconv2d_pointwise.binary(*given, beside, *how, one, 0, "sum", 1.0, "relu", [], "")
        )
        return made

    def _reckoned(self, x: Tensor, beside: Tensor | None, one: float) -> Tensor:
        whole = x.to(self._weight.dtype).sub_(self._middle)
        made = F.conv2d(whole, self._weight, None, *self._places).float()
        made.mul_(self._into).mul_(self._scales[:, None, None]).add_(self._bias[:, None, None])
        if beside is not None:
            # Rounded once, as one instruction does it.
            made = beside.double().mul_(float(np.float32(one))).add_(made).float()
        return made.relu_().mul_(float(np.float32(1 / self.scale))).round_().clamp_(0, _LARGEST).to(torch.uint8)


class ByteBlock(nn.Module):
    """Two convolutions of bytes beside a path that leaves things as they are.

    Args:
        first: of both.
        second: of both.
        into: one in what it reads, as a number.
    """

    def __init__(self, first: ByteConvolution, second: ByteConvolution, into: float) -> None:
        super().__init__()
        self.first, self.second = first, second
        self._into = into

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """As ``Block``, in bytes."""
        given: Tensor = self.second(self.first(x, mask), mask, beside=x, one=self._into)
        return given


class Numbers(nn.Module):
    """Turns bytes back into numbers; ``scale`` is one, as a number."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def forward(self, x: Tensor, _mask: Tensor | None) -> Tensor:
        """Of any shape."""
        return x.float().mul_(self._scale)


def in_bytes(network: SixFrame) -> SixFrame:
    """Let a folded network compute in bytes: it is changed, and its rows and logits differ a little from before."""
    largest = _largest_outputs(network)
    convolution = partial(ByteConvolution, native=multiplies_bytes())

    def scale(part: nn.Module) -> float:
        # In steps, so that the last bits of float32, which differ from CPU to CPU, do not matter.
        return float(2 ** (math.ceil(8 * math.log2(max(largest[part], 1e-6) * _ROOM / _LARGEST)) / 8))

    codons = ByteCodons(network.embedding)
    stem = convolution(network.stem, codons.scale, _MIDDLE, scale(network.stem))
    halve = convolution(network.halve, stem.scale, 0, scale(network.halve))
    local, last = _blocks(network.local, halve.scale, scale, convolution)
    join = convolution(network.join, last, 0, scale(network.join))
    context, _ = _blocks(network.context, join.scale, scale, convolution)
    for name, part in (("embedding", codons), ("stem", stem), ("halve", halve), ("local", local), ("join", join),
                       ("context", context)):  # fmt: skip
        setattr(network, name, part)
    return network


def _blocks(
    parts: nn.ModuleList,
    into: float,
    scale: Callable[[nn.Module], float],
    convolution: Callable[[Convolution, float, int, float], ByteConvolution],
) -> tuple[nn.ModuleList, float]:
    """Blocks in bytes, numbers behind the last, and what one was before that."""
    made: list[nn.Module] = []
    for part in parts:
        assert isinstance(part, Block)
        first = convolution(part.first, into, 0, scale(part.first))
        second = convolution(part.second, first.scale, 0, scale(part))
        made.append(ByteBlock(first, second, into))
        into = second.scale
    return nn.ModuleList((*made, Numbers(into))), into


@torch.inference_mode()
def _largest_outputs(network: SixFrame) -> dict[nn.Module, float]:
    """The largest output of each convolution and block on made-up windows, one for each share of G and C."""
    found: dict[nn.Module, float] = {}

    def note(part: nn.Module, _given: object, made: Tensor) -> None:
        found[part] = max(found.get(part, 0.0), float(made.max()))

    parts = [part for part in network.modules() if isinstance(part, (Convolution, Block))]
    hooks = [part.register_forward_hook(note) for part in parts]
    random = np.random.default_rng(0)
    try:
        for share in _SHARES_GC:
            likely = ((1 - share) / 2, share / 2, share / 2, (1 - share) / 2)
            bases = random.choice(4, size=(1, _WINDOW), p=likely).astype(np.uint8)
            network.rows(codon_ids(torch.from_numpy(bases)))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@cache
def multiplies_bytes() -> bool:
    """Whether the CPU has instructions for products of bytes, and torch gets the largest sums of them right."""
    if not _INSTRUCTIONS & set(cpu_fact("flags").split()):
        return False
    before, width = 64, 3
    part = Convolution(before, 16, width)
    part.fold()
    with torch.no_grad():
        part.conv.weight.fill_(1.0)
        part.conv.weight[1] = -1.0
    x = torch.full((1, before, 1, 8), _LARGEST, dtype=torch.uint8)
    largest = before * width * _LARGEST
    try:
        made = ByteConvolution(part, 1.0, 0, largest / _LARGEST)(x)[0, :, 0, 1:-1]
    except (RuntimeError, AttributeError):
        return False
    return bool((made[0] == _LARGEST).all() and (made[1] == 0).all())
