"""Terminal repeats: what the two ends of a record have in common.

An assembled circle begins with the bases that it ends with (direct repeats), and so does a genome with redundant ends;
some linear genomes end with the reverse complement of their beginning (inverted repeats).
"""

from __future__ import annotations

from vnp.sequences.record import reverse_complement

SHORTEST = 20
"""Bases of the shortest repeat that counts, as in CheckV (Nayfach et al., Nature Biotechnology 2021)."""
LONGEST = 100_000
"""Bases that are looked at from either end."""
UNKNOWN = -(1 << 31)
"""In place of a length: nobody has looked."""
# More places than this that begin as the record does are a stretch that repeats itself.
_PLACES = 1_000
_PERIODS = range(1, 7)
_BASES = b"ACGT"


def terminal_repeat(sequence: bytes) -> int:
    """Bases of the longest repeat at the ends of a record.

    It is exact, at most half of the record and ``LONGEST`` bases long, and its first bases are not one of the simple
    repeats with a period of at most six. Of a direct and an inverted one the longer counts.

    Its bases are upper-case.

    Returns:
        The length, negative where the repeat is inverted; 0 if there is none of ``SHORTEST`` bases.
    """
    most = min(len(sequence) // 2, LONGEST)
    seed = sequence[:SHORTEST]
    if most < SHORTEST or seed.translate(None, _BASES) or any(seed[k:] == seed[:-k] for k in _PERIODS):
        return 0
    direct = _direct(sequence[:most], sequence[-most:])
    inverted = 0
    if reverse_complement(sequence[-SHORTEST:]) == seed:
        inverted = _common(sequence[:most], reverse_complement(sequence[-most:]))
    return direct if direct >= inverted else -inverted


def _direct(head: bytes, tail: bytes) -> int:
    """The longest beginning of one that the other ends with."""
    found = tail.find(head[:SHORTEST])
    for _ in range(_PLACES):
        if found < 0:
            return 0
        if head.startswith(tail[found:]):
            return len(tail) - found
        found = tail.find(head[:SHORTEST], found + 1)
    return 0


def _common(one: bytes, other: bytes) -> int:
    """How many bases two sequences share from the first on."""
    pairs = enumerate(zip(one, other, strict=True))
    return next((at for at, (left, right) in pairs if left != right), len(one))
