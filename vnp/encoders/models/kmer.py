"""Hashed k-mer spectra: an encoder without weights.

Which column a k-mer falls into, and with which sign, is as in scikit-learn's ``HashingVectorizer`` (signed 32-bit
MurmurHash3: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009). The
alphabet is closed, so every possible k-mer is hashed once; after that, counting a batch is a table look-up
in numpy. The result is what ``HashingVectorizer`` gives for the same sequences, four times sooner.

k-mers with a letter outside the alphabet (N, X, gaps, lower case) are not counted. A sequence with nothing
to count is a row of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vnp.encoders.spec import EncoderSpec, Molecule, spec

_ALPHABETS: dict[Molecule, str] = {"dna": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}
_LENGTHS: dict[Molecule, tuple[int, ...]] = {"dna": (3, 4), "protein": (1, 2)}
_BITS = (1 << 32) - 1
_BLOCK_LETTERS = 1 << 20  # letters counted at once; bounds memory to about 60 bytes a letter


@dataclass(frozen=True, eq=False)
class Counted:
    """Rows that are there already; a GPU's would be on their way."""

    rows: Float32[np.ndarray, "n width"]  # one a sequence
    gpu_seconds: float = 0.0  # none

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Give the rows."""
        return self.rows


class KmerEncoder:
    """Turns sequences into L2-normalised, hashed k-mer counts.

    DNA is counted in words of 3 and 4 bases, protein in words of 1 and 2 residues. A row depends on its sequence alone.
    Needs no weights, no GPU and no token budget.

    Raises:
        UsageError: the molecule is neither ``dna`` nor ``protein``.
    """

    def __init__(self, molecule: str) -> None:
        self.spec: EncoderSpec = spec("kmer", molecule)
        self.width: int = self.spec.width
        self.device: str = "cpu"
        self.precision: str = "fp32"
        self.token_budget: int | None = None
        self.events: list[str] = []
        self.kernel: str = "none"
        self.tokens_read: int = 0

    def prepare(self, sequences: Sequence[str]) -> Sequence[str]:
        """Do nothing: there are no tokens to be made ahead."""
        return sequences

    def launch(self, work: Sequence[str]) -> Counted:
        """Count the k-mers of what ``prepare`` gave; see ``embed``."""
        return Counted(self.embed(work))

    def embed(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """One row a sequence of upper-case letters, in input order; length 1, or 0 where nothing could be counted."""
        out = np.zeros((len(sequences), self.width), np.float32)
        for start, stop in _blocks(sequences):
            out[start:stop] = self._embed_block(sequences[start:stop])
        self.tokens_read += sum(map(len, sequences))
        return out

    def _embed_block(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        digits, rows = _digits(sequences, self.spec.molecule)
        base = len(_ALPHABETS[self.spec.molecule]) + 1
        counts = np.zeros(len(sequences) * self.width)
        codes = np.zeros(len(digits), np.int64)
        lengths = _LENGTHS[self.spec.molecule]
        for k in range(1, lengths[-1] + 1):
            # A word that starts at i ends with the letter at i + k - 1; the last k - 1 places start none.
            codes = codes[: len(digits) - k + 1] * base + digits[k - 1 :]
            if k in lengths:
                columns, signs = _table(self.spec.molecule, k)
                places = rows[: len(codes)] * self.width + columns[codes]
                counts += np.bincount(places, weights=signs[codes], minlength=len(counts))
        return _normalise(counts.reshape(len(sequences), self.width))


def _blocks(sequences: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Cut a list into runs of at most about ``_BLOCK_LETTERS`` letters, at least one sequence each."""
    start = letters = 0
    for index, one in enumerate(sequences):
        if index > start and letters + len(one) > _BLOCK_LETTERS:
            yield start, index
            start, letters = index, 0
        letters += len(one) + 1
    if start < len(sequences):
        yield start, len(sequences)


def _digits(
    sequences: Sequence[str], molecule: Molecule
) -> tuple[UInt8[np.ndarray, " letters"], Int64[np.ndarray, " letters"]]:
    """All sequences as digits, one digit outside the alphabet after each sequence, and whose each digit is."""
    # "?" keeps one byte for one letter, whatever stands there.
    text = b"".join(one.encode("ascii", "replace") + b"\n" for one in sequences)
    digits = _letters(molecule)[np.frombuffer(text, np.uint8)]
    lengths = np.fromiter((len(one) + 1 for one in sequences), np.int64, len(sequences))
    return digits, np.repeat(np.arange(len(sequences)), lengths)


def _normalise(counts: Float64[np.ndarray, "n width"]) -> Float32[np.ndarray, "n width"]:
    """Scale each row to length 1. Counts are whole numbers, so their squares add up exactly in any order."""
    norms = np.sqrt(np.einsum("ij,ij->i", counts, counts))
    norms[norms == 0.0] = 1.0
    rows: Float32[np.ndarray, "n width"] = (counts / norms[:, None]).astype(np.float32)
    return rows


@cache
def _letters(molecule: Molecule) -> UInt8[np.ndarray, " 256"]:
    alphabet = _ALPHABETS[molecule]
    table = np.full(256, len(alphabet), np.uint8)
    table[np.frombuffer(alphabet.encode(), np.uint8)] = np.arange(len(alphabet))
    return table


@cache
def _table(molecule: Molecule, k: int) -> tuple[Int64[np.ndarray, " words"], Float64[np.ndarray, " words"]]:
    """Column and sign of every word of length k, in the order of their codes.

    The alphabet has one more letter here, for everything else; words that hold it have sign 0.
    """
    words = ["".join(word) for word in product(_ALPHABETS[molecule] + "\n", repeat=k)]
    hashed = np.array([_hash(word.encode()) for word in words])
    signs = np.where(["\n" in word for word in words], 0.0, np.where(hashed < 0, -1.0, 1.0))
    return np.abs(hashed) % spec("kmer", molecule).width, signs


def _hash(word: bytes) -> int:
    """Signed MurmurHash3 (x86, 32 bits, seed 0; Appleby) of at most four bytes.

    Here, because scikit-learn, which has one, takes a second to import, and every task would wait for it.
    """
    mixed = int.from_bytes(word, "little") * 0xCC9E2D51 & _BITS
    mixed = ((mixed << 15 | mixed >> 17) & _BITS) * 0x1B873593 & _BITS
    if len(word) == 4:
        mixed = ((mixed << 13 | mixed >> 19) & _BITS) * 5 + 0xE6546B64 & _BITS
    mixed ^= len(word)
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & _BITS
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & _BITS
    mixed ^= mixed >> 16
    return mixed - (mixed >> 31 << 32)
