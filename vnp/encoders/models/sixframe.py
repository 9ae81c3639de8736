"""A small convolutional network that reads the codons of all six frames of a DNA window.

A window of L bases has P = (L - 2) // 3 codons in each frame; what does not fill a codon in all three is left off at
the end of each strand, so that the six frames are equally long. One network reads every frame (residual blocks: He et
al., CVPR 2016); then, at every place of a strand, its three frames are weighed against each other and become one track,
which also sees the other strand's, turned round; a second network reads the two tracks; what is found is pooled over
places and tracks. Only sums and maxima join the tracks, so a window and its reverse complement have the same row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from vnp.errors import WeightsError
from vnp.files.records import from_json

KINDS: tuple[str, ...] = ("phage", "eukaryotic_virus", "bacteria", "archaea", "eukaryote", "plasmid", "organelle")
"""What a window can be, in the order of the network's outputs."""
VIRAL_KINDS = 2
"""The first so many kinds are viruses; a phage is any virus of bacteria or archaea."""
AMBIGUOUS = 4
"""The code of a base that is not A, C, G or T (0 to 3)."""
SHORTEST = 8
"""Bases of the shortest window that has a codon in every frame and two places to pool over."""

_UNKNOWN_CODON = 64
# Lengths that so many windows have that they are not rounded up: those of reads, and of windows of long records.
COMMON_LENGTHS = frozenset((100, 125, 150, 200, 250, 300, 500, 1000, 2000, 3000, 5000))
BASE_CODES = bytes({65: 0, 67: 1, 71: 2, 84: 3, 85: 3}.get(_byte & 0xDF, AMBIGUOUS) for _byte in range(256))
"""The code of each byte of a text, for ``bytes.translate``: 0 to 3 for A, C, G, T (or U) in either case."""

_MOST = 4096
_MOST_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class SixFrameConfig:
    """The sizes of a network.

    Attributes:
        embedding: numbers a codon is turned into.
        stem: channels at the resolution of codons, seven of which each place sees.
        local: channels of the blocks that read each frame, at half that resolution.
        context: channels of the blocks that read the two tracks, at a quarter of it.
        local_dilations: one residual block each, with the distance between the places that a convolution joins.
        context_dilations: the same of the tracks.
        heads: ways in which frames, and then places, are weighed.
        hidden: width of the layer before the last.
        dropout: share of pooled features switched off in training.
        depth_drop: share of windows in which a block is passed over in training (Huang et al., ECCV 2016).
        stronger_track: the last mean is that of the track that has more of it, not of both as in older networks.
    """

    embedding: int = 32
    stem: int = 128
    local: int = 192
    context: int = 256
    local_dilations: tuple[int, ...] = (1, 2)
    context_dilations: tuple[int, ...] = (1, 4, 16)
    heads: int = 8
    hidden: int = 256
    dropout: float = 0.3
    depth_drop: float = 0.1
    stronger_track: bool = True

    @property
    def width(self) -> int:
        """Numbers in a row: weighed mean, maximum and mean of every channel."""
        return 3 * self.context

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SixFrameConfig:
        """Read what ``to_json`` gave; WeightsError where something is missing or of another kind."""
        stored = {"stronger_track": False, **stored}
        try:
            config = from_json(cls, {each.name: stored[each.name] for each in fields(cls)})
        except (KeyError, TypeError) as error:
            raise WeightsError(f"this is not the configuration of a sixframe network: {error}") from error
        sizes = (config.embedding, config.stem, config.local, config.context, config.heads, config.hidden)
        dilations = (*config.local_dilations, *config.context_dilations)
        if not all(0 < size <= _MOST for size in (*sizes, *dilations)) or len(dilations) > _MOST_BLOCKS:
            raise WeightsError(
                f"a sixframe network's sizes must be 1 to {_MOST:,}, and its blocks {_MOST_BLOCKS} at most"
            )
        if not (0 <= config.dropout < 1 and 0 <= config.depth_drop < 1):
            raise WeightsError("a sixframe network switches off a share of features and blocks, from 0 to below 1")
        if config.local % config.heads or config.context % config.heads:
            raise WeightsError(f"{config.heads} heads do not divide {config.local} and {config.context} channels")
        return config

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def base_codes(sequence: str) -> UInt8[np.ndarray, " bases"]:
    """Turn letters of either case into 0 to 3 for A, C, G, T (or U), and ``AMBIGUOUS`` for all others."""
    return np.frombuffer(bytearray(sequence.encode("latin-1", "replace").translate(BASE_CODES)), np.uint8)


