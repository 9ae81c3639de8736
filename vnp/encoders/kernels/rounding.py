"""Weights in 8-bit floats (e4m3).

What 8 bits round off a weight is the same for every token, so it does not average out over a sequence as the rounding
of activations does. Most of it is what the mean input would give, and that is put back into the bias (Nagel et al.,
Data-Free Quantization through Weight Equalization and Bias Correction, ICCV 2019, section 4.2). The columns of a weight
also make up for each other: what is rounded off one is taken into those behind it, as their inputs go together (Frantar
et al., GPTQ, ICLR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vnp.encoders.models.trunk import Pair

KIND = torch.float8_e4m3fn
LARGEST = 448.0
"""That such a float can be."""
_ROOM = 1.1  # e4m3 rounds by at most 1/16 on either side of a product
_DAMPING = 0.01  # of the moments' mean, added to each number's own
_BLOCK = 128  # columns that are rounded before the others hear of it


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Round a weight to e4m3, and give its scale: ``weight`` is about the first times the second."""
    scale = _scale(weight)
    return (weight.float() / scale).to(KIND).contiguous(), float(scale)


def quantise_together(weights: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Round weights to e4m3 so that their products with inputs change least; scales are those of ``quantise``.

    Args:
        weights: of several layers, (layers, inner, width).
        moments: mean products of each two numbers of what they are multiplied with, (layers, width, width).
    """
    width = weights.shape[2]
    damped = moments + _DAMPING * moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(
        width, device=moments.device
    )
    # One layer at a time: in float64 they take much memory.
    factor = torch.stack([_factor_of_inverse(each.double()).float() for each in damped])
    # By columns, so that one is a row in memory.
    left = torch.stack([(each / _scale(each)).T for each in weights])
    found = torch.empty_like(left, dtype=KIND)
    for first in range(0, width, _BLOCK):
        here = slice(first, first + _BLOCK)
        part, own = left[:, here], factor[:, here, here]
        errors = torch.empty_like(part)
        for column in range(part.shape[1]):
            found[:, first + column] = eight = part[:, column].clamp(-LARGEST, LARGEST).to(KIND)
            errors[:, column] = (part[:, column] - eight.float()) / own[:, column, column, None]
            part[:, column + 1 :] -= own[:, column, column + 1 :, None] * errors[:, column, None]
        left[:, first + _BLOCK :] -= factor[:, here, first + _BLOCK :].mT @ errors
    return found.mT.contiguous()


def _factor_of_inverse(moments: torch.Tensor) -> torch.Tensor:
    """The upper triangle whose square is the inverse.

    Of moments that have none, as of what is all 0, it is the unit matrix: each column is rounded by itself.
    """
    upper: torch.Tensor
    lower, failed = torch.linalg.cholesky_ex(moments)
    if not failed:
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and upper.isfinite().all():
            return upper
    return torch.eye(len(moments), dtype=moments.dtype, device=moments.device)


def _scale(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs().max().float().clamp(min=1e-12) / LARGEST


def centred_behind_norm(linear: Pair, norm: Pair) -> Pair:
    """A product that LayerNorm's weight and bias are part of, in float32; a row's mean makes no difference to it."""
    weight = linear[0].float() * norm[0]
    return weight - weight.mean(dim=1, keepdim=True), linear[1].float() + linear[0].float() @ norm[1]


def centred_onto_stream(linear: Pair) -> Pair:
    """A product that adds rows without a mean, in float32."""
    weight, bias = linear[0].float(), linear[1].float()
    return weight - weight.mean(dim=0), bias - bias.mean()


@dataclass(frozen=True, eq=False)
class Weight:
    """A product's weight in 8 bits, and what its epilogue puts in."""

    rows: torch.Tensor  # shape (inner, width)
    scale: float  # what a sum of products of 8-bit numbers is multiplied by
    bias: torch.Tensor  # float32 of shape (inner,)
    largest: float  # that a product with a row of LayerNorm can reach

    @classmethod
    def of(cls, linear: Pair, mean: torch.Tensor, scale: float, rows: torch.Tensor | None = None) -> Weight:
        """Round a weight, or take it as it was; its bias makes up for what that takes from the mean input.

        ``scale`` is that of the input.
        """
        weight, bias = linear
        plain, own = quantise(weight)
        rows = plain if rows is None else rows
        rounded = rows.float() * own
        whole = bias + (weight - rounded) @ mean
        reach = _ROOM * (weight.shape[1] ** 0.5 * rounded.norm(dim=1) + whole.abs()).max()
        return cls(rows, own * scale, whole, float(reach))
