"""Random crops of genomes, cut and changed on the device that holds them, so that loading costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from vnp.encoders.models.sixframe import AMBIGUOUS
from vnp.errors import InputError
from vnp.finetune.genomes import Genomes, within
from vnp.finetune.recipe import Recipe

_MOST_IGNORED = 0.2
# A crop in so many has up to a twentieth of ambiguous bases.
_AMBIGUOUS_CROPS, _AMBIGUOUS_BASES = 0.03, 0.05


class Crops(NamedTuple):
    """One step's windows.

    Attributes:
        bases: codes.
        kinds: what each may be, one bit a kind.
        viral: labels.
        used: 0 for what lies in an ignored piece after all.
    """

    bases: UInt8[Tensor, "crops bases"]
    kinds: UInt8[Tensor, " crops"]
    viral: Bool[Tensor, " crops"]
    used: Bool[Tensor, " crops"]


class DeviceGenomes:
    """Genomes in a device's memory: six bytes a base.

    Args:
        genomes: any.
        device: such as ``cuda``.
    """

    def __init__(self, genomes: Genomes, device: torch.device) -> None:
        self.genomes = genomes
        self.device = device
        self.codes = torch.from_numpy(genomes.codes).to(device)
        self.starts = torch.from_numpy(genomes.starts).to(device)
        self.lengths = self.starts[1:] - self.starts[:-1]
        self.kinds = torch.from_numpy(genomes.kinds).to(device)
        self.viral = torch.from_numpy(genomes.viral).to(device)
        self.ignore(genomes)

    def ignore(self, genomes: Genomes) -> None:
        """Take over which pieces are ignored; ambiguous bases are so always."""
        marked = within(genomes.ignored, len(genomes.codes)) | (genomes.codes == AMBIGUOUS)
        self.genomes = genomes
        self.ignored_before = torch.zeros(len(marked) + 1, dtype=torch.int32, device=self.device)
        self.ignored_before[1:] = torch.from_numpy(marked).to(self.device).cumsum(0, dtype=torch.int32)

    def cut(self, starts: Int64[Tensor, " crops"], length: int) -> UInt8[Tensor, "crops bases"]:
        """The bases of windows of one length."""
        return self.codes[starts[:, None] + torch.arange(length, device=self.device)]

    def ignored(self, starts: Int64[Tensor, " crops"], length: int) -> Int64[Tensor, " crops"]:
        """How many bases of each window are ignored."""
        return (self.ignored_before[starts + length] - self.ignored_before[starts]).long()


class CropSampler:
    """Draws crops: half of them viral, groups by their share, units by the square root of their size.

    Args:
        held: the genomes.
        part: that crops are drawn from.
        recipe: lengths, shares and changes.

    Raises:
        InputError: nothing in a label is as long as one of the lengths.
    """

    def __init__(self, held: DeviceGenomes, part: int, recipe: Recipe) -> None:
        self.held = held
        self.recipe = recipe
        self.generator = torch.Generator(device=held.device)
        self.cumulative: dict[int, Float64[Tensor, " records"]] = {}
        for length in recipe.lengths:
            weights = record_weights(held.genomes, part, length, recipe.shares)
            self.cumulative[length] = torch.from_numpy(np.cumsum(weights)).to(held.device)

    def draw(self, step: int) -> Crops:
        """The crops of one step: the same ones whenever it is asked for."""
        recipe = self.recipe
        choice = np.random.default_rng((recipe.seed, step))
        lengths = np.array(list(recipe.lengths))
        chances = np.array(list(recipe.lengths.values()))
        length = int(choice.choice(lengths, p=chances / chances.sum()))
        self.generator.manual_seed(int(choice.integers(1 << 62)))
        count = max(2, recipe.bases // length)
        held = self.held
        tried = count + count // 4
        record = torch.searchsorted(self.cumulative[length], self._uniform(tried, dtype=torch.float64))
        record = record.clamp(max=len(held.lengths) - 1)
        free = held.lengths[record] - length + 1
        starts = held.starts[record] + (self._uniform(tried, dtype=torch.float64) * free).long()
        unused = held.ignored(starts, length) > _MOST_IGNORED * length
        best = torch.argsort(unused.int(), stable=True)[:count]
        record, starts, unused = record[best], starts[best], unused[best]
        bases = self._changed(held.cut(starts, length))
        return Crops(bases, held.kinds[record], held.viral[record], ~unused)

    def _changed(self, bases: UInt8[Tensor, "crops bases"]) -> UInt8[Tensor, "crops bases"]:
        """Substitute some bases of some crops, and hide some."""
        count, length = bases.shape
        recipe = self.recipe
        rate = self._uniform(count, 1) * recipe.substitutions * (self._uniform(count, 1) < recipe.mutated)
        hit = (self._uniform(count, length) < rate) & (bases < AMBIGUOUS)
        other = torch.randint(1, 4, bases.shape, device=bases.device, generator=self.generator, dtype=torch.uint8)
        bases = torch.where(hit, (bases + other) & 3, bases)
        rate = self._uniform(count, 1) * _AMBIGUOUS_BASES * (self._uniform(count, 1) < _AMBIGUOUS_CROPS)
        return torch.where(self._uniform(count, length) < rate, torch.full_like(bases, AMBIGUOUS), bases)

    def hide(self, ids: Tensor) -> Tensor:
        """Hide codons, each frame's by itself, in half of the crops."""
        count = len(ids)
        rate = self._uniform(count, 1, 1) * self.recipe.hidden_codons * (self._uniform(count, 1, 1) < 0.5)
        return torch.where(self._uniform(*ids.shape) < rate, 64, ids)

    def _uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(*shape, device=self.held.device, generator=self.generator, dtype=dtype)


def record_weights(
    genomes: Genomes, part: int, length: int, shares: Mapping[str, float]
) -> Float64[np.ndarray, " records"]:
    """How often each record is drawn: groups by their share, units by the root of their size, records by theirs.

    Raises:
        InputError: no virus, or no host, of this part is as long as ``length``.
    """
    lengths = genomes.lengths
    usable = (genomes.part == part) & (lengths >= length)
    size = np.bincount(genomes.unit, weights=lengths * usable, minlength=len(genomes.units))
    weights = np.where(usable, lengths / np.sqrt(np.maximum(size[genomes.unit], 1)), 0.0)
    for group in range(len(genomes.groups)):
        for viral in (False, True):
            some = (genomes.group == group) & (genomes.viral == viral)
            if weights[some].sum() > 0:
                weights[some] *= shares.get(genomes.groups[group], 0.05) / weights[some].sum()
    for viral, name in ((True, "virus"), (False, "host")):
        total = weights[genomes.viral == viral].sum()
        if total <= 0:
            raise InputError(f"no {name} to train on has {length} bases; give longer genomes, or shorter crops")
        weights[genomes.viral == viral] *= 0.5 / total
    return weights