def codon_ids(
    bases: UInt8[Tensor, "windows bases"], lengths: Int64[Tensor, " windows"] | None = None
) -> Int[Tensor, "windows 6 codons"]:
    """Read the codons of the six frames: three of the strand, three of its reverse complement.

    Args:
        bases: codes of ``base_codes``; behind the end of a shorter window anything.
        lengths: bases of each window; None where all are as long as the array.

    Returns:
        16 * first + 4 * second + third base, or 64 with an ambiguous one.
    """
    length = bases.shape[1]
    codons = (length - 2) // 3
    wide = bases.int()
    first, second, third = wide[:, :-2], wide[:, 1:-1], wide[:, 2:]
    known = (first < AMBIGUOUS) & (second < AMBIGUOUS) & (third < AMBIGUOUS)
    forward = torch.where(known, first * 16 + second * 4 + third, _UNKNOWN_CODON)
    other = torch.where(known, (3 - third) * 16 + (3 - second) * 4 + (3 - first), _UNKNOWN_CODON)
    if lengths is None:
        other = other.flip(1)
    else:
        places = lengths[:, None] - 3 - torch.arange(length - 2, device=bases.device)
        other = other.gather(1, places.clamp(min=0))
    frames = [strand[:, k : k + 3 * codons - 2 : 3] for strand in (forward, other) for k in range(3)]
    return torch.stack(frames, 1)


class Codons(nn.Embedding):
    """Numbers of each codon."""

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn (windows, rows, places) into (windows, numbers, rows, places), 0 where ``mask`` has 0."""
        return masked(super().forward(ids).permute(0, 3, 1, 2), mask)


class Convolution(nn.Module):
    """A convolution along a frame, what keeps its output in range, and ReLU.

    Args:
        before: channels it reads.
        after: channels it gives.
        width: places that one output sees; odd.
        stride: places between outputs.
        dilation: places between those that an output sees.
        silent: give nothing until training says otherwise, and then without ReLU.
    """

    def __init__(
        self, before: int, after: int, width: int, *, stride: int = 1, dilation: int = 1, silent: bool = False
    ) -> None:
        super().__init__()
        around = dilation * (width // 2)
        self.conv = nn.Conv2d(before, after, (1, width), (1, stride), (0, around), (1, dilation), bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(after, momentum=0.02)
        self.silent = silent
        if silent:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read (windows, before, rows, places), give (windows, after, rows, fewer places), 0 where ``mask`` has 0."""
        normed: Tensor = self.norm(self.conv(x))
        return masked(normed if self.silent else F.relu(normed, inplace=True), mask)

    def fold(self) -> None:
        """Move the normalisation into the weights; the output stays the same but for rounding."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        self.conv.weight = nn.Parameter((self.conv.weight * scale[:, None, None, None]).detach())
        self.conv.bias = nn.Parameter(bias.detach())
        self.norm = nn.Identity()


class Block(nn.Module):
    """Two convolutions beside a path that leaves things as they are.

    Args:
        channels: read and given.
        dilation: of the first convolution.
        drop: share of windows that take only the path, in training.
    """

    def __init__(self, channels: int, dilation: int, drop: float) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3, dilation=dilation)
        self.second = Convolution(channels, channels, 3, silent=True)
        self.drop = drop

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Read and give (windows, channels, rows, places); what ``mask`` has 0 for stays 0."""
        y = self.second(self.first(x, mask))
        if self.training and self.drop:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop
            y = y * (kept.to(y.dtype) / (1 - self.drop))
        return masked(F.relu(x + y, inplace=True), mask)


