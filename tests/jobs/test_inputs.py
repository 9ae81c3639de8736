"""Whatever file the same sequences come in, they are called alike."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from click.testing import CliRunner

from jobs.predict import main as predict
from tests.jobs.commands import calls as call
from tests.jobs.commands import table
from tests.sequences.test_bam import bgzf, record, whole

READS = {f"r{number}": "".join(np.random.default_rng(number).choice(list("ACGT"), 150)) for number in range(3)}
FASTA = "".join(f">{name}\n{bases}\n" for name, bases in READS.items()).encode()
FASTQ = "".join(f"@{name}\n{bases}\n+\n{'I' * 150}\n" for name, bases in READS.items()).encode()
CALLED = ("length", "gc", "n_share", "score", "probability", "call", "kind", "novelty", "reliability")
FILES: dict[str, Callable[[], bytes]] = {
    "reads.fastq": lambda: FASTQ,
    "rna.fa": lambda: FASTA.replace(b"T", b"U"),
    "lower.fa": lambda: FASTA.lower().replace(b">r", b">r"),
    "windows.fa": lambda: FASTA.replace(b"\n", b"\r\n"),
    "two members.fa.gz": lambda: gzip.compress(FASTA[:200]) + gzip.compress(FASTA[200:]),
    "padded.fa.gz": lambda: gzip.compress(FASTA) + bytes(512),
    "junk behind.fa.gz": lambda: gzip.compress(FASTA) + b"junk",
    "a.fa.bz2": lambda: bz2.compress(FASTA),
    "a.fq.xz": lambda: lzma.compress(FASTQ),
    "a.fa.zst": lambda: zstandard.compress(FASTA),
    "unaligned.bam": lambda: bgzf(whole(*(record(name, bases, 4) for name, bases in READS.items())), 20_000),
}


def called(out: Path) -> list[list[str]]:
    return [[row[name] for name in CALLED] for row in table(out / "predictions.tsv")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "a.fa").write_bytes(FASTA)
    result = call(folder / "a.fa", "--out", folder / "calls")
    assert result.exit_code == 0, result.output
    return called(folder / "calls")


@pytest.mark.parametrize("name", FILES)
def test_a_file(name: str, plain: list[list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    result = call(path, "--out", tmp_path / "calls")
    assert result.exit_code == 0, result.output
    assert called(tmp_path / "calls") == plain
    assert ("4 bytes that are not gzip follow" in caplog.text) == (name == "junk behind.fa.gz")


def test_standard_input(plain: list[list[str]], tmp_path: Path) -> None:
    words = ["-", "--out", str(tmp_path / "calls"), "--cluster", "inline", "--device", "cpu"]
    result = CliRunner().invoke(predict, words, input=FASTQ)
    assert result.exit_code == 0, result.output
    assert called(tmp_path / "calls") == plain
    assert {row["source"] for row in table(tmp_path / "calls/predictions.tsv")} == {"-"}


def test_hundreds_of_files_of_hundreds_of_samples(plain: list[list[str]], tmp_path: Path) -> None:
    lines, record_of = ["path,sample"], FASTA.split(b">")[1:]
    for number in range(300):
        (tmp_path / f"{number}.fa").write_bytes(b">" + record_of[number % 3])
        lines.append(f"{number}.fa,sample{number}")
    (tmp_path / "sheet.csv").write_text("\n".join(lines) + "\n")
    result = call(tmp_path / "sheet.csv", "--by-sample", "--out", tmp_path / "calls")
    assert result.exit_code == 0, result.output
    assert called(tmp_path / "calls") == plain * 100
    rows = table(tmp_path / "calls/predictions.tsv")
    assert [(row["sample"], row["name"], row["source"]) for row in rows] == [
        (f"sample{number}", f"sample{number}:r{number % 3}", f"{number}.fa") for number in range(300)
    ]
    assert len(list((tmp_path / "calls/samples").iterdir())) == 300
    assert called(tmp_path / "calls/samples/sample7") == [plain[1]]
    # What is said does not grow with the inputs.
    assert len(result.output.splitlines()) < 20
