"""What a training of ``sixframe`` is asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vnp.encoders.models.sixframe import SixFrameConfig
from vnp.errors import UsageError

LENGTHS: Mapping[int, float] = {
    120: 0.02, 150: 0.08, 200: 0.07, 300: 0.13, 500: 0.17, 800: 0.10, 1000: 0.12, 1500: 0.07, 2000: 0.08, 3000: 0.07,
    5000: 0.06, 8000: 0.03,
}  # fmt: skip
"""Bases of a step's crops, and how often there is such a step."""
SHARES: Mapping[str, float] = {
    "phage": 0.34, "eukaryotic_virus": 0.14, "virus": 0.02, "bacteria": 0.25, "archaea": 0.07, "plasmid": 0.06,
    "organelle": 0.02, "fungi": 0.025, "protozoa": 0.02, "plant": 0.02, "invertebrate": 0.02, "vertebrate": 0.025,
}  # fmt: skip
"""How much of a step is of each group; each label is brought to one half, and groups not named here share alike."""
SET_ASIDE: Mapping[float, float] = {0.15: 0.0, 0.3: 0.5, 0.5: 1.0, 0.75: 1.0}
"""Parts of the steps after which prokaryotes and plasmids are searched for prophages, and log-odds that are enough."""
SHORTEST_WINDOW, LONGEST_WINDOW = 200, 1_000_000
"""Bases that a network may be trained to read at once."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything but the genomes that decides what comes out.

    Attributes:
        steps: of the optimiser.
        bases: in the crops of one step.
        rate: the learning rate at its highest.
        warm_up: steps in which it rises; then it falls to nothing as a cosine.
        decay: of weights (AdamW).
        average: of the weights over steps, which is what is kept in the end.
        smoothing: how far from 0 and 1 the target of a label is.
        kind_weight: how much telling kinds apart counts beside telling viruses from hosts.
        unit_weight: how much telling units apart counts beside that.
        mutated: share of crops with substitutions.
        substitutions: share of bases that are substituted in one of them, at most.
        hidden_codons: share of codons that are hidden in half of the crops, at most.
        synonyms: share of crops in which every codon is replaced by a random one of the same amino acid.
        evolved: share of crops in which codons are replaced by those of like amino acids, as in a distant relative.
        replaced: share of codons that are replaced in one of them, at most.
        made_up: share of crops that are shuffled, or made up of repeats and few letters, and are hosts of no kind.
        doubt: a prokaryote or plasmid counts as much as its chance of being a host, to this power.
        window: bases that the network will read at once; longer records are cut, and measured so.
        seed: of weights, crops and dropout.
        lengths: see ``LENGTHS``.
        shares: see ``SHARES``.
        set_aside: see ``SET_ASIDE``; what is found is no longer trained on until the next search does not find it.
        network: its sizes.
    """

    steps: int = 10_000
    bases: int = 1_000_000
    rate: float = 2e-3
    warm_up: int = 200
    decay: float = 0.3
    average: float = 0.999
    smoothing: float = 0.01
    kind_weight: float = 0.3
    unit_weight: float = 0.1
    mutated: float = 0.3
    substitutions: float = 0.1
    hidden_codons: float = 0.2
    synonyms: float = 0.3
    evolved: float = 0.5
    replaced: float = 0.6
    made_up: float = 0.04
    doubt: float = 0.5
    window: int = 5_000
    seed: int = 1
    lengths: Mapping[int, float] = field(default_factory=lambda: dict(LENGTHS), hash=False)
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES), hash=False)
    set_aside: Mapping[float, float] = field(default_factory=lambda: dict(SET_ASIDE), hash=False)
    network: SixFrameConfig = field(default_factory=SixFrameConfig)

    def __post_init__(self) -> None:
        if min(self.steps, self.bases, self.warm_up) < 1:
            raise UsageError("steps, bases of a step and warm-up must be above 0")
        if not self.lengths or min(self.lengths) < 20 or min(self.lengths.values()) <= 0:
            raise UsageError("crops must be of 20 bases or more, and each length be drawn at times")
        if not SHORTEST_WINDOW <= self.window <= LONGEST_WINDOW:
            raise UsageError(f"a window is from {SHORTEST_WINDOW} to {LONGEST_WINDOW:,} bases, not {self.window:,}")
        changed = (self.mutated, self.substitutions, self.hidden_codons, self.synonyms, self.evolved, self.replaced)
        shares = (self.smoothing, self.made_up, *changed)
        if not all(0 <= share < 1 for share in shares[:2]) or not all(0 <= share <= 1 for share in shares):
            raise UsageError("a share must be from 0 to 1")

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds."""
        stored = asdict(self)
        stored["lengths"] = {str(length): share for length, share in self.lengths.items()}
        stored["set_aside"] = {str(part): logit for part, logit in self.set_aside.items()}
        stored["network"] = self.network.to_json()
        return stored