class SixFrame(nn.Module):
    """The network: codons of six frames to a row, and to a logit for each of ``KINDS``."""

    def __init__(self, config: SixFrameConfig) -> None:
        super().__init__()
        self.config = config
        local, context = config.local, config.context
        self.embedding = Codons(_UNKNOWN_CODON + 1, config.embedding)
        self.stem = Convolution(config.embedding, config.stem, 7)
        self.halve = Convolution(config.stem, local, 3, stride=2)
        self.local = nn.ModuleList(Block(local, dilation, config.depth_drop) for dilation in config.local_dilations)
        self.weigh_frames = nn.Conv2d(local, config.heads, 1)
        self.join = Convolution(2 * local, context, 3, stride=2)
        self.context = nn.ModuleList(
            Block(context, dilation, config.depth_drop) for dilation in config.context_dilations
        )
        self.weigh_places = nn.Conv2d(context, config.heads, 1)
        self.head = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, len(KINDS)),
        )

    def forward(
        self, ids: Int[Tensor, "n 6 codons"], codons: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n 7"]:
        """Give a logit for each of ``KINDS``; arguments as of ``rows``."""
        logits: Tensor = self.head(self.rows(ids, codons))
        return logits

    def rows(
        self, ids: Int[Tensor, "n 6 codons"], codons: Int64[Tensor, " n"] | None = None
    ) -> Float32[Tensor, "n width"]:
        """Turn windows into rows.

        Args:
            ids: what ``codon_ids`` gives.
            codons: how many of them each window has; None where all have as many as the array is long.
        """
        mask = _mask(codons, ids.shape[2], ids.device)
        x = self.stem(self.embedding(ids, mask), mask)
        codons = None if codons is None else (codons + 1) // 2
        mask = _mask(codons, (x.shape[3] + 1) // 2, x.device)
        x = self.halve(x, mask)
        for block in self.local:
            x = block(x, mask)
        x = self._tracks(x, codons, mask)
        codons = None if codons is None else (codons + 1) // 2
        mask = _mask(codons, (x.shape[3] + 1) // 2, x.device)
        x = self.join(x, mask)
        for block in self.context:
            x = block(x, mask)
        return self._pool(x, mask)

    def _tracks(self, x: Tensor, places: Tensor | None, mask: Tensor | None) -> Tensor:
        """Make one track of a strand's three frames, and put the other strand's, turned round, beside it."""
        n, channels, _, length = x.shape
        heads = self.config.heads
        weights = self.weigh_frames(x).permute(0, 2, 3, 1).reshape(n, 2, 3, length, heads, 1)
        values = x.permute(0, 2, 3, 1).reshape(n, 2, 3, length, heads, channels // heads)
        track = (values * weights.float().softmax(2).to(x.dtype)).sum(2).reshape(n, 2, length, channels)
        if places is None or mask is None:
            other = track.flip(1, 2)
        else:
            turned = (places[:, None] - 1 - torch.arange(length, device=x.device)).clamp(min=0)
            other = track.flip(1).gather(2, turned[:, None, :, None].expand(-1, 2, -1, channels))
            other = other * mask.to(x.dtype).permute(0, 2, 3, 1)
        return torch.cat((track, other), 3).permute(0, 3, 1, 2)

    def _pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Weighed mean, maximum and mean over the places of both tracks, in float32."""
        n, channels, _, length = x.shape
        heads = self.config.heads
        scores, x = self.weigh_places(x).float(), x.float()
        highest = x
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -torch.inf)
            highest = x.masked_fill(mask == 0, -torch.inf)
        weights = (scores - scores.amax((2, 3), keepdim=True)).exp()
        values = x.reshape(n, heads, channels // heads, 2, length)
        # Each track is summed by itself, and two numbers have the same sum in either order.
        sums = (values * weights[:, :, None]).sum(4)
        weight = weights.sum(3)
        total = x.sum(3)
        places = torch.tensor(float(length), device=x.device) if mask is None else mask.sum(3)[:, 0].float()
        attended = (sums[..., 0] + sums[..., 1]) / (weight[..., 0] + weight[..., 1])[:, :, None]
        both = total.amax(2) if self.config.stronger_track else (total[..., 0] + total[..., 1]) / 2
        return torch.cat((attended.reshape(n, channels), highest.amax((2, 3)), both / places), 1)

    def fold(self) -> SixFrame:
        """Make it ready for use: no dropout, normalisation inside the weights, memory laid out by channels."""
        self.eval()
        for part in self.modules():
            if isinstance(part, Convolution):
                part.fold()
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def viral_logit(logits: Float[Tensor, "n 7"]) -> Float[Tensor, " n"]:
    """The log-odds of virus against host: of the sums of the kinds of each."""
    return logits[:, :VIRAL_KINDS].logsumexp(1) - logits[:, VIRAL_KINDS:].logsumexp(1)


def _mask(places: Tensor | None, length: int, device: torch.device) -> Tensor | None:
    """1 for the places that a window has, 0 behind them: (windows, 1, 1, places)."""
    if places is None:
        return None
    return (torch.arange(length, device=device) < places[:, None])[:, None, None, :].to(torch.uint8)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """0 where ``mask`` has 0."""
    return x if mask is None else x * mask.to(x.dtype)


def padded_length(length: int) -> int:
    """Round a length up to the next of a few: at most an eighth more; common lengths stay as they are."""
    if length in COMMON_LENGTHS:
        return length
    step = max(8, 1 << max(0, length.bit_length() - 4))
    return -(-length // step) * step
