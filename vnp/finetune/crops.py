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
from vnp.finetune.genomes import PHAGE, Genomes
from vnp.finetune.kmers import AMINO_ACIDS
from vnp.finetune.recipe import Recipe

_MOST_IGNORED = 0.2
# For each codon those of the same amino acid, again and again: 12 divides by every number of them.
_SYNONYMS = np.array(
    [np.resize([codon for codon, other in enumerate(AMINO_ACIDS) if other == acid], 12) for acid in AMINO_ACIDS]
    + [np.full(12, len(AMINO_ACIDS))],
    dtype=np.int32,
)
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
        self.ignore(np.zeros((0, 2), np.int64))

    def ignore(self, more: Int64[np.ndarray, "runs 2"]) -> None:
        """Ignore the genomes' own ignored pieces, ambiguous bases, and these runs of bases; nothing else any more."""
        runs = torch.from_numpy(np.concatenate((self.genomes.ignored, more))).to(self.device)
        steps = torch.zeros(len(self.codes) + 1, dtype=torch.int32, device=self.device)
        one = torch.ones(len(runs), dtype=torch.int32, device=self.device)
        steps.index_add_(0, runs[:, 0], one).index_add_(0, runs.sum(1), -one)
        marked = (steps.cumsum(0, dtype=torch.int32)[:-1] > 0) | (self.codes == AMBIGUOUS)
        self.ignored_before = torch.zeros_like(steps)
        self.ignored_before[1:] = marked.cumsum(0, dtype=torch.int32)

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
        self.runs = torch.zeros(0, 2, dtype=torch.int64, device=held.device)
        self.synonyms = torch.from_numpy(_SYNONYMS).to(held.device)
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
        kinds, viral = held.kinds[record], held.viral[record]
        adopted, places = self._adopted(count, length)
        if adopted is not None:
            adopted &= viral
            starts = torch.where(adopted, places, starts)
            kinds = torch.where(adopted, PHAGE, kinds)
            unused &= ~adopted
        bases = self._changed(held.cut(starts, length))
        return Crops(bases, kinds, viral, ~unused)

    def adopt(self, runs: Int64[np.ndarray, "runs 2"]) -> None:
        """From now on draw the share ``adopted`` of the viral crops from these runs of bases."""
        self.runs = torch.from_numpy(runs).to(self.held.device)

    def _adopted(self, count: int, length: int) -> tuple[Bool[Tensor, " crops"] | None, Int64[Tensor, " crops"]]:
        """Which crops are to be of an adopted run if they are viral, and the place in one that each would have."""
        long = self.runs[self.runs[:, 1] >= length]
        if not self.recipe.adopted or not len(long):
            return None, self.runs[:, 0]
        before = long[:, 1].cumsum(0).double() / long[:, 1].sum()
        run = torch.searchsorted(before, self._uniform(count, dtype=torch.float64)).clamp(max=len(long) - 1)
        free = long[run, 1] - length + 1
        places = long[run, 0] + (self._uniform(count, dtype=torch.float64) * free).long()
        return self._uniform(count) < self.recipe.adopted, places

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
        """Hide codons, each frame's by itself, in half of the crops; put others of the same amino acid in some."""
        count = len(ids)
        if self.recipe.synonyms:
            other = torch.randint(_SYNONYMS.shape[1], ids.shape, device=ids.device, generator=self.generator)
            chosen = self._uniform(count, 1, 1) < self.recipe.synonyms
            ids = torch.where(chosen, self.synonyms[ids.long(), other], ids)
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
