"""Pairs of reads: both mates make one call, whatever files they come in."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.extract import main as extract
from tests.jobs.commands import calls as call
from tests.jobs.commands import table
from tests.sequences.test_bam import FIRST, LAST, PAIRED, bgzf, record, whole
from tests.test_freeze import write_checkpoint
from vnp.sequences.mates import arranged, fragment_of
from vnp.sequences.samplesheet import InputFile, read_inputs

NUMBER = 40


def fragments() -> list[tuple[str, str, str]]:
    random = np.random.default_rng(7)
    lengths = random.integers(70, 160, (NUMBER, 2))

    def bases(size: int) -> str:
        return "".join(random.choice(list("ACGT"), size))

    return [(f"frag{number}", bases(one), bases(two)) for number, (one, two) in enumerate(lengths.tolist())]


PAIRS = fragments()


def fastq(reads: list[tuple[str, str]]) -> str:
    return "".join(f"@{name}\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in reads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    first, second = [(name, one) for name, one, _ in PAIRS], [(name, two) for name, _, two in PAIRS]
    (root / "s_R1.fq.gz").write_bytes(gzip.compress(fastq([(f"{name} 1:N:0", one) for name, one in first]).encode()))
    (root / "s_R2.fq.gz").write_bytes(gzip.compress(fastq([(f"{name} 2:N:0", two) for name, two in second]).encode()))
    (root / "left.fq").write_text(fastq([(f"{name}.1", one) for name, one in first]))
    (root / "right.fq").write_text(fastq([(f"{name}.2", two) for name, two in second]))
    turns = [pair for name, one, two in PAIRS for pair in ((f"{name}/1", one), (f"{name}/2", two))]
    (root / "turns.fq").write_text(fastq(turns))
    (root / "turns.fa").write_text("".join(f">{name[:-2]}\n{bases}\n" for name, bases in turns))
    flags = (PAIRED | FIRST | 4, PAIRED | LAST | 4)
    reads = [record(name[:-2], bases, flags[number % 2]) for number, (name, bases) in enumerate(turns)]
    (root / "turns.bam").write_bytes(bgzf(whole(*reads), 20_000))
    return root


@pytest.fixture(scope="module")
def done(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "calls"
    result = call(files / "s_R2.fq.gz", files / "s_R1.fq.gz", "--pairs", "--threshold", 0.4, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{2 * NUMBER} reads of pairs" in result.output
    assert f"of {NUMBER} pairs are called viral" in result.output
    return out


def test_a_fragment_is_called_from_both_mates(done: Path) -> None:
    rows, chunks = table(done / "predictions.tsv"), table(done / "chunks.tsv")
    assert [row["name"] for row in rows] == [name for name, _, _ in PAIRS]
    margins: dict[str, list[float]] = {}
    for chunk in chunks:
        score = float(chunk["score"])
        margins.setdefault(chunk["record"][:-2], []).append(np.log(score / (1 - score)))
    for row, (name, one, two) in zip(rows, PAIRS, strict=True):
        long = [mate for mate in (one, two) if len(mate) >= 100]
        assert (row["length"], row["n_chunks"], row["n_scored"]) == (str(len(one) + len(two)), "2", str(len(long)))
        assert float(row["gc"]) == pytest.approx(
            sum((one + two).count(base) for base in "GC") / len(one + two), rel=1e-5
        )
        assert (row["topology"], row["terminal_repeat"], row["description"]) == ("", "0", "1:N:0")
        assert len(margins.get(name, [])) == len(long)
        if long:
            summed = sum(margins[name]) / np.sqrt(len(long))
            assert float(row["score"]) == pytest.approx(1 / (1 + np.exp(-summed)), rel=1e-4)
            if len(long) == 1:
                own = next(chunk for chunk in chunks if chunk["record"][:-2] == name)
                assert (row["score"], row["probability"]) == (own["score"], own["probability"])
        else:
            assert row["reason"] == "shorter than 100 bases"
    assert {row["n_scored"] for row in rows} == {"0", "1", "2"}


def test_both_mates_of_a_viral_fragment_are_written(done: Path) -> None:
    viral = {row["name"] for row in table(done / "predictions.tsv") if row["call"] == "viral"}
    expected = [(f"{name}/{at}", read) for name, *mates in PAIRS if name in viral for at, read in enumerate(mates, 1)]
    blocks = (done / "viral.fna").read_text().split(">")[1:]
    assert [(lines[0], "".join(lines[1:])) for lines in map(str.splitlines, blocks)] == expected
    assert 0 < len(viral) < NUMBER


@pytest.mark.parametrize(
    "names", [["left.fq", "right.fq"], ["turns.fq"], ["turns.fa"], ["turns.bam"]], ids=lambda names: names[0]
)
def test_every_way_to_give_pairs_gives_the_same_calls(
    names: list[str], files: Path, done: Path, tmp_path: Path
) -> None:
    inputs = [files / name for name in names]
    out = tmp_path / "calls"
    # An odd number of units a block, and so borders between mates.
    words = ("--shards", 3, "--block-tokens", 1, "--threshold", 0.4, "--out", out)
    result = call(*inputs, "--pairs", *words)
    assert result.exit_code == 0, result.output
    assert (out / "viral.fna").read_bytes() == (done / "viral.fna").read_bytes()
    assert (out / "chunks.tsv").read_bytes() == (done / "chunks.tsv").read_bytes()
    own = {"source", "description"}
    rows = [[{**row, **dict.fromkeys(own)} for row in table(each / "predictions.tsv")] for each in (out, done)]
    assert rows[0] == rows[1]


def test_a_sheet_names_both_files_and_the_sample(files: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"path,label,group,sample,path2\n{files}/s_R1.fq.gz,,,lake,{files}/s_R2.fq.gz\n")
    assert call(sheet, "--pairs", "--out", tmp_path / "calls").exit_code == 0
    row = table(tmp_path / "calls/predictions.tsv")[0]
    assert (row["name"], row["sample"], row["source"]) == ("lake:frag0", "lake", "s_R1.fq.gz")
    for result in (
        call(sheet, "--out", tmp_path / "no"),
        CliRunner().invoke(extract, [str(sheet), "--out", str(tmp_path / "no"), "--dna", "kmer", "--protein", "kmer"]),
    ):
        assert (result.exit_code, "path2 holds second reads of pairs" in result.output) == (2, True), result.output
    again = call("--from", tmp_path / "calls", "--out", tmp_path / "again", "--regions")
    assert (again.exit_code, "not into pairs of reads" in again.output) == (2, True)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (["a", "b", "c"], ["a", "b"], ["'c' (line 9) has no mate", "ends after 2 reads"]),
        (["a"], ["a", "b"], ["'b' (line 5) has no mate", "ends after 1 reads"]),
        (["a", "b"], ["a", "c"], ["read 2 of both files", "'b' (line 5) and 'c' (line 5)"]),
        (["a/1", "a/2", "b/1"], None, ["'b/1' (line 9) is the last read and has no mate"]),
        (["a", "b"], None, ["reads 1 and 2 should be mates", "'a' (line 1) and 'b' (line 5)"]),
    ],
)
def test_what_has_no_mate_is_refused(
    first: list[str], second: list[str] | None, said: list[str], tmp_path: Path
) -> None:
    for number, names in enumerate((first, second), start=1):
        if names is not None:
            (tmp_path / f"x_R{number}.fq").write_text(fastq([(name, "ACGT" * 30) for name in names]))
    result = call(*sorted(tmp_path.iterdir()), "--pairs", "--out", tmp_path / "calls")
    assert result.exit_code == 1
    assert not [word for word in said if word not in result.output], result.output


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("a", "a", "a"),
        ("a/1", "a/2", "a"),
        ("a.1", "a.2", "a"),
        ("a/2", "a/1", None),
        ("a/1", "b/2", None),
        ("a.2", "a.2", "a.2"),
    ],
)
def test_names_of_mates(first: str, second: str, found: str | None) -> None:
    assert fragment_of(first, second) == found


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b_R2.fq", "a.fq", "b_R1.fq"], ["b_R1.fq first", "b_R2.fq second", "a.fq both"]),
        (["x_1.fastq.gz", "x_2.fastq.gz"], ["x_1.fastq.gz first", "x_2.fastq.gz second"]),
        (
            ["l1_R1_001.fq", "l2_R1_001.fq", "l1_R2_001.fq"],
            ["l1_R1_001.fq first", "l1_R2_001.fq second", "l2_R1_001.fq both"],
        ),
    ],
)
def test_files_are_matched_by_their_names(names: list[str], expected: list[str]) -> None:
    found = arranged([InputFile(Path("/x") / name) for name in names], pairs=True)
    assert [f"{file.path.name} {file.mates}" for file in found] == expected


def test_files_of_a_sample_stand_together(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.fa").write_text(f">{name}\nACGT\n")
    (tmp_path / "s.csv").write_text("path,label,group,sample\na.fa,,,x\nb.fa,,,\nc.fa,,,y\nd.fa,,,x\n")
    found: Any = arranged(read_inputs([tmp_path / "s.csv"]), pairs=False)
    assert [file.path.stem for file in found] == ["a", "d", "b", "c"]


@pytest.fixture(scope="module")
def sheet(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three samples, one of two files that do not stand together, and one without anything viral."""
    root = tmp_path_factory.mktemp("samples")
    for number, (first, last) in enumerate(((0, 10), (10, 25), (25, 30), (30, NUMBER))):
        text = "".join(f">{name}\n{one + two}\n" for name, one, two in PAIRS[first:last])
        (root / f"{number}.fa").write_text(text if number != 1 else text.replace(">frag12\n", ">\t\n"))
    (root / "s.csv").write_text("path,label,group,sample\n0.fa,,,lake\n1.fa,,,sea.2\n2.fa,,,_air\n3.fa,,,lake\n")
    return root / "s.csv"


