from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.frames import main as frames
from vnp.runs import frames as writing
from vnp.runs.planning.survey import survey
from vnp.sequences.samplesheet import read_inputs

FILES = {"identified_nucleotide.fa", "identified_protein.faa", "skipped.tsv"}


def call(*args: object) -> Result:
    return CliRunner().invoke(frames, [str(argument) for argument in args])


def read_fasta(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines()
    assert all(line.startswith(">") for line in lines[::2])
    return [(name[1:], sequence) for name, sequence in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.parametrize("chunk", [300, 500])
def test_the_reference_frames_are_reproduced(chunk: int, shared: Path, tmp_path: Path) -> None:
    folder = shared / "goldens/frames"
    done = call(folder / "input.fna", "--chunk", chunk, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    expected = [line.split("\t") for line in (folder / f"expected_{chunk}.tsv").read_text().splitlines()[1:]]
    assert read_fasta(tmp_path / "identified_nucleotide.fa") == [(name, dna) for name, dna, _ in expected]
    assert read_fasta(tmp_path / "identified_protein.faa") == [(name, protein) for name, _, protein in expected]
    assert f"wrote {len(expected):,} open frames" in done.output
    assert f"--chunk {chunk}" in done.output.splitlines()[-1]


def test_the_files_that_virnucpro_left_are_made_byte_for_byte(shared: Path, tmp_path: Path) -> None:
    folder = shared / "goldens/known_answers/virnucpro_broad"
    if not folder.is_dir():
        pytest.skip(f"no known answers: {folder} does not exist")
    assert call(folder / "input.fa", "--chunk", 500, "--out", tmp_path).exit_code == 0
    for name in ("identified_nucleotide.fa", "identified_protein.faa"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_small_batches_give_the_same_files(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared / "goldens/frames/input.fna"
    assert call(source, "--out", tmp_path / "a").exit_code == 0
    monkeypatch.setattr("vnp.runs.units.BATCH_UNITS", 7)
    assert call(source, "--out", tmp_path / "b").exit_code == 0
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_has_no_row_is_listed(tmp_path: Path) -> None:
    source = tmp_path / "x.fna"
    open_all = "GCA" * 20
    source.write_text(f">ok\n{open_all}\n>tiny\nAC\n>empty\n\n>unknown\nNNNNNNNNN\n>odd\nAC!T\n")
    done = call(source, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    lines = [line.split("\t") for line in (tmp_path / "out/skipped.tsv").read_text().splitlines()]
    assert lines[0] == ["record", "input", "length", "chunk", "frame", "reason"]
    assert [line[0] for line in lines[1:]] == ["tiny", "empty", "unknown", "odd"]
    assert all(line[1] == str(source) for line in lines[1:])
    assert [line[5] for line in lines[1:3]] == ["shorter than 3 bases", "the record is empty"]
    assert "invalid letter" in lines[4][5]
    assert {name for name, _ in read_fasta(tmp_path / "out/identified_protein.faa")} >= {"ok_chunk_1F1"}
    assert "without a row: " in done.output


def test_prefixed_ids(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / f"{name}.fna").write_text(">r1\nGCAGCAGCA\n")
    sources = tmp_path / "left.fna", tmp_path / "right.fna"
    twice = call(*sources, "--out", tmp_path / "out")
    assert twice.exit_code == 1
    assert "two records are called 'r1'" in twice.output
    assert "--prefix-ids" in twice.output
    assert not (tmp_path / "out").exists()
    assert call(*sources, "--out", tmp_path / "out", "--prefix-ids").exit_code == 0
    names = [name for name, _ in read_fasta(tmp_path / "out/identified_nucleotide.fa")]
    assert names[0] == "left:r1_chunk_1F1"
    assert {name.split(":")[0] for name in names} == {"left", "right"}


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    source = tmp_path / "x.fna"
    source.write_text(">a\nGCAGCAGCA\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/skipped.tsv").write_text("mine")
    done = call(source, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "skipped.tsv: already there" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"skipped.tsv"}
    assert call(source, "--out", tmp_path / "out", "--force").exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert (tmp_path / "out/skipped.tsv").read_text() != "mine"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (None, 1, "no such file"),
        ("", 1, "empty"),
        ("ACGT\n", 1, "."),
        (">p\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ\n", 1, "looks like protein"),
        (">a\nACG\n>a\nACG\n", 1, "two records are called 'a'"),
    ],
)
def test_bad_input_is_one_message(text: str | None, code: int, words: str, tmp_path: Path) -> None:
    source = tmp_path / "x.fna"
    if text is not None:
        source.write_text(text)
    done = call(source, "--out", tmp_path / "out")
    assert done.exit_code == code
    assert words in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "x.fna").write_text(">a\nACGT\n")
    for args in (["--out", tmp_path / "out"], [tmp_path / "x.fna"], [tmp_path / "x.fna", "--out", "o", "--chunk", 5]):
        assert call(*args).exit_code == 2


def test_an_input_that_changes_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "x.fna"
    source.write_text(">a\n" + "GCA" * 50 + "\n")
    found = survey(read_inputs([source]), 300)
    source.write_text(">a\n" + "TAA" * 50 + "\n")
    with pytest.raises(Exception, match="has changed since"):
        writing.write_frames(found, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    source = tmp_path / "x.fna"
    source.write_text("".join(f">r{i}\n{'GCA' * 30}\n" for i in range(5)))
    told: list[int] = []
    written = writing.write_frames(survey(read_inputs([source]), 300), tmp_path / "out", progress=told.append)
    assert sum(told) == written.rows == len(read_fasta(written.paths[0]))


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    source = tmp_path / "x.fna"
    source.write_text("".join(f">r{i}\n{'GCA' * 100}\n" for i in range(300)))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.frames", str(source), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: writing "), done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
