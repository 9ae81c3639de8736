from __future__ import annotations

import json
import random
import string
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import EsmTokenizer

from vnp.encoders.tokens.tokenizers import (
    ESM2_VOCABULARY,
    AbsentTokenizer,
    DnabertTokenizer,
    Esm2Tokenizer,
    load_tokenizer,
    tokenizer_digest,
)
from vnp.errors import WeightsError

BASES = "ACGT"


def random_dna(count: int, letters: str = BASES) -> list[str]:
    rng = random.Random(5)
    return ["".join(rng.choices(letters, k=rng.randrange(1, 700))) for _ in range(count)]


@pytest.fixture(scope="module")
def published_esm2(shared: Path) -> EsmTokenizer:
    path = shared / "data/tokenizers/esm2_t33_650M_UR50D/vocab.txt"
    return EsmTokenizer(str(path))  # type: ignore[no-untyped-call]


def test_the_built_in_vocabulary_is_the_published_one(shared: Path) -> None:
    published = (shared / "data/tokenizers/esm2_t33_650M_UR50D/vocab.txt").read_text().split()
    assert list(ESM2_VOCABULARY) == published


@pytest.mark.parametrize("letter", string.printable)
def test_esm2_treats_each_printable_letter_as_published(letter: str, published_esm2: EsmTokenizer) -> None:
    for text in (letter, f"M{letter}K", f"M{letter}{letter}K", f"M{letter}jK"):
        ours = Esm2Tokenizer().encode_batch([text])[0]
        assert ours.tolist() == published_esm2(text)["input_ids"], repr(text)


def test_esm2_treats_random_text_as_published(published_esm2: EsmTokenizer) -> None:
    rng = random.Random(0)
    # Without "<", which could spell a special token.
    alphabet = (string.printable + "é\u3000\x1c日" + "MKTAYIAKX" * 8).replace("<", "")
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(0, 60))) for _ in range(400)]
    ours = Esm2Tokenizer().encode_batch(texts)
    for text, ids in zip(texts, ours, strict=True):
        assert ids.tolist() == published_esm2(text)["input_ids"], repr(text)


def test_esm2_ids_by_hand() -> None:
    ids = Esm2Tokenizer().encode_batch(["LAX", "", "M**K", "M.-"])
    assert [one.tolist() for one in ids] == [[0, 4, 5, 24, 2], [0, 2], [0, 20, 3, 15, 2], [0, 20, 29, 30, 2]]
    assert {one.dtype for one in ids} == {np.dtype(np.int64)}
    assert Esm2Tokenizer().encode_batch([]) == []


def test_esm2_vocabulary_file_is_used_when_there(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path, "letters").digest == Esm2Tokenizer().digest
    swapped = [*ESM2_VOCABULARY]
    swapped[4], swapped[5] = swapped[5], swapped[4]
    (tmp_path / "vocab.txt").write_text("\n".join(swapped))
    tokenizer = load_tokenizer(tmp_path, "letters")
    assert tokenizer.encode_batch(["LA"])[0].tolist() == [0, 5, 4, 2]
    assert tokenizer.digest != Esm2Tokenizer().digest
    (tmp_path / "vocab.txt").write_text("A\nC\n")
    with pytest.raises(WeightsError, match="not an ESM2 vocabulary"):
        load_tokenizer(tmp_path, "letters")


def copies(shared: Path) -> tuple[Path, Path]:
    folder = shared / "data/tokenizers"
    return folder / "dnabert2/tokenizer.json", folder / "dnabert_s/tokenizer.dcvbin-padded2000.json"


def test_dnabert_equals_the_published_file(shared: Path) -> None:
    path = copies(shared)[0]
    published = Tokenizer.from_file(str(path))
    texts = [*random_dna(150), *random_dna(100, "ACGTNRYKMSWacgtnuU-* "), "N" * 50, "A", ""]
    ours = DnabertTokenizer(path.read_text()).encode_batch(texts)
    for text, ids in zip(texts, ours, strict=True):
        assert ids.tolist() == published.encode(text).ids, repr(text)
        assert ids.dtype == np.int64


def test_padding_and_truncation_of_a_copy_are_switched_off(shared: Path) -> None:
    plain, padded = (DnabertTokenizer(path.read_text()) for path in copies(shared))
    texts = [*random_dna(60), "N" * 3000]
    for one, other in zip(plain.encode_batch(texts), padded.encode_batch(texts), strict=True):
        assert one.tolist() == other.tolist()
    assert len(padded.encode_batch(["N" * 3000])[0]) == 3002
    assert plain.digest == padded.digest


def test_dnabert_knows_upper_case_acgt_only(shared: Path) -> None:
    tokenizer = DnabertTokenizer(copies(shared)[0].read_text())
    unknown = [tokenizer.encode_batch([letter])[0].tolist() for letter in "NRYKMSWBDHVUacgtn"]
    assert unknown == [[1, 0, 2]] * len(unknown)
    assert tokenizer.encode_batch(["NNN"])[0].tolist() == [1, 0, 0, 0, 2]
    for letter, number in zip("ACGT", (5, 6, 7, 8), strict=True):
        assert tokenizer.encode_batch([letter])[0].tolist() == [1, number, 2]


def test_digest_without_the_library_is_the_same(shared: Path, tmp_path: Path) -> None:
    plain = copies(shared)[0]
    content = json.loads(plain.read_text())
    content["model"]["merges"] = [one.split(" ") for one in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_digest(tmp_path, "pieces") == DnabertTokenizer(plain.read_text()).digest
    assert tokenizer_digest(tmp_path, "pieces") == load_tokenizer(tmp_path, "pieces").digest
    content["model"]["vocab"]["A"], content["model"]["vocab"]["C"] = 6, 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_digest(tmp_path, "pieces") != DnabertTokenizer(plain.read_text()).digest


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": {"vocab": {}, "merges": 3}}', "null", '"x"'])
def test_a_damaged_tokenizer_is_one_message(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(WeightsError, match="does not describe a tokenizer"):
        load_tokenizer(tmp_path, "pieces")
    with pytest.raises(WeightsError, match="does not describe a tokenizer"):
        tokenizer_digest(tmp_path, "pieces")


def test_a_missing_tokenizer_is_named_when_letters_come(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tmp_path, "pieces")
    assert isinstance(tokenizer, AbsentTokenizer)
    assert tokenizer_digest(tmp_path, "pieces") is None
    with pytest.raises(WeightsError, match=r"tokenizer\.json is missing"):
        tokenizer.encode_batch(["ACGT"])
