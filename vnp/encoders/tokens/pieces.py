"""What a tokenizer's merges say, as the tables that ``_bpe`` works with."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

BASES = "ACGT"
OTHER = 4
"""Code of any upper-case letter but the bases: an unknown token each, with which nothing merges."""
SYMBOLS = 8
"""Codes of letters, of which five are used."""
MOST_TOKENS = 4096

_NEVER = 1 << 30


class NotPlainError(Exception):
    """The tokenizer does something besides merging bases."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The tokens that text can become, and how.

    Attributes:
        ids: text to id of all tokens that bases can become.
        merges: halves of the merges, by rank.
        unknown: id of what stands for any other letter.
        first: id put in front of a sequence.
        last: id put behind it.
    """

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    unknown: int
    first: int
    last: int

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Pieces:
        """Take them from the content of ``tokenizer.json``.

        Raises:
            NotPlainError: it asks for more than this module does.
        """
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


_MORE = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")


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

    Returns:
        The table, and for each token the row that it has as the first and the column that it has as the second.
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
