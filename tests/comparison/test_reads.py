from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.benchmark import main as benchmark
from vnp.comparison.reads import cut_reads
from vnp.errors import InputError, UsageError
from vnp.sequences.reading import read_records
from vnp.sequences.samplesheet import InputFile, read_inputs

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "R": "Y", "Y": "R", "N": "N"}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    random = np.random.default_rng(0)
    records = {}
    for file, names in (("viral", ("v1", "v2", "short")), ("host", ("h1",))):
        text = ""
        for name in names:
            records[name] = "".join(random.choice(list("ACGTRN"), 40 if name == "short" else 2000))
            text += f">{name} something\n{records[name]}\n"
        (tmp_path / f"{file}.fna").write_text(text)
    (tmp_path / "sheet.csv").write_text("path,label,group\nviral.fna,viral,\nhost.fna,host,\n")
    return records


def test_reads_are_pieces_of_either_strand(tmp_path: Path, sources: dict[str, str]) -> None:
    (tmp_path / "out").mkdir()
    cut = cut_reads(read_inputs([tmp_path / "sheet.csv"]), tmp_path / "out", length=150, most=10)
    assert cut == (30, 3)
    strands = set()
    for file in ("viral", "host"):
        for read in read_records(tmp_path / "out" / f"{file}.fna"):
            name, place, *reverse = read.name.split(":")
            first, last = map(int, place.split("-"))
            expected = sources[name][first - 1 : last]
            if reverse:
                expected = "".join(COMPLEMENT[base] for base in reversed(expected))
            assert read.sequence.decode() == expected
            assert len(expected) == 150
            strands.add(bool(reverse))
    assert strands == {True, False}
    inputs = read_inputs([tmp_path / "out/samplesheet.csv"])
    assert [(entry.path.name, entry.label) for entry in inputs] == [("viral.fna", 1), ("host.fna", 0)]
    with (tmp_path / "out/groups.tsv").open() as table:
        groups = dict(csv.reader(table, delimiter="\t"))
    assert len(groups) == 30
    assert all(group == read.partition(":")[0] for read, group in groups.items())


def test_places_are_seeded(tmp_path: Path, sources: dict[str, str]) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        cut_reads(read_inputs([tmp_path / "sheet.csv"]), tmp_path / name, length=100, most=5, seed=seed)
        found.append((tmp_path / name / "viral.fna").read_bytes())
    assert found[0] == found[1] != found[2]


def test_only_the_test_part_is_cut(tmp_path: Path, sources: dict[str, str]) -> None:
    (tmp_path / "groups.tsv").write_text("v1\tu1\nv2\tu2\nshort\tu2\nh1\tu3\n")
    (tmp_path / "m.split.tsv").write_text("group\tpart\nu1\ttest\nu2\ttrain\nu3\tvalidation\n")
    words = ["reads", str(tmp_path / "sheet.csv"), "--groups", str(tmp_path / "groups.tsv")]
    words += ["--split", str(tmp_path / "m.split.tsv"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(benchmark, words)
    assert done.exit_code == 0, done.output
    assert "13 reads from 1 records" in done.stdout
    assert (tmp_path / "out/samplesheet.csv").read_text() == "path,label,group\nviral.fna,viral,\n"
    assert {line.split("\t")[1] for line in (tmp_path / "out/groups.tsv").read_text().splitlines()} == {"u1"}
    again = CliRunner().invoke(benchmark, words)
    assert again.exit_code == 2
    (tmp_path / "m.split.tsv").write_text("id\tpart\nv1_chunk_1F1\ttest\n")
    leaking = CliRunner().invoke(benchmark, [*words, "--force"])
    assert leaking.exit_code == 2
    assert "single rows" in leaking.stderr


def test_what_cannot_be_cut(tmp_path: Path, sources: dict[str, str]) -> None:
    inputs = read_inputs([tmp_path / "sheet.csv"])
    before = (tmp_path / "viral.fna").read_bytes()
    with pytest.raises(UsageError, match="written over the inputs"):
        cut_reads(inputs, tmp_path, length=150, most=1)
    assert (tmp_path / "viral.fna").read_bytes() == before
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(InputError, match="no record has 3000 bases"):
        cut_reads(inputs, folder, length=3000, most=1)
    with pytest.raises(InputError, match="'v2': has no group"):
        cut_reads(inputs, folder, length=150, most=1, groups={"v1": "u1"})
    with pytest.raises(UsageError, match="same file name"):
        cut_reads([inputs[0], InputFile(tmp_path / "more" / "viral.fna.gz")], folder, length=150, most=1)
