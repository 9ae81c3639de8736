"""Byte-pair encoding of many DNA sequences at once: what the published tokenizer gives, seven times sooner.

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
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16

FEWEST = 96
"""Sequences of about one length, below which the library is as quick."""

_FOREIGN = 255  # code of what is left to the library
_LANES = 8192  # sequences that one step works on: so many numbers stay in the processor's cache
_LETTERS = 1 << 21  # of a block, which bounds its memory to about 20 MB

BASES = "ACGT"
OTHER = 4
"""Code of any upper-case letter but the bases: an unknown token each, with which nothing merges."""
SYMBOLS = 8
"""Codes of letters, of which five are used."""
MOST_TOKENS = 4096

_NEVER = 1 << 30
_MORE = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")


class NotPlainError(Exception):
    """The tokenizer does something besides merging bases."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens that text can become, and how."""

    ids: Mapping[str, int]  # text to id of all tokens that bases can become
    merges: Sequence[tuple[str, str]]  # halves of the merges, by rank
    unknown: int  # id of what stands for any other letter
    first: int  # id put in front of a sequence
    last: int  # id put behind it

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Pieces:
        """Take them from the content of ``tokenizer.json``, unless it asks for more than this module does."""
        try:
            model = content["model"]
            plain = (
                model["type"] == "BPE"
                and content["normalizer"] is None
                and content["pre_tokenizer"] == {"type": "Whitespace"}
                and not any(model.get(key) for key in _MORE)
                and not any(one["content"].isalpha() for one in content["added_tokens"])
            )
            vocabulary: dict[str, int] = model["vocab"]
            merges = [_halves(one) for one in model["merges"]]
            first, last = _around(content["post_processor"])
            unknown = vocabulary[model["unk_token"]]
            letters = {text for text in vocabulary if len(text) == 1}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NotPlainError(f"unusual description: {type(error).__name__} {error}") from error
        if not plain or letters != set(BASES) or max(vocabulary.values()) >= MOST_TOKENS:
            raise NotPlainError("not byte-pair encoding of A, C, G and T alone")
        made: set[str] = set(BASES)
        for left, right in merges:
            if left + right in made or left not in made or right not in made or len(left + right) > 127:
                raise NotPlainError(f"the merge of {left} and {right} is out of order")
            made.add(left + right)
        return cls({text: vocabulary[text] for text in sorted(made)}, merges, unknown, first, last)


def _halves(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _around(processor: Mapping[str, Any]) -> tuple[int, int]:
    """Ids that come in front of and behind a sequence."""
    front, middle, back = processor["single"]
    if processor["type"] != "TemplateProcessing" or middle["Sequence"]["id"] != "A":
        raise NotPlainError("sequences are not put between two tokens")
    known = processor["special_tokens"]
    (first,), (last,) = (known[one["SpecialToken"]["id"]]["ids"] for one in (front, back))
    return first, last


def refused_pairs(
    pieces: Pieces,
) -> tuple[Bool[np.ndarray, "rows columns"], Int64[np.ndarray, " tokens"], Int64[np.ndarray, " tokens"]]:
    """For each two tokens, whether merging their texts together would merge across the border between them.

    Many tokens behave alike, so the table is one of kinds of tokens: it should fit into the processor's cache.
    The row and the column that each token has in it come with it.
    """
    rank = {left + right: number for number, (left, right) in enumerate(pieces.merges)}
    at_right, at_left = (_edges(pieces, rank, half) for half in (1, 0))
    refused = np.zeros((MOST_TOKENS, MOST_TOKENS), bool)
    for number, (left, right) in enumerate(pieces.merges):
        before, until_before = at_right[left]
        behind, until_behind = at_left[right]
        # Of two merges of one rank the left one is first: that within the token before, then the one across.
        refused[np.ix_(before[until_before > number], behind[until_behind >= number])] = True
    kinds, row = _kinds(refused)
    kinds, column = _kinds(np.ascontiguousarray(kinds.T))
    return np.ascontiguousarray(kinds.T), row, column


def _kinds(
    table: Bool[np.ndarray, "rows columns"],
) -> tuple[Bool[np.ndarray, "kinds columns"], Int64[np.ndarray, " rows"]]:
    """Each different row once, and which of them each row is."""
    seen: dict[bytes, int] = {}
    which = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in np.packbits(table, axis=1)], np.int64)
    return table[np.unique(which, return_index=True)[1]], which


def _edges(
    pieces: Pieces, rank: Mapping[str, int], half: int
) -> dict[str, tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]]:
    """For each piece, the tokens that have it at their edge for a time, and the rank of the merge that ends this."""
    found: dict[str, list[tuple[int, int]]] = {text: [] for text in pieces.ids}
    for text, number in pieces.ids.items():
        piece, until = text, _NEVER
        found[piece].append((number, until))
        while len(piece) > 1:
            until = rank[piece]
            piece = pieces.merges[until][half]
            found[piece].append((number, until))
    return {text: tuple(np.array(column) for column in zip(*each, strict=True)) for text, each in found.items()}  # type: ignore[misc]


def automaton(pieces: Pieces) -> tuple[Int64[np.ndarray, " moves"], list[list[tuple[int, int]]]]:
    """What state follows from a state and a letter; and for each state, length and id of the tokens that end there."""
    below: list[dict[int, int]] = [{}]
    token: dict[int, tuple[int, int]] = {}
    for text, number in pieces.ids.items():
        node = 0
        for letter in map(BASES.index, text):
            if letter not in below[node]:
                below[node][letter] = len(below)
                below.append({})
            node = below[node][letter]
        token[node] = (len(text), number)
    unknown = len(below)
    after = np.zeros((unknown + 1, SYMBOLS), np.int64)
    after[:, OTHER] = unknown
    endings: list[list[tuple[int, int]]] = [[] for _ in range(unknown)] + [[(1, pieces.unknown)]]
    shorter = [0] * unknown
    waiting = deque([0])
    while waiting:
        node = waiting.popleft()
        for letter in range(len(BASES)):
            back = int(after[shorter[node], letter]) if node else 0
            child = below[node].get(letter)
            if child is None:
                after[node, letter] = back
                continue
            after[node, letter], shorter[child] = child, back
            endings[child] = [token[child], *endings[back]] if child in token else endings[back]
            waiting.append(child)
    after[unknown] = after[0]
    return after.reshape(-1), endings


@dataclass(frozen=True, eq=False)
class _Ending:
    """A token that each state of the automaton may have ended with."""

    back: Int64[np.ndarray, " states"]  # cells back to the token before it
    column: Int64[np.ndarray, " states"]  # its column in the table of pairs
    row: Int64[np.ndarray, " states"]  # its row there, as the number of cells before it
    token: UInt16[np.ndarray, " states"]  # itself


class FastBpe:
    """Encodes upper-case letters."""

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
        """Give the ids of each sequence, first and last token included, and the places of those left to the library.

        These have no ids: those with other letters, and where there are few of about their length.
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
