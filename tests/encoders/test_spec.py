from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from vnp.encoders import names
from vnp.encoders.spec import spec, weighted
from vnp.errors import UsageError


def test_every_name_has_a_spec_with_its_molecule() -> None:
    assert names("protein") == ("fastesm2_650", "esm2_650m", "esm2_3b", "kmer")
    assert names("dna") == ("dnabert_s", "sixframe", "kmer")
    for molecule in ("dna", "protein"):
        for name in names(molecule):
            assert (spec(name, molecule).name, spec(name, molecule).molecule) == (name, molecule)


@pytest.mark.parametrize(
    ("name", "molecule", "width"),
    [
        ("fastesm2_650", "protein", 1280),
        ("esm2_650m", "protein", 1280),
        ("esm2_3b", "protein", 2560),
        ("dnabert_s", "dna", 768),
        ("sixframe", "dna", 768),
        ("kmer", "dna", 768),
        ("kmer", "protein", 1280),
    ],
)
def test_widths(name: str, molecule: str, width: int) -> None:
    assert spec(name, molecule).width == width


def test_which_weights_are_fetched() -> None:
    assert not spec("kmer", "dna").needs_weights
    assert spec("sixframe").needs_weights
    assert {one.name for one in weighted()} == {"fastesm2_650", "esm2_650m", "esm2_3b", "dnabert_s"}


def test_unknown_name_lists_those_of_the_molecule() -> None:
    with pytest.raises(UsageError, match="no dna encoder is called 'esm2_3b'; there are: dnabert_s, sixframe, kmer"):
        spec("esm2_3b", "dna")
    with pytest.raises(UsageError, match="fastesm2_650"):
        spec("prot_t5")
    with pytest.raises(UsageError, match="'rna'"):
        spec("kmer", "rna")


def test_kmer_without_a_molecule_is_refused() -> None:
    with pytest.raises(UsageError, match="DNA and for protein"):
        spec("kmer")
    assert spec("dnabert_s").molecule == "dna"


def test_a_spec_travels_to_another_process() -> None:
    one = spec("esm2_650m", "protein")
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(one)


def test_importing_the_room_loads_no_tensor_library() -> None:
    program = (
        "import sys, vnp.encoders, vnp.encoders.weights.lock, vnp.encoders.weights.download;"
        "print([m for m in ('torch', 'sklearn', 'tokenizers', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
