"""What is kept with a classifier of how far its probabilities and calls can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vnp.metrics.evidence import Evidence
from vnp.metrics.novelty import Novelty
from vnp.metrics.reliability import Reliability


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How right a classifier was on records that it was not trained on."""

    what: str  # which records
    records: int
    right: float  # share of them that are called right
    off: float  # mean distance of promised and observed shares of viral (expected calibration error)


@dataclass(frozen=True, slots=True, eq=False)
class Trust:
    """Each is None where it was not measured, as in what earlier versions wrote."""

    prevalence: float | None = None  # share of viral records at which probabilities hold
    novelty: Novelty | None = None  # what training looked like
    reliability: Reliability | None = None  # how often calls were wrong on held-out records
    evidence: Evidence | None = None  # what probabilities of held-out records look like

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds."""
        return {
            "prevalence": self.prevalence,
            "novelty": None if self.novelty is None else self.novelty.to_json(),
            "reliability": None if self.reliability is None else self.reliability.to_json(),
            "evidence": None if self.evidence is None else self.evidence.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Trust:
        """Read what ``to_json`` gave; None gives nothing. ValueError or TypeError where it is damaged."""
        stored = stored or {}
        names = ("prevalence", "novelty", "reliability", "evidence")
        share, novelty, reliability, evidence = (stored.get(name) for name in names)
        if share is not None and not 0 < float(share) < 1:
            raise ValueError(f"a share of viruses of {share}")
        return cls(
            None if share is None else float(share),
            None if novelty is None else Novelty.from_json(novelty),
            None if reliability is None else Reliability.from_json(reliability),
            None if evidence is None else Evidence.from_json(evidence),
        )

    @property
    def missing(self) -> str:
        """What it cannot give, in words; empty where there is everything."""
        named = (
            ("the share of viruses that its probabilities hold at", self.prevalence),
            ("novelty", self.novelty),
            ("measured reliability", self.reliability),
        )
        return ", ".join(name for name, value in named if value is None)