@pytest.mark.parametrize("words", [[], ["--regions", "--columns", "call"]], ids=["plain", "regions"])
def test_each_sample_has_its_own_tables(words: list[str], sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    result = call(sheet, "--by-sample", "--threshold", 0.4, "--out", out, *words)
    assert result.exit_code == 0, result.output
    assert f"{out}/samples/  3 samples" in result.output
    samples = ["lake", "sea.2", "_air"]
    assert [row["sample"] for row in table(out / "samples.tsv")] == samples
    for name in ("predictions.tsv", "chunks.tsv", *(["regions.tsv"] if words else [])):
        lines = (out / name).read_text().splitlines()
        pieces = [(out / "samples" / sample / name).read_text().splitlines() for sample in samples]
        assert [piece[0] for piece in pieces] == [lines[0]] * 3
        assert [line for piece in pieces for line in piece[1:]] == lines[1:]
        for sample, piece in zip(samples, pieces, strict=True):
            assert all(line.startswith(f"{sample}:") for line in piece[1:])
    sequences = [(out / "samples" / sample / "viral.fna").read_text() for sample in samples]
    assert "".join(sequences) == (out / "viral.fna").read_text() != ""
    counts = {row["sample"]: (int(row["records"]), int(row["viral"])) for row in table(out / "samples.tsv")}
    assert [counts[sample][1] for sample in samples] == [text.count(">") for text in sequences]
    assert [counts[sample][0] for sample in samples] == [20, 15, 5]


def test_frames_of_samples_and_samples_that_are_not_asked_for_any_more(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    write_checkpoint(tmp_path / "model.pth")
    assert call(sheet, "--checkpoint", tmp_path / "model.pth", "--by-sample", "--out", out).exit_code == 0
    whole, samples = (out / "frames.tsv").read_text(), ["lake", "sea.2", "_air"]
    pieces = [(out / "samples" / sample / "frames.tsv").read_text() for sample in samples]
    header = whole.splitlines(keepends=True)[0]
    assert "".join(piece.removeprefix(header) for piece in pieces) == whole.removeprefix(header) != ""
    assert all(row["record"].startswith("lake:") for row in table(out / "samples/lake/frames.tsv"))
    (out / "samples/lake/own.txt").write_text("mine")
    assert call("--from", out, "--no-by-sample", "--force").exit_code == 0
    assert [path.name for path in (out / "samples").rglob("*") if path.is_file()] == ["own.txt"]
    assert not (out / "samples.tsv").exists()


def test_samples_need_names(files: Path, tmp_path: Path) -> None:
    result = call(files / "turns.fa", "--by-sample", "--out", tmp_path / "calls")
    assert (result.exit_code, "turns.fa has none" in result.output) == (2, True), result.output
    (tmp_path / "s.csv").write_text(f"path,label,group,sample\n{files}/turns.fa,,,..\n")
    result = call(tmp_path / "s.csv", "--by-sample", "--out", tmp_path / "calls")
    assert (result.exit_code, "is not one word" in result.output) == (1, True), result.output
