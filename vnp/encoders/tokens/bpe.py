"""Byte-pair encoding of many DNA sequences at once: what the published tokenizer gives, several times sooner.

A tokenizer merges the pair of neighbours with the lowest rank, the leftmost first, until no pair is left. Where every
token comes of one merge, later than those that made its halves, the outcome can be found from left to right:

* A row of tokens is the outcome for its text if and only if each two neighbours are the outcome for theirs. That can
  be tabulated: no merge may have been due between a piece at the right edge of the first and a piece at the left edge
  of the second, before one of the two was merged with its inner neighbour.
* So the last token of the outcome for the first i letters is the one token t, among those that these letters end with,
  that may stand behind the last token of the outcome for the first i - len(t). The automaton of Aho and Corasick
  (Communications of the ACM 18, 1975) lists the tokens that the letters end with.

The idea is that of the library ``bpe`` (https://github.com/github/rust-gems). Here one step takes the next letter of
thousands of sequences, in numpy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

from vnp.encoders.tokens.pieces import BASES, MOST_TOKENS, OTHER, SYMBOLS, Pieces, automaton, refused_pairs

FEWEST = 96
"""Sequences of about one length, below which the library is as quick."""

_FOREIGN = 255  # code of what is left to the library
_LANES = 8192  # sequences that one step works on: so many numbers stay in the processor's cache
_LETTERS = 1 << 21  # of a block, which bounds its memory to about 20 MB


@dataclass(frozen=True, eq=False)
class _Ending:
    """A token that each state of the automaton may have ended with.

    Attributes:
        back: cells back to the token before it.
        column: its column in the table of pairs.
        row: its row there, as the number of cells before it.
        token: itself.
    """

    back: Int64[np.ndarray, " states"]
    column: Int64[np.ndarray, " states"]
    row: Int64[np.ndarray, " states"]
    token: UInt16[np.ndarray, " states"]


class FastBpe:
    """Encodes upper-case letters.

    Args:
        pieces: the tokens.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._codes = np.full(256, _FOREIGN, np.uint8)
        self._codes[ord("A") : ord("Z") + 1] = OTHER
        self._codes[list(BASES.encode())] = np.arange(len(BASES))
        self._sizes = np.ones(MOST_TOKENS, np.int64)
        for text, number in pieces.ids.items():
            self._sizes[number] = len(text)
        refused, row, column = refused_pairs(pieces)
        self._refused = refused.reshape(-1)
        self._row, self._column = row * refused.shape[1], column
        self._next, endings = automaton(pieces)
        self._set_endings(endings)
        self._set_endings(self._likely_first(endings))

    def encode(self, sequences: Sequence[str]) -> tuple[list[Int64[np.ndarray, " tokens"]], list[int]]:
        """Encode what can be encoded here.

        Args:
            sequences: any.

        Returns:
            The ids of each sequence, first and last token included, and the places of the sequences that are left to
            the library, whose ids are empty: those with other letters, and where there are few of about their length.
        """
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        ends = np.cumsum(lengths)
        codes = self._codes[np.frombuffer("".join(sequences).encode("ascii", "replace"), np.uint8)]
        foreign = np.flatnonzero(codes == _FOREIGN)
        here = lengths > 0
        here[np.searchsorted(ends, foreign, side="right")] = False
        codes[foreign] = OTHER
        order = np.flatnonzero(here)
        order = order[np.argsort(lengths[order], kind="stable")]
        found = [np.zeros(0, np.int64)] * len(sequences)
        rest = np.flatnonzero(~here).tolist()
        for first, last in _blocks(lengths[order]):
            members = order[first:last]
            if len(members) < FEWEST:
                rest += members.tolist()
                continue
            ids, counts = self._encode_block(codes, ends[members] - lengths[members], lengths[members])
            edges = itertools.pairwise([0, *np.cumsum(counts).tolist()])
            for place, (begin, end) in zip(members.tolist(), edges, strict=True):
                found[place] = ids[begin:end]
        return found, rest

    def _encode_block(
        self, codes: UInt8[np.ndarray, " letters"], starts: Int64[np.ndarray, " n"], lengths: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, " n"]]:
        """Encode sequences of about one length: their ids one after the other, and how many each has."""
        lanes = np.arange(len(starts))
        tokens = self._last_tokens(_in_rows(codes, starts, int(lengths[-1]))).reshape(-1)
        # From the end of each sequence back, token by token.
        steps = []
        lane, place = lanes, lengths
        while len(lane):
            token = tokens.take(place * _LANES + lane)
            steps.append((lane, token))
            place = place - self._sizes.take(token)
            going = np.flatnonzero(place)
            lane, place = lane.take(going), place.take(going)
        counts = np.full(len(starts), 2, np.int64)
        for lane, _ in steps:
            counts[lane] += 1
        ends = np.cumsum(counts)
        ids = np.empty(ends[-1], np.int64)
        ids[ends - counts], ids[ends - 1] = self._pieces.first, self._pieces.last
        for step, (lane, token) in enumerate(steps, start=2):
            ids[ends.take(lane) - step] = token
        return ids, counts

    def _last_tokens(self, letters: UInt8[np.ndarray, "positions n"]) -> UInt16[np.ndarray, "rows lanes"]:
        """In row i, the last token of the outcome for the first i letters of each sequence."""
        positions, lanes = letters.shape
        tokens = np.empty((positions + 1, _LANES), np.uint16)
        # The same tokens as rows of the table of pairs.
        rows = np.empty((positions + 1, _LANES), np.int64)
        rows[0] = self._row[self._pieces.unknown]  # stands before the first letter, since anything may follow it
        flat = rows.reshape(-1)
        state = np.zeros(lanes, np.int64)
        here = np.arange(lanes)
        for position in range(positions):
            state *= SYMBOLS
            state += letters[position]
            state = self._next.take(state)
            here += _LANES
            token, row = tokens[position + 1, :lanes], rows[position + 1, :lanes]
            # What is likely for all, what is next likely for those that it was refused for, then all there is.
            refused = self._try(self._endings[0], flat, here, state)
            self._endings[0].token.take(state, out=token, mode="clip")
            self._endings[0].row.take(state, out=row, mode="clip")
            left = np.flatnonzero(refused)
            if not len(left):
                continue
            its_state, its_place = state.take(left), here.take(left)
            refused = self._try(self._endings[1], flat, its_place, its_state)
            token[left] = self._endings[1].token.take(its_state)
            row[left] = self._endings[1].row.take(its_state)
            again = np.flatnonzero(refused)
            if not len(again):
                continue
            left, its_state, its_place = left.take(again), its_state.take(again), its_place.take(again)
            best = self._try(self._endings[2], flat, its_place[:, None], its_state).argmin(axis=1)
            token[left] = self._endings[2].token[its_state, best]
            row[left] = self._endings[2].row[its_state, best]
        return tokens

    def _try(
        self,
        ending: _Ending,
        flat: Int64[np.ndarray, " cells"],
        here: Int64[np.ndarray, "*n"],
        state: Int64[np.ndarray, " n"],
    ) -> Bool[np.ndarray, "*n"]:
        """Whether these tokens may not stand behind those that would be before them."""
        pair = flat.take(here - ending.back.take(state, axis=0))
        pair += ending.column.take(state, axis=0)
        found: Bool[np.ndarray, "*n"] = self._refused.take(pair)
        return found

    def _set_endings(self, endings: list[list[tuple[int, int]]]) -> None:
        """Make tables of the first ending of each state, the second, and of all others."""
        # A state without so many has a stand-in, which comes after one that is taken.
        most = max(3, *map(len, endings))
        table = np.array([each + [(0, self._pieces.unknown)] * (most - len(each)) for each in endings], np.int64)
        length, token = table[:, :, 0], table[:, :, 1]
        self._endings = tuple(
            _Ending(
                back=np.ascontiguousarray(length[:, part] * _LANES),
                column=np.ascontiguousarray(self._column[token[:, part]]),
                row=np.ascontiguousarray(self._row[token[:, part]]),
                token=np.ascontiguousarray(token[:, part]).astype(np.uint16),
            )
            for part in (0, 1, slice(2, None))
        )

    def _likely_first(self, endings: list[list[tuple[int, int]]]) -> list[list[tuple[int, int]]]:
        """Order the tokens of each state by how often they are the right one in random DNA, so that few are tried."""
        letters = np.random.default_rng(0).integers(0, len(BASES), (150, 2048), np.uint8)
        tokens = self._last_tokens(letters)[1:, : letters.shape[1]].astype(np.int64)
        state = np.zeros(letters.shape[1], np.int64)
        seen = []
        for row, column in zip(tokens, letters, strict=True):
            state = self._next[state * SYMBOLS + column]
            seen.append(state * MOST_TOKENS + row)
        pairs, counts = np.unique(np.concatenate(seen), return_counts=True)
        count = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
        return [
            sorted(each, key=lambda one: (-count.get(number * MOST_TOKENS + one[1], 0), -one[0]))
            for number, each in enumerate(endings)
        ]


def _in_rows(
    codes: UInt8[np.ndarray, " letters"], starts: Int64[np.ndarray, " n"], longest: int
) -> UInt8[np.ndarray, "longest n"]:
    """The i-th letters of all sequences in row i; behind the end of a shorter one stands anything."""
    missing = int(starts.max()) + longest - len(codes)
    padded = np.concatenate([codes, np.zeros(missing, np.uint8)]) if missing > 0 else codes
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, longest)[starts].T)


def _blocks(lengths: Int64[np.ndarray, " n"]) -> Iterator[tuple[int, int]]:
    """Cut rising lengths into blocks; in one block no sequence is much shorter than the longest."""
    first = 0
    while first < len(lengths):
        most = int(lengths[first]) * 5 // 4 + 8
        lanes = max(1, min(_LANES, _LETTERS // most))
        last = min(first + lanes, int(np.searchsorted(lengths, most, side="right")))
        yield first, last
        first = last
