"""Sequences with the same pairs of letters in another order (Altschul and Erickson, Mol. Biol. Evol. 1985, 2:526).

The letters are the places of a graph and its pairs the ways from one to the next; a sequence is a walk that takes every
way once. The last way out of each place is drawn until these lead, from every place, to the sequence's last letter;
then any order of the others gives such a walk, and all are equally likely.
"""

from __future__ import annotations

import numpy as np


def dinucleotide_shuffle(sequence: bytes, random: np.random.Generator) -> bytes:
    """Shuffle a sequence so that every pair of neighbours occurs as often as before.

    The first and the last letter stay. Any letters may occur.
    """
    if len(sequence) < 3:
        return sequence
    letters, codes = np.unique(np.frombuffer(sequence, np.uint8), return_inverse=True)
    first, last = int(codes[0]), int(codes[-1])
    ways = [codes[1:][codes[:-1] == letter] for letter in range(len(letters))]
    for own in ways:
        random.shuffle(own)
    while not _all_lead_to(last, ways):
        for letter, own in enumerate(ways):
            if letter != last and len(own):
                chosen = int(random.integers(len(own)))
                own[[chosen, -1]] = own[[-1, chosen]]
    queues = [own.tolist() for own in ways]
    taken = [0] * len(queues)
    found = np.empty(len(codes), np.int64)
    at = first
    for place in range(len(codes) - 1):
        found[place] = at
        queue = queues[at]
        taken[at] += 1
        at = queue[taken[at] - 1]
    found[-1] = at
    return letters[found].tobytes()


def _all_lead_to(last: int, ways: list[np.ndarray]) -> bool:
    """Whether the last ways lead from every place that has some to the last letter."""
    for letter, own in enumerate(ways):
        at, steps = letter, 0
        while at != last and len(ways[at]) and steps <= len(ways):
            at, steps = int(ways[at][-1]), steps + 1
        if len(own) and at != last:
            return False
    return True
