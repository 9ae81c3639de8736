from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from vnp.encoders import identity, load
from vnp.encoders.models import kmer as kmer_module
from vnp.encoders.models.kmer import KmerEncoder

LETTERS = {"dna": "ACGT", "protein": "ACDEFGHIKLMNPQRSTVWY"}
WORDS = {"dna": (3, 4), "protein": (1, 2)}


def random_sequences(molecule: str, count: int = 50) -> list[str]:
    rng = np.random.default_rng(3)
    return ["".join(rng.choice(list(LETTERS[molecule]), rng.integers(1, 400))) for _ in range(count)]


@pytest.mark.parametrize("molecule", ["dna", "protein"])
def test_equals_scikit_learn(molecule: str) -> None:
    encoder = KmerEncoder(molecule)
    sequences = random_sequences(molecule)
    reference = HashingVectorizer(
        analyzer="char",
        lowercase=False,
        ngram_range=WORDS[molecule],
        n_features=encoder.width,
        norm="l2",
        dtype=np.float64,
    )
    expected = reference.transform(sequences).toarray()
    np.testing.assert_allclose(encoder.embed(sequences), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("molecule", "digest"),
    [
        ("dna", "2083a4c304d339976078fecbc82ba71f91415f9b29862d249f2293b7221570a2"),
        ("protein", "595a301536688e4fc3e46ab0a96c59a7c83644c931f64060673b7190ba97f162"),
    ],
)
def test_golden_digest(molecule: str, digest: str) -> None:
    """Features of another machine, year or library version stay comparable; else the algorithm needs a new name."""
    letters = LETTERS[molecule]
    sequences = [letters * 9, letters[::-1] + letters[0] * 40, letters[1] * 3 + "N" * 5 + letters * 2, "XNXN"]
    rows = KmerEncoder(molecule).embed(sequences)
    # Rounded, because a square root may differ in the last place between machines.
    assert hashlib.sha256(np.round(rows * 2**16).astype("<i4").tobytes()).hexdigest() == digest


@pytest.mark.parametrize("molecule", ["dna", "protein"])
def test_a_row_depends_on_its_sequence_alone(molecule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = KmerEncoder(molecule)
    sequences = random_sequences(molecule)
    together = encoder.embed(sequences)
    alone = np.concatenate([encoder.embed([one]) for one in sequences])
    backwards = encoder.embed(sequences[::-1])[::-1]
    monkeypatch.setattr(kmer_module, "_BLOCK_LETTERS", 500)
    in_blocks = encoder.embed(sequences)
    for other in (alone, backwards, in_blocks):
        assert together.tobytes() == np.ascontiguousarray(other).tobytes()


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ACGTNRacgtu-* \n\té?", max_size=40), max_size=6))
def test_any_text_gives_finite_rows_of_length_one_or_zero(sequences: list[str]) -> None:
    rows = KmerEncoder("dna").embed(sequences)
    assert rows.shape == (len(sequences), 768)
    assert rows.dtype == np.float32
    norms = np.linalg.norm(rows, axis=1)
    assert np.all((np.abs(norms - 1) < 1e-6) | (norms == 0))


def test_words_with_unknown_letters_are_not_counted() -> None:
    encoder = KmerEncoder("dna")
    whole, split, nothing = encoder.embed(["ACGTACGT", "ACGTNNNNNACGT", "NNNNNN"])
    assert not nothing.any()
    assert not np.array_equal(whole, split)
    # The same words, twice: N adds nothing of its own.
    np.testing.assert_allclose(encoder.embed(["ACGT"])[0], split, atol=1e-7)


def test_no_sequences() -> None:
    assert KmerEncoder("protein").embed([]).shape == (0, 1280)


def test_load_and_identity() -> None:
    encoder = load("kmer", molecule="protein", precision="fp16")
    assert (encoder.width, encoder.precision, encoder.token_budget, encoder.events) == (1280, "fp32", None, [])
    assert identity(encoder)["algorithm"] == "kmer-protein-1"
    assert identity(encoder) != identity(load("kmer", molecule="dna"))
