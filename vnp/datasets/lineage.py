"""Ranks of a lineage: GenBank lists an organism's groups without saying which is the family, but names end by rule.

The codes of nomenclature fix the endings: orders are ``-virales`` and ``-ales``, families ``-viridae``, ``-aceae`` and,
of animals, ``-idae``. Orders of animals have no ending, so there the family stands in. Genera of viruses end in
``-virus``; of others the first word of the organism's name is the genus, if the lineage has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

RANKS = ("genus", "family", "order")
"""The ranks that are known, from the narrowest."""
_ENDINGS = {"family": ("viridae", "aceae", "idae"), "order": ("ales",)}
_VIRAL_GENUS = re.compile(r"[A-Z][\w-]*(virus|viroid|satellite)")
_WORD = re.compile(r"[A-Z][a-z-]+")
_WIDER = re.compile(r"(viridae|virinae|virales|aceae|ales|idae|inae|eae|ota|ia|phyta)$")


def rank_of(lineage: Sequence[str], organism: str, rank: str) -> str:
    """The name of an organism's genus, family or order; empty where its lineage does not tell.

    ``lineage`` has its groups, the widest first; ``rank`` is one of ``RANKS``.
    """
    if rank != "genus":
        return next((name for name in reversed(lineage) if name.endswith(_ENDINGS[rank]) and _WORD.fullmatch(name)), "")
    if lineage and lineage[0] in ("Viruses", "Viroids"):
        return next((name for name in reversed(lineage) if _VIRAL_GENUS.fullmatch(name)), "")
    first = organism.split(maxsplit=1)[0] if organism else ""
    if first in lineage:
        return first
    last = lineage[-1] if lineage else ""
    return last if _WORD.fullmatch(last) and not _WIDER.search(last) else ""


def unit_of(lineage: Sequence[str], organism: str, rank: str) -> str:
    """The name of the rank, else of the next narrower one that the lineage tells; empty where it tells none."""
    narrower = RANKS[: RANKS.index(rank) + 1]
    return next((name for one in reversed(narrower) if (name := rank_of(lineage, organism, one))), "")
