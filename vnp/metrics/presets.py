"""Thresholds by name: what share of hosts each leaves alone, measured on records that were held out of training.

Names are read where a command line is, on hosts that may have no NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float64, Int64

SPECIFICITIES = {"relaxed": 0.95, "default": 0.99, "conservative": 0.999}
"""Share of held-out hosts that a preset does not call viral, by its name."""
DEFAULT = "default"
LENGTHS = (300, 500, 1_000, 3_000, 10_000, 30_000)
"""Bases at which a class of lengths may begin."""
_LEAST_DEFAULT = 0.5


@dataclass(frozen=True, slots=True)
class Preset:
    """Probabilities from which on a record is viral, by its length."""

    lengths: tuple[int, ...]  # bases from which on the next threshold holds, rising
    thresholds: tuple[float, ...]  # one more than lengths
    specificity: float  # share of the hosts that it was found on which it does not call viral

    def of(self, length: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        """The threshold of records of these lengths."""
        import numpy as np

        found: Float64[np.ndarray, "n"] = np.array(self.thresholds)[np.searchsorted(self.lengths, length, side="right")]
        return found


def presets_from_json(stored: Mapping[str, Any]) -> dict[str, Preset]:
    """Read what ``dataclasses.asdict`` gave of presets by name, perhaps by way of JSON; ValueError for all else."""
    found = {}
    for name, entry in stored.items():
        preset = Preset(
            tuple(int(length) for length in entry["lengths"]),
            tuple(float(value) for value in entry["thresholds"]),
            float(entry["specificity"]),
        )
        rising = all(one < other for one, other in pairwise(preset.lengths))
        shares = all(0 <= value <= 1 for value in (*preset.thresholds, preset.specificity))
        if len(preset.thresholds) != len(preset.lengths) + 1 or not (rising and shares):
            raise ValueError(f"the preset {name!r} has thresholds that cannot be")
        found[str(name)] = preset
    return found


def measure_presets(
    probability: Float64[np.ndarray, "n"], viral: Bool[np.ndarray, "n"], length: Int64[np.ndarray, "n"]
) -> dict[str, Preset]:
    """Find the presets that held-out records can tell.

    A threshold is the least probability at which no more than its share of the hosts is called viral; that of
    ``default`` is never under one half, and no preset's is under that of a laxer one. A preset of which fewer hosts are
    there than it allows one wrong among is left out. All have the same classes of lengths, each with as many hosts as
    the strictest needs.

    ``probability`` is calibrated, ``length`` in bases.
    """
    import numpy as np

    of_hosts, sizes = probability[~viral], length[~viral]
    needed = {name: round(1 / (1 - share)) for name, share in SPECIFICITIES.items()}
    names = [name for name, count in needed.items() if len(of_hosts) >= count]
    if not names:
        return {}
    edges = length_edges(sizes, LENGTHS, max(needed[name] for name in names))
    of_class = np.searchsorted(edges, sizes, side="right")
    found: dict[str, Preset] = {}
    before = np.zeros(len(edges) + 1)
    for name in names:
        allowed = [_threshold(of_hosts[of_class == one], SPECIFICITIES[name]) for one in range(len(edges) + 1)]
        least = _LEAST_DEFAULT if name == DEFAULT else 0.0
        before = np.maximum(before, np.maximum(allowed, least))
        specificity = float((of_hosts < before[of_class]).mean())
        found[name] = Preset(tuple(edges), tuple(before.tolist()), specificity)
    return found


def length_edges(sizes: Int64[np.ndarray, "h"], lengths: Sequence[int], needed: int) -> list[int]:
    """At which of these lengths classes begin, so that each has enough of the sizes."""
    edges: list[int] = []
    low = 0
    for edge in lengths:
        if ((sizes >= low) & (sizes < edge)).sum() >= needed and (sizes >= edge).sum() >= needed:
            edges.append(edge)
            low = edge
    return edges


def _threshold(of_hosts: Float64[np.ndarray, "h"], specificity: float) -> float:
    """The least probability that no more than the share of hosts reaches."""
    import numpy as np

    falling = np.sort(of_hosts)[::-1]
    # Of a thousand, one in a thousand is one: rounding must not make it none.
    wrong = int(len(falling) * (1 - specificity) + 1e-9)
    return float(np.nextafter(falling[wrong], 2.0)) if falling[wrong] < 1 else 1.0
