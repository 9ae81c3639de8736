"""Sequences that are nobody's, made of crops and of nothing, all at once on the device that holds the crops.

Half of them are shuffled: chains in which each base is drawn by the one before, as often as they follow each other in
the crop (a Markov chain of the first order). That keeps dinucleotides but for chance, where an exact shuffle (Altschul
and Erickson, 1985) keeps them all, but cannot be made for many crops at once. A quarter are chains of few or lopsided
bases that come in runs, and a quarter repeats of 1 to 200 bases with errors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from vnp.encoders.models.sixframe import AMBIGUOUS

_LONGEST_UNIT = 200
_MOST_ERRORS = 0.15
_LOPSIDED = 4.0  # the power of weights, at most; 0 is four bases alike, 1 any composition alike (Dirichlet)
_LONGEST_RUN = 20.0
_UNSEEN = 0.01  # how often two bases that never follow each other do


def made_up(crops: UInt8[Tensor, "n bases"], generator: torch.Generator) -> UInt8[Tensor, "n bases"]:
    """Make a sequence that is nobody's, without ambiguous bases, in place of each crop."""
    count, length = crops.shape
    how = _uniform(generator, count, 1)
    chances = torch.where(how[:, :, None] < 0.5, _following(crops), _lopsided(count, generator))
    return torch.where(how < 0.75, _chains(chances, length, generator), _repeats(count, length, generator))


def _following(crops: UInt8[Tensor, "n bases"]) -> Float32[Tensor, "n 4 4"]:
    """How often each base follows each."""
    wide = crops.long()
    pairs = torch.where((crops[:, :-1] < AMBIGUOUS) & (crops[:, 1:] < AMBIGUOUS), 4 * wide[:, :-1] + wide[:, 1:], 16)
    counts = torch.nn.functional.one_hot(pairs, 17).sum(1)[:, :16].reshape(-1, 4, 4) + _UNSEEN
    return counts / counts.sum(2, keepdim=True)


def _lopsided(count: int, generator: torch.Generator) -> Float32[Tensor, "n 4 4"]:
    """The same of made-up compositions, half of them in runs."""
    weights = (-torch.log(_uniform(generator, count, 1, 4).clamp(min=1e-9))) ** (
        _LOPSIDED * _uniform(generator, count, 1, 1)
    )
    weights = (weights / weights.sum(2, keepdim=True)).expand(-1, 4, -1)
    stay = 1 - 1 / (1 + (_LONGEST_RUN - 1) * _uniform(generator, count, 1, 1))
    stay = stay * (_uniform(generator, count, 1, 1) < 0.5)
    return (1 - stay) * weights + stay * torch.eye(4, device=generator.device)


def _chains(chances: Float32[Tensor, "n 4 4"], length: int, generator: torch.Generator) -> UInt8[Tensor, "n bases"]:
    """Draw chains of bases, all places at once.

    For every place is drawn what would follow each base; what follows a run of places is then found by joining two
    runs, then two of these, and so on.
    """
    count = len(chances)
    borders = chances.cumsum(2)[:, None, :, :3]
    drawn = _uniform(generator, count, length, 1, 1)
    after: Int64[Tensor, "n bases 4"] = (drawn > borders).sum(3)
    step = 1
    while step < length:
        joined = after[:, step:].gather(2, after[:, :-step])
        after = torch.cat((after[:, :step], joined), 1)
        step *= 2
    first = torch.randint(4, (count, 1, 1), device=generator.device, generator=generator)
    return after.gather(2, first.expand(-1, length, -1))[:, :, 0].to(torch.uint8)


def _repeats(count: int, length: int, generator: torch.Generator) -> UInt8[Tensor, "n bases"]:
    """Repeats of units of 1 to 200 bases, short ones as often as long ones, with bases replaced and left out."""
    unit = (_LONGEST_UNIT ** _uniform(generator, count, 1)).long()
    motif = torch.randint(4, (count, _LONGEST_UNIT), device=generator.device, generator=generator)
    errors = _MOST_ERRORS * _uniform(generator, count, 1) * (_uniform(generator, count, 1) < 0.7)
    left_out = (_uniform(generator, count, length) < 0.1 * errors).long().cumsum(1)
    places = (torch.arange(length, device=generator.device) + left_out) % unit
    other = torch.randint(4, (count, length), device=generator.device, generator=generator)
    bases = torch.where(_uniform(generator, count, length) < errors, other, motif.gather(1, places))
    return bases.to(torch.uint8)


def _uniform(generator: torch.Generator, *shape: int) -> Float32[Tensor, "..."]:
    return torch.rand(*shape, device=generator.device, generator=generator)
