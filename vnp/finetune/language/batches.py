"""Which proteins a step sees, and how they are cut into pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from vnp.finetune.language.examples import Examples

_MASK, _FIRST_LETTER, _LETTERS = 32, 4, 20
_MASKED_SHARE, _RANDOM_SHARE = 0.8, 0.1


class Order:
    """Proteins in an order of their own in every epoch; the same seed gives the same.

    A step has so many ``tokens``: as many whole proteins as fit, and one at least. ``lengths`` are tokens of each
    protein of the set, ``rows`` those that are trained on. It goes on in an ``epoch`` of which some were ``done``.
    """

    def __init__(
        self, rows: Int64[np.ndarray, " m"], lengths: Int64[np.ndarray, " n"], tokens: int, seed: int,
        epoch: int = 0, done: int = 0,
    ) -> None:  # fmt: skip
        self._rows, self._lengths, self._tokens, self._seed = rows, lengths, tokens, seed
        self.epoch, self.done = epoch, done
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = np.random.default_rng([self._seed, self.epoch]).permutation(self._rows)
        self._ends = np.cumsum(self._lengths[self.order])

    def step(self) -> Int64[np.ndarray, " k"]:
        """The proteins of the next step; the last ones of an epoch may be fewer."""
        if self.done >= len(self.order):
            self.epoch, self.done = self.epoch + 1, 0
            self._shuffle()
        before = self._ends[self.done - 1] if self.done else 0
        end = int(np.searchsorted(self._ends, before + self._tokens, side="right"))
        end = max(end, self.done + 1)
        taken, self.done = self.order[self.done : end], end
        return taken


def pieces(lengths: Int64[np.ndarray, " k"], budget: int) -> Iterator[slice]:
    """Cut some proteins into pieces of nearly the same number of tokens, each of one protein at least."""
    total = int(lengths.sum())
    target = total / max(1, -(-total // budget))
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(lengths):
        before = int(ends[begin - 1]) if begin else 0
        # Nearly: the last protein may stand out over the target, never over the budget.
        end = int(np.searchsorted(ends, min(before + target + 0.5, total), side="left")) + 1
        if end > begin + 1 and ends[min(end, len(ends)) - 1] - before > budget:
            end -= 1
        end = max(end, begin + 1)
        yield slice(begin, min(end, len(lengths)))
        begin = end


def masked(
    examples: Examples, rows: Int64[np.ndarray, " k"], share: float, seed: int, step: int
) -> tuple[list[Int64[np.ndarray, " length"]], list[Int64[np.ndarray, " places"]]]:
    """Hide residues as ESM2's training did: of those to guess 80 % are masked, 10 % random, 10 % stay.

    A ``share`` of the residues is to guess, one at least of each protein. Each step has masks of its own.

    Returns:
        The tokens of each protein as the network sees them, and the places to guess.
    """
    chance = np.random.default_rng([seed, 1, step])
    shown, places = [], []
    for row in rows.tolist():
        ids = examples.ids(row).astype(np.int64)
        inner = len(ids) - 2
        chosen = 1 + np.sort(chance.choice(inner, max(1, round(share * inner)), replace=False))
        draw = chance.random(len(chosen))
        letters = chance.integers(_FIRST_LETTER, _FIRST_LETTER + _LETTERS, len(chosen))
        ids[chosen] = np.where(
            draw < _MASKED_SHARE, _MASK, np.where(draw < _MASKED_SHARE + _RANDOM_SHARE, letters, ids[chosen])
        )
        shown.append(ids)
        places.append(chosen)
    return shown, places
