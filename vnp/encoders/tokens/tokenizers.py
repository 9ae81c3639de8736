"""From letters to token ids, exactly as the published tokenizers do it."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Int64

from vnp.encoders.tokens.bpe import FEWEST, FastBpe, NotPlainError, Pieces
from vnp.errors import WeightsError
from vnp.files.records import parse_json, read_regular

if TYPE_CHECKING:
    from tokenizers import Tokenizer as PublishedTokenizer

log = logging.getLogger(__name__)

# The 33 tokens of every ESM2 model, in the order of their ids (the published vocab.txt).
ESM2_VOCABULARY: tuple[str, ...] = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)

FILES: Mapping[str, tuple[str, ...]] = {
    "letters": ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"),
    "pieces": ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
}
"""What a folder may hold of a tokenizer of each kind."""

_SKIP = 255  # whitespace: separates, but is no token


class Tokenizer(Protocol):
    """What an engine needs of a tokenizer."""

    def encode_batch(self, sequences: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
        """Turn each sequence into ids, first and last token included."""


class Esm2Tokenizer:
    """ESM2's tokenizer: one token a letter, ``<cls>`` in front, ``<eos>`` behind; ids are places in the vocabulary.

    As ``EsmTokenizer`` does it: upper-case letters of the vocabulary, ``.`` and ``-`` are known; a *run* of anything
    else (lower case, ``J``, ``*``) is one ``<unk>``; whitespace separates and is dropped. The one difference: the name
    of a special token inside a sequence (``<mask>``) is not taken for that token.

    Raises:
        WeightsError: a special token is missing, or there are too many tokens.
    """

    def __init__(self, vocabulary: Sequence[str] = ESM2_VOCABULARY) -> None:
        ids = {token: number for number, token in enumerate(vocabulary)}
        missing = [token for token in ("<cls>", "<eos>", "<unk>") if token not in ids]
        if missing or len(vocabulary) >= _SKIP:
            raise WeightsError(f"not an ESM2 vocabulary: {len(vocabulary)} tokens, missing {missing or 'none'}")
        self._first, self._last, self._unknown = ids["<cls>"], ids["<eos>"], ids["<unk>"]
        self._table = np.full(256, self._unknown, np.uint8)
        for token, number in ids.items():
            if len(token) == 1 and token.isascii():
                self._table[ord(token)] = number
        for letter in map(chr, range(128)):
            if letter.isspace():
                self._table[ord(letter)] = _SKIP
        self.digest: str = _sha256(list(vocabulary))

    def encode_batch(self, sequences: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
        """Turn each sequence into ids, ``<cls>`` and ``<eos>`` included."""
        if not sequences:
            return []
        # A place is kept on each side of every sequence for its first and last token.
        text = "\n" + "\n\n".join(sequences) + "\n"
        if not text.isascii():
            return self.encode_batch([_ascii(one) for one in sequences])
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences)) + 2
        ends = np.cumsum(lengths)
        starts = ends - lengths
        ids = self._table[np.frombuffer(text.encode("ascii"), np.uint8)]
        ids[starts], ids[ends - 1] = self._first, self._last
        keep = ids != _SKIP
        unknown = ids == self._unknown
        keep[1:] &= ~(unknown[1:] & unknown[:-1])
        wide = ids[keep].astype(np.int64)
        borders = [0, *np.cumsum(np.add.reduceat(keep, starts, dtype=np.int64)).tolist()]
        return [wide[start:end] for start, end in itertools.pairwise(borders)]


class DnabertTokenizer:
    """DNABERT-2's and DNABERT-S's byte-pair encoding, through the published ``tokenizer.json``, whose content is given.

    It knows upper-case A, C, G and T only: every other letter is one ``[UNK]``. Padding and truncation that a copy of
    the file may carry are switched off. ``[CLS]`` comes in front, ``[SEP]`` behind. Many sequences at once are encoded
    by ``bpe``, which gives the same ids and is checked for that when it is first used.

    Raises:
        WeightsError: it is not the description of a tokenizer.
    """

    def __init__(self, text: str) -> None:
        # Here, because this library is not needed to plan.
        from tokenizers import Tokenizer

        try:
            self._content = parse_json(text)
            self._content["padding"] = self._content["truncation"] = None
            self.digest: str = _bpe_digest(self._content)
            self._published: PublishedTokenizer = Tokenizer.from_str(json.dumps(self._content))
        # The library raises bare Exception for a description that it cannot use.
        except Exception as error:
            raise WeightsError(f"tokenizer.json does not describe a tokenizer: {error}") from error

    def encode_batch(self, sequences: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
        """Turn each sequence into ids, ``[CLS]`` and ``[SEP]`` included."""
        if len(sequences) < FEWEST or self._fast is None:
            return self._slowly(sequences)
        found, rest = self._fast.encode(sequences)
        for place, ids in zip(rest, self._slowly([sequences[place] for place in rest]), strict=True):
            found[place] = ids
        return found

    def _slowly(self, sequences: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
        try:
            encodings = self._published.encode_batch_fast(list(sequences))
        # What the library takes for a description it may still find no token in, and raises the same.
        except Exception as error:
            raise WeightsError(f"tokenizer.json does not describe a tokenizer: {error}") from error
        return [np.array(one.ids, np.int64) for one in encodings]

    @cached_property
    def _fast(self) -> FastBpe | None:
        """The quick way, if this tokenizer is of the kind that has one."""
        try:
            fast = FastBpe(Pieces.read(self._content))
        except NotPlainError as error:
            log.info("tokenizer.json: %s; its library encodes everything, which takes longer", error)
            return None
        letters = np.random.default_rng(1).choice(
            list("ACGTN"), (2 * FEWEST, 120), p=[0.249, 0.249, 0.249, 0.249, 0.004]
        )
        texts = ["".join(row[: 100 + number % 20]) for number, row in enumerate(letters)]
        found, rest = fast.encode(texts)
        if rest or any(not np.array_equal(*pair) for pair in zip(found, self._slowly(texts), strict=True)):
            log.warning("tokenizer.json: the quick way gives other ids than its library, which encodes everything now")
            return None
        return fast


class AbsentTokenizer:
    """Stands where a weights folder has no tokenizer: token ids can be embedded, letters cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.digest: str | None = None

    def encode_batch(self, sequences: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
        """Refuse."""
        raise WeightsError(
            f"{self._path} is missing, so {len(sequences)} sequence(s) cannot become tokens; fetch it again "
            "(python -m jobs.fetch)"
        )


def load_tokenizer(folder: Path, kind: str) -> Esm2Tokenizer | DnabertTokenizer | AbsentTokenizer:
    """Read the tokenizer that lies beside the weights.

    It is of ``letters`` (``vocab.txt``; built in where that is missing) or of ``pieces`` (``tokenizer.json``; an
    ``AbsentTokenizer`` where that is missing).

    Raises:
        WeightsError: the file cannot be used.
    """
    if kind == "letters":
        path = folder / "vocab.txt"
        if not path.exists():
            return Esm2Tokenizer()
        return Esm2Tokenizer(_read(path).split())
    path = folder / "tokenizer.json"
    if not path.exists():
        return AbsentTokenizer(path)
    return DnabertTokenizer(_read(path))


def tokenizer_digest(folder: Path, kind: str) -> str | None:
    """The digest that ``load_tokenizer`` would have, without loading a tokenizer library."""
    if kind == "letters":
        return load_tokenizer(folder, kind).digest
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        return _bpe_digest(parse_json(_read(path)))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WeightsError(f"{path} does not describe a tokenizer: {error}") from error


def _ascii(sequence: str) -> str:
    """The same without letters that no table has: white space of any script is a blank, other letters are unknown."""
    if sequence.isascii():
        return sequence
    return " ".join(sequence.split()).encode("ascii", "replace").decode("ascii")


def _read(path: Path) -> str:
    try:
        return read_regular(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _bpe_digest(content: dict[str, dict[str, object]]) -> str:
    """Digest of what decides the ids; the same whether merges are written as "A B" or as ["A", "B"]."""
    model = content["model"]
    merges = [one if isinstance(one, str) else " ".join(one) for one in _list(model["merges"])]
    parts = [content.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")]
    return _sha256([model["vocab"], merges, parts])


def _list(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("merges are not a list")
    return value


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
