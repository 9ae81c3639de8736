"""What the measurements of cascades and caches draw, and that they compare what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.cache.measure import _cost, _draw
from benchmarks.cascade.measure import _dealt, _mixture


def test_all_pieces_of_a_genome_are_of_one_part(tmp_path: Path) -> None:
    files = {}
    for label in ("viral", "host"):
        path = tmp_path / f"{label}.fna"
        path.write_text("".join(f">{label}{number}\n{'ACGT' * 600}\n" for number in range(60)))
        files[label] = [path]
    parts: dict[str, set[str]] = {}
    for part, label, name, bases in _dealt(files, 1_000, 100, seed=3):
        assert name.startswith(f"{label}_")
        assert len(bases) <= 1_000
        parts.setdefault(name.rsplit("_", 1)[0], set()).add(part)
    assert all(len(found) == 1 for found in parts.values())
    assert set.union(*parts.values()) == {"train", "validation", "test", "mixed"}


def test_a_mixture_has_its_share_and_lengths() -> None:
    pieces = {"viral": [b"A" * 4_000], "host": [b"C" * 4_000]}
    found = _mixture(pieces, 2_000, 0.1, 500, 4_000, seed=5)
    viral = [name for name, bases in found if bases.startswith(b"A")]
    assert all(name.startswith("viral_") for name in viral)
    assert 0.08 < len(viral) / len(found) < 0.12
    assert {len(bases) for _, bases in found} <= set(range(500, 4_001))


def test_sets_repeat_as_they_say(tmp_path: Path) -> None:
    alike = {kind: 1 - len(set(_draw(kind, 2_000, 50, 1))) / 2_000 for kind in ("distinct", "amplicons", "genomes")}
    assert alike["distinct"] == 0
    assert alike["genomes"] < 0.5 < alike["amplicons"]
    kept = _cost(tmp_path, 8, [f"{number}" for number in np.arange(100)])
    assert all(seconds > 0 for seconds in kept.values())
