from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from vnp.encoders.tokens.bpe import FEWEST, FastBpe, NotPlainError, Pieces
from vnp.encoders.tokens.tokenizers import DnabertTokenizer
from vnp.sequences.reading import read_records

GENOMES = ("viral", "bacteria", "archaea", "fungi", "plant", "vertebrate")


def trained(seed: int, size: int, letters: str = "ACGT", unit: int = 4) -> str:
    """A small tokenizer of the same kind, trained on text full of repeats."""
    rng = np.random.default_rng(seed)
    units = ["".join(rng.choice(list(letters), unit)) for _ in range(6)] + list("ACGT")
    texts = ["".join(rng.choice(units, 40)) for _ in range(200)]
    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=list("ACGT"), show_progress=False)
    )
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return str(tokenizer.to_str())


def published(shared: Path) -> str:
    content = json.loads((shared / "data/tokenizers/dnabert2/tokenizer.json").read_text())
    return json.dumps({**content, "padding": None, "truncation": None})


def random_texts(seed: int, count: int, shortest: int, longest: int, letters: str = "ACGT") -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(letters), rng.integers(shortest, longest + 1))) for _ in range(count)]


def genome_pieces(shared: Path, size: int, most: int) -> Iterator[str]:
    for group in GENOMES:
        for number, record in enumerate(read_records(shared / f"data/{group}.fna.gz")):
            text = record.sequence.decode()
            yield from (text[start : start + size] for start in range(0, min(len(text), most * size), size))
            if number == 4:
                break


def assert_same(text: str, sequences: list[str], *, left: int = 0) -> None:
    """The quick way gives the library's ids, and leaves so many sequences to it."""
    found, rest = FastBpe(Pieces.read(json.loads(text))).encode(sequences)
    expected = [one.ids for one in Tokenizer.from_str(text).encode_batch(sequences)]
    assert len(rest) == left
    for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if place in rest:
            assert len(ours) == 0
        else:
            assert ours.tolist() == theirs, sequences[place]
            assert ours.dtype == np.int64


@pytest.mark.parametrize("size", [150, 299])
def test_genomes_are_encoded_as_published(size: int, shared: Path) -> None:
    pieces = [piece for piece in genome_pieces(shared, size, 120) if len(piece) == size]
    assert len(pieces) > 1_000
    assert_same(published(shared), pieces)


def test_ambiguous_bases_in_genomes(shared: Path) -> None:
    rng = np.random.default_rng(3)
    pieces = [piece for piece in genome_pieces(shared, 200, 40) if len(piece) == 200]
    spoilt = []
    for piece in pieces:
        letters = np.array(list(piece))
        places = rng.integers(0, 200, rng.integers(0, 30))
        letters[places] = rng.choice(list("NRYKMSWBDHV"), len(places))
        spoilt.append("".join(letters))
    spoilt += ["N" * 200] * 3
    assert_same(published(shared), spoilt)


def test_all_lengths(shared: Path) -> None:
    """Sequences of many lengths are sorted into blocks and come out where they were."""
    texts = random_texts(4, 3_000, 1, 60) + random_texts(5, 300, 900, 1_000, "ACGTTTTN")
    order = np.random.default_rng(6).permutation(len(texts))
    assert_same(published(shared), [texts[place] for place in order])


def test_repeats(shared: Path) -> None:
    """Long runs, in which which of several equal pairs is first decides."""
    rng = np.random.default_rng(7)
    texts = []
    for unit in ("A", "T", "C", "AC", "TG", "AAT", "CAG", "ACGT", "AAAAAT"):
        for _ in range(40):
            start, size = rng.integers(0, 20), rng.integers(60, 70)
            texts.append((unit * 100)[start : start + size] + "".join(rng.choice(list("ACGT"), rng.integers(0, 5))))
    assert_same(published(shared), texts)


@pytest.mark.parametrize("seed", range(12))
def test_other_vocabularies_of_the_kind(seed: int) -> None:
    letters = "ACGT" if seed % 3 else "AC"
    text = trained(seed, 20 + 15 * seed, letters, unit=2 + seed % 4)
    texts = random_texts(seed, 300, 30, 35) + random_texts(seed, 300, 30, 35, letters + "N" * (seed % 2))
    assert_same(text, texts)


def test_what_is_not_upper_case_is_left_to_the_library(shared: Path) -> None:
    texts = random_texts(8, 300, 50, 50)
    texts[3] = "acgt" * 12 + "AC"
    texts[7] = "ACGT ACGT" * 5 + "ACGTA"
    texts[11] = "ACGT-" * 10
    texts[13] = ""
    texts[17] = "ACGé" * 12 + "AC"
    texts[19] = "A[CLS]C" + "A" * 43
    assert_same(published(shared), texts, left=6)


def test_few_of_a_length_are_left_to_the_library(shared: Path) -> None:
    texts = random_texts(9, FEWEST, 100, 100) + random_texts(9, FEWEST - 1, 5_000, 5_000)
    assert_same(published(shared), texts, left=FEWEST - 1)
    assert_same(published(shared), [], left=0)


def test_the_tokenizer_takes_the_quick_way_and_is_right(shared: Path) -> None:
    text = published(shared)
    texts = random_texts(10, 300, 100, 110, "ACGTACGTN")
    texts[5] = "acgtu"
    ours = DnabertTokenizer(text).encode_batch(texts)
    assert [ids.tolist() for ids in ours] == [one.ids for one in Tokenizer.from_str(text).encode_batch(texts)]


def changed(text: str, **more: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text)
    for path, value in more.items():
        at = content
        *outer, last = path.split("__")
        for key in outer:
            at = at[key]
        at[last] = value
    return content


@pytest.mark.parametrize(
    "more",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"post_processor": None},
        {"model__dropout": 0.1},
        {"model__fuse_unk": True},
        {"model__unk_token": None},
        {"model__merges": [["A", "C"], ["AC", "G"], ["C", "G"], ["A", "CG"]]},
        {"model__merges": [["AC", "G"], ["A", "C"]]},
    ],
)
def test_other_kinds_are_left_to_the_library(more: dict[str, Any]) -> None:
    with pytest.raises(NotPlainError):
        Pieces.read(changed(trained(1, 60), **more))


def test_a_tokenizer_of_another_kind_still_encodes() -> None:
    text = json.dumps(changed(trained(1, 60), normalizer={"type": "Lowercase"}))
    texts = random_texts(11, 200, 40, 40)
    ours = DnabertTokenizer(text).encode_batch(texts)
    assert [ids.tolist() for ids in ours] == [one.ids for one in Tokenizer.from_str(text).encode_batch(texts)]


def test_a_quick_way_that_errs_is_not_taken(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with the library before it is used."""
    read = Pieces.read

    def swapped(content: dict[str, Any]) -> Pieces:
        pieces = read(content)
        return Pieces(pieces.ids, pieces.merges, pieces.unknown, pieces.last, pieces.first)

    monkeypatch.setattr("vnp.encoders.tokens.tokenizers.Pieces.read", swapped)
    text = published(shared)
    texts = random_texts(12, 300, 100, 100)
    ours = DnabertTokenizer(text).encode_batch(texts)
    assert [ids.tolist() for ids in ours] == [one.ids for one in Tokenizer.from_str(text).encode_batch(texts)]
