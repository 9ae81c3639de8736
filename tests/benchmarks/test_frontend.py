from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.frontend import STAGES, FrontFigures, Part, front_of, measure_front
from tests.encoders.test_bpe import published, trained
from tests.jobs.commands import clean, measure
from vnp.encoders.tokens.tokenizers import DnabertTokenizer, Esm2Tokenizer
from vnp.errors import InputError, UsageError, WeightsError
from vnp.sequences.reading import read_records

SAMPLE = Path(__file__).resolve().parent.parent.parent / "vnp/sample"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(trained(1, 100))
    return path


def test_two_processes_do_all_reads(tokenizer: Path) -> None:
    genome = sorted(SAMPLE.rglob("*.gz"))[0]
    found = measure_front(501, tokenizer=tokenizer, workers=2, genomes=[genome], length=120)
    assert found.reads == 501
    assert [part.reads for part in found.parts] == [250, 251]
    assert found.rows == sum(part.rows for part in found.parts) > 0
    assert set(found.parts[0].seconds) == set(STAGES)
    assert all(found.stage(stage) > 0 for stage in STAGES)
    assert found.seconds > 0
    assert all(part.peak_bytes > 10_000_000 for part in found.parts)


def test_what_is_counted_is_what_comes_out(tmp_path: Path, shared: Path) -> None:
    """Chunks, frames and tokens of a read that can be followed by hand."""
    path = tmp_path / "reads.fastq"
    read = "GCA" * 50
    path.write_text(f"@a\n{read}\n+\n{'I' * 150}\n@b\n{'N' * 150}\n+\n{'I' * 150}\n")
    dna, protein = DnabertTokenizer(published(shared)), Esm2Tokenizer()
    part = front_of(path, 300, dna, protein)
    # GCA, CAG and AGC repeated, and TGC, GCT and CTG on the other strand: no stop in any frame.
    assert (part.reads, part.rows) == (2, 6)
    assert part.protein_tokens == 2 * (50 + 49 + 49) + 6 * 2
    # A frame has one base more than its codons where there is one: 150, 148 and 148 of each strand.
    other = "TGC" * 50
    frames = [read, read[1:149], read[2:150], other, other[1:149], other[2:150]]
    assert part.dna_tokens == sum(map(len, dna.encode_batch(frames)))


def test_reads_are_cut_from_the_genomes(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genome = tmp_path / "genome.fna"
    letters = np.random.default_rng(2).choice(list("ACGT"), 1_000)
    text = "".join(letters)
    genome.write_text(f">long\n{text}\n>short\nACGT\n")
    kept: list[bytes] = []

    def look(files: list[Path], *_: object) -> tuple[float, list[object]]:
        kept.extend(record.sequence for file in files for record in read_records(file))
        return 1.0, []

    monkeypatch.setattr("benchmarks.frontend._timed", look)
    measure_front(200, tokenizer=tokenizer, length=100, workers=3, genomes=[genome])
    both = text + "#" + text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert len(kept) == 200
    assert all(len(read) == 100 and read.decode() in both for read in kept)
    assert 40 < sum(read.decode() in text for read in kept) < 160


def test_what_cannot_be_measured(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UsageError, match="1 reads are too few for 2 processes"):
        measure_front(1, tokenizer=tokenizer)
    (tmp_path / "short.fna").write_text(">a\nACGTACGT\n")
    with pytest.raises(InputError, match="no sequence is as long as a read"):
        measure_front(10, tokenizer=tokenizer, genomes=[tmp_path / "short.fna"])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="does not describe a tokenizer"):
        measure_front(10, tokenizer=tmp_path / "tokenizer.json")


def test_the_table_and_its_json(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("frontend", "--reads", 300, "--workers", 1, "--tokenizer", tokenizer)
    result = measure(*given, "--json")
    assert "timing 1 process(es)" in clean(result)
    figures = json.loads(result.stdout)
    assert figures["reads"] == 300
    assert figures["open frames"] == sum(part["rows"] for part in figures["parts"])
    assert figures["reads/s"] > 0
    part = Part(1_000, 800, 9, 9, dict.fromkeys(STAGES, 0.25), 2.0, 10**8)
    monkeypatch.setattr("benchmarks.frontend.measure_front", lambda *_, **__: FrontFigures(150, 300, 0.5, [part] * 2))
    shown = [line.rpartition("  ")[::2] for line in measure(*given).stdout.splitlines()]
    table = {name.strip(): value.strip() for name, value in shown}
    assert table["reads/s"] == "4,000"
    assert table["frames per processor second"] == "400"
    assert table["million reads, s"] == "250.0"
    assert table["DNA tokens, s, all processes"] == "0.5"


def test_without_weights_one_message(tmp_path: Path) -> None:
    result = measure("frontend", "--reads", 300, "--weights", tmp_path)
    assert result.exit_code == 1
    assert "python -m jobs.fetch dnabert_s" in clean(result)
