"""Random crops of genomes, cut and changed on the device that holds them, so that loading costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from torch import Tensor

from vnp.encoders.models.sixframe import AMBIGUOUS
from vnp.errors import InputError
from vnp.finetune.genomes import HOSTS, Genomes
from vnp.finetune.kmers import AMINO_ACIDS
from vnp.finetune.made_up import made_up
from vnp.finetune.recipe import Recipe
from vnp.finetune.team import Team

_MOST_IGNORED = 0.2
# For each codon those of the same amino acid, again and again: 12 divides by every number of them.
_SYNONYMS = np.array(
    [np.resize([codon for codon, other in enumerate(AMINO_ACIDS) if other == acid], 12) for acid in AMINO_ACIDS]
    + [np.full(12, len(AMINO_ACIDS))],
    dtype=np.int32,
)
# Amino acids that stand for each other most often (Dayhoff et al., 1978), how often one of the same class is chosen,
# and how many codons are held ready to stand for each one.
_CLASSES = ("AGPST", "C", "DENQ", "FWY", "HKR", "ILMV")
_SAME_CLASS = 0.75
_STAND_INS = 256


def _stand_ins() -> Int32[np.ndarray, "65 choices"]:
    """For each codon those of amino acids that evolution might put in its place; stops stay stops."""
    random = np.random.default_rng(0)
    codons = {acid: [codon for codon, other in enumerate(AMINO_ACIDS) if other == acid] for acid in set(AMINO_ACIDS)}
    rows = []
    for acid in AMINO_ACIDS:
        alike = next((one for one in _CLASSES if acid in one), acid)
        others = alike.replace(acid, "") or acid
        anything = acid if acid == "*" else "".join(_CLASSES)
        chosen = [random.choice(list(others if random.random() < _SAME_CLASS else anything)) for _ in range(_STAND_INS)]
        rows.append([random.choice(codons[one]) for one in chosen])
    return np.array([*rows, [len(AMINO_ACIDS)] * _STAND_INS], dtype=np.int32)


# A crop in so many has up to a twentieth of ambiguous bases.
_AMBIGUOUS_CROPS, _AMBIGUOUS_BASES = 0.03, 0.05


class Crops(NamedTuple):
    """One step's windows.

    Attributes:
        bases: codes.
        kinds: what each may be, one bit a kind.
        viral: labels.
        used: 0 for what lies in an ignored piece after all.
        unit: that each is of; -1 for what is made up.
    """

    bases: UInt8[Tensor, "crops bases"]
    kinds: UInt8[Tensor, " crops"]
    viral: Bool[Tensor, " crops"]
    used: Bool[Tensor, " crops"]
    unit: Int64[Tensor, " crops"]


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
        self.unit = torch.from_numpy(genomes.unit).to(device).long()
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
        team: what draws together; each member draws a share of a step's crops, of its own.

    Raises:
        InputError: nothing in a label is as long as one of the lengths.
    """

    def __init__(self, held: DeviceGenomes, part: int, recipe: Recipe, team: Team | None = None) -> None:
        self.held = held
        self.recipe = recipe
        self.team = team or Team()
        self.synonyms = torch.from_numpy(_SYNONYMS).to(held.device)
        self.stand_ins = torch.from_numpy(_stand_ins()).to(held.device)
        self.generator = torch.Generator(device=held.device)
        self.cumulative: dict[int, Float64[Tensor, " records"]] = {}
        for length in recipe.lengths:
            weights = record_weights(held.genomes, part, length, recipe.shares)
            self.cumulative[length] = torch.from_numpy(np.cumsum(weights)).to(held.device)

    def draw(self, step: int) -> Crops:
        """This member's crops of one step: the same ones whenever it is asked for."""
        recipe = self.recipe
        choice = np.random.default_rng((recipe.seed, step))
        lengths = np.array(list(recipe.lengths))
        chances = np.array(list(recipe.lengths.values()))
        length = int(choice.choice(lengths, p=chances / chances.sum()))
        self.generator.manual_seed(int(choice.integers(1 << 62)) + self.team.rank)
        count = max(2, recipe.bases // (length * self.team.size))
        held = self.held
        tried = count + count // 4
        record = torch.searchsorted(self.cumulative[length], self._uniform(tried, dtype=torch.float64))
        record = record.clamp(max=len(held.lengths) - 1)
        free = held.lengths[record] - length + 1
        starts = held.starts[record] + (self._uniform(tried, dtype=torch.float64) * free).long()
        unused = held.ignored(starts, length) > _MOST_IGNORED * length
        best = torch.argsort(unused.int(), stable=True)[:count]
        record, starts, unused = record[best], starts[best], unused[best]
        bases, kinds, viral, unit = (
            held.cut(starts, length),
            held.kinds[record],
            held.viral[record],
            held.unit[record],
        )
        # The first ones are as good as any: only those that are not used stand apart, at the end.
        some = int(recipe.made_up * count + choice.random())
        if some:
            bases = torch.cat((made_up(bases[:some], self.generator), bases[some:]))
            first = torch.arange(count, device=held.device) < some
            kinds, viral, unit = torch.where(first, HOSTS, kinds), viral & ~first, torch.where(first, -1, unit)
        return Crops(self._changed(bases), kinds, viral, ~unused, unit)

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
        """Hide codons of each frame in half of the crops; in some put those of the same or like amino acids."""
        count = len(ids)
        if self.recipe.synonyms:
            other = torch.randint(_SYNONYMS.shape[1], ids.shape, device=ids.device, generator=self.generator)
            chosen = self._uniform(count, 1, 1) < self.recipe.synonyms
            ids = torch.where(chosen, self.synonyms[ids.long(), other], ids)
        if self.recipe.evolved:
            other = torch.randint(_STAND_INS, ids.shape, device=ids.device, generator=self.generator)
            rate = self._uniform(count, 1, 1) * self.recipe.replaced
            rate = rate * (self._uniform(count, 1, 1) < self.recipe.evolved)
            ids = torch.where(self._uniform(*ids.shape) < rate, self.stand_ins[ids.long(), other], ids)
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
    weights = genomes.evened((genomes.part == part) & (genomes.lengths >= length))
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
