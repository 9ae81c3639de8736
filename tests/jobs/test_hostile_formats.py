"""Files of every format that others write, damaged or made to harm: what can be read of them, or one error of vnp."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.genbank import fasta, genome_with_genes, gff3_line
from tests.datasets.making import proteins_of, record
from tests.encoders.test_bpe import trained
from tests.runs.datasets import genomes, write_dataset
from tests.sequences.test_bam import bgzf, whole
from tests.sequences.test_bam import record as read_of_bam
from vnp.datasets.annotations.reading import read_annotated
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY, load_tokenizer, tokenizer_digest
from vnp.errors import VnpError
from vnp.finetune.genomes import SCHEMA, load_genomes
from vnp.runs.planning.dataset import read_dataset
from vnp.sequences.reading import read_records

CHANGES = 150
_DIGITS = b"9" * 5_000
Use = Callable[[Path], object]


def _genbank(folder: Path) -> tuple[Path, Use]:
    path = folder / "g.gb"
    path.write_text("".join(record(f"V{n}", "viral", n, genes=2) for n in range(2)))
    return path, lambda path: [(one.name, len(one.sequence)) for one in read_annotated(path)]


def _gff3(folder: Path) -> tuple[Path, Use]:
    bases, _, places = genome_with_genes(proteins_of(15, 3), between=250, seed=1500)
    (folder / "f.fna").write_text(fasta({"F15": bases}))
    path = folder / "f.gff3"
    lines = [gff3_line("F15", start, end, "-+"[n % 2 == 0], ID=f"cds{n}") for n, (start, end) in enumerate(places)]
    path.write_text("##gff-version 3\n" + "".join(lines))
    return path, lambda path: [one.name for one in read_annotated(folder / "f.fna", path)]


def _fastq(folder: Path) -> tuple[Path, Use]:
    path = folder / "r.fastq"
    path.write_text("".join(f"@read{n}\n{'ACGT' * 20}\n+\n{'I' * 80}\n" for n in range(20)))
    return path, lambda path: [one.name for one in read_records(path)]


def _bam(folder: Path) -> tuple[Path, Use]:
    path = folder / "r.bam"
    path.write_bytes(bgzf(whole(*(read_of_bam(f"read{n}", "ACGT" * 20) for n in range(20)))))
    return path, lambda path: [one.name for one in read_records(path)]


def _plain_bam(folder: Path) -> tuple[Path, Use]:
    path = folder / "p.bam"
    path.write_bytes(whole(*(read_of_bam(f"read{n}", "ACGT" * 20) for n in range(20))))
    return path, lambda path: [one.name for one in read_records(path)]


def _tokenizer(folder: Path) -> tuple[Path, Use]:
    path = folder / "tokenizer.json"
    path.write_text(trained(1, 60))

    def use(path: Path) -> object:
        tokenizer_digest(path.parent, "pieces")
        return load_tokenizer(path.parent, "pieces").encode_batch(["ACGTACGTNNACGT"] * 70)

    return path, use


def _vocabulary(folder: Path) -> tuple[Path, Use]:
    path = folder / "vocab.txt"
    path.write_text("\n".join(ESM2_VOCABULARY))
    return path, lambda path: load_tokenizer(path.parent, "letters").encode_batch(["MKT"])


def _table(folder: Path) -> tuple[Path, Use]:
    write_dataset(folder, genomes(4, 900))
    path = next(folder.glob("*.parquet"))
    # Without the record beside it, nothing tells that it was changed but what is in it.
    for one in folder.glob("*.json"):
        one.unlink()
    return path, lambda path: len(read_dataset(path, next(folder.glob("*.fna*"))).names)


def _packed(folder: Path) -> tuple[Path, Use]:
    path = folder / "genomes.npz"
    with path.open("wb") as file:
        np.savez(
            file, schema=np.array(SCHEMA), digest=np.array("0"), packed=np.zeros(40, np.uint8),
            ambiguous=np.zeros((0, 2), np.int64), starts=np.array([0, 160]), names=np.array(["a"]),
        )  # fmt: skip
    return path, load_genomes


FORMATS = {
    "GenBank": _genbank, "GFF3": _gff3, "FASTQ": _fastq, "BAM": _bam, "BAM without blocks": _plain_bam,
    "tokenizer": _tokenizer, "vocabulary": _vocabulary, "table of a dataset": _table, "packed genomes": _packed,
}  # fmt: skip


def _changed(true: bytes, seed: int) -> bytes:
    """One of many ways to spoil a file."""
    chance = random.Random(seed)
    size = len(true)
    first, last = sorted(chance.sample(range(size + 1), 2))
    few = true[first : min(last, first + 40)]
    ways: list[Callable[[], bytes]] = [
        lambda: true[:first],
        lambda: true[:first] + chance.randbytes(len(few)) + true[first + len(few) :],
        lambda: true[:first] + true[min(last, first + 400) :],
        lambda: true[:last] + few * 50 + true[last:],
        lambda: true[:first] + bytes(len(few)) + true[first + len(few) :],
        lambda: true[:first] + b"\xff" * 8 + true[first + 8 :],
        lambda: true[:first] + b"[" * 100_000 + true[first:],
        lambda: _number(true, chance, _DIGITS),
        lambda: _number(true, chance, b"-1"),
        lambda: _number(true, chance, b"9" * 18),
        lambda: _number(true, chance, b"1e999"),
        lambda: b"\n".join(chance.sample(lines := true.split(b"\n"), len(lines))),
    ]
    return ways[seed % len(ways)]()


def _number(true: bytes, chance: random.Random, put: bytes) -> bytes:
    """A number of the text replaced."""
    found = list(re.finditer(rb"\d+", true))
    if not found:
        return put
    one = chance.choice(found)
    return true[: one.start()] + put + true[one.end() :]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_damaged_is_read_or_refused(tmp_path: Path, name: str) -> None:
    path, use = FORMATS[name](tmp_path)
    true = path.read_bytes()
    if name != "packed genomes":
        use(path)
    faults: Counter[str] = Counter()
    refused = longest = 0
    for seed in range(CHANGES):
        path.unlink()
        path.write_bytes(_changed(true, seed))
        try:
            use(path)
        except VnpError as error:
            refused += 1
            longest = max(longest, len(str(error)))
        except Exception as error:
            faults[f"{seed}: {type(error).__name__}: {str(error)[:200]}"] += 1
    assert not faults, "\n".join(faults)
    assert refused
    assert longest < 8_000
