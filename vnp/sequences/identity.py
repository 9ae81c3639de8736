"""Finds genomes that are nearly the same.

Average nucleotide identity (ANI) is estimated by skani (Shaw and Yu, Nature Methods 2023, 20:1661) through pyskani.
95 % is where species are commonly drawn apart (Jain et al., Nature Communications 2018, 9:5114).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vnp.files.extras import require_extra

IDENTITY = 0.95
SHORTEST = 500
"""Bases of the shortest sequence that a sketch is made of."""
# What skani's authors advise for viruses and other small genomes, whose sketches would hold too little otherwise.
_SMALL = (30, 200)
# skani's own choice, a quarter of the memory, for genomes from so many bases on.
_LARGE = (125, 1000)
_LARGE_BASES = 50_000_000
# Pairs that are less alike than this by their markers are not aligned.
_FAR = 0.7


def clusters_of_genomes(
    sizes: Mapping[str, int],
    contigs: Callable[[str], Sequence[bytes]],
    *,
    asked_by: str,
    progress: Callable[[int], None] = lambda _genomes: None,
) -> dict[str, int]:
    """Number the clusters that genomes form when those of an ANI of ``IDENTITY`` are joined.

    15 % of one of two must align for skani to tell.

    Args:
        sizes: bases of each genome, by its name.
        contigs: gives a genome's sequences; those under ``SHORTEST`` bases are passed over. A genome without any
            longer one stands alone. One genome at a time is asked for.

    Returns:
        The cluster of each genome.

    Raises:
        UsageError: pyskani is not installed.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = list(sizes)
    places = {name: place for place, name in enumerate(names)}
    small, large = _databases(asked_by)
    pairs = [(place, place) for place in range(len(names))]
    # Large ones first: the small are compared with them at the large ones' compression, never the other way round.
    for name in sorted(names, key=lambda name: sizes[name] < _LARGE_BASES):
        sequences = [sequence for sequence in contigs(name) if len(sequence) >= SHORTEST]
        # pyskani takes names for paths, and of one with a slash finds only the end again.
        own = str(places[name])
        is_large = sizes[name] >= _LARGE_BASES
        for database in (large,) if is_large else (large, small):
            hits = database.query(own, *sequences, learned_ani=False, cutoff=IDENTITY - 0.05)
            pairs += [(int(own), int(hit.reference_name)) for hit in hits if hit.identity >= IDENTITY]
        (large if is_large else small).sketch(own, *sequences)
        progress(1)
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(names), len(names)))
    _, number = connected_components(graph, directed=False)
    return dict(zip(names, number.tolist(), strict=True))


def _databases(asked_by: str) -> tuple[Any, Any]:
    """Empty ones of small genomes and of large ones."""
    require_extra("dedupe", asked_by)
    import pyskani

    small, large = (pyskani.Database(compression=seeds, marker_compression=by) for seeds, by in (_SMALL, _LARGE))
    return small, large


class Relatives:
    """Genomes by which others are compared: how alike is the nearest?

    ``asked_by`` is the option that wants this, for the message that pyskani is missing.

    Raises:
        UsageError: pyskani is not installed.
    """

    def __init__(self, asked_by: str) -> None:
        self._small, self._large = _databases(asked_by)
        self._count = 0

    def add(self, sequence: bytes) -> None:
        """Add a genome, or a part of one; what is under ``SHORTEST`` bases is passed over."""
        if len(sequence) >= SHORTEST:
            self._count += 1
            (self._large if len(sequence) >= _LARGE_BASES else self._small).sketch(str(self._count), sequence)

    def identity(self, sequence: bytes) -> float | None:
        """The highest average nucleotide identity of a sequence to what was added, from 0 to 1.

        None where skani finds no relative: below some 80 %, or where less than 15 % of one of both aligns.
        """
        if len(sequence) < SHORTEST:
            return None
        found = [
            hit.identity
            for database in (self._small, self._large)
            for hit in database.query("asked", sequence, learned_ani=False, cutoff=_FAR)
        ]
        return float(max(found)) if found else None
