"""Standard input as an input: it is kept in the run, and the same bytes are the same run."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.extract import main as extract
from jobs.frames import main as frames
from tests.jobs.commands import KMER, call, clean
from tests.runs.making import coding
from vnp.runs.request import Run

TEXT = "".join(f">r{number}\n{coding(900, number)}\n" for number in range(6)).encode()


def piped(text: bytes, *words: object) -> Result:
    return CliRunner().invoke(extract, [*map(str, words), *KMER, "--cluster", "inline"], input=text)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("text", [TEXT, gzip.compress(TEXT, mtime=0)])
def test_extracted_and_found_again(tmp_path: Path, name: str, text: bytes) -> None:
    out = tmp_path / "run"
    result = piped(text, name, "--out", out, "--shards", 3)
    assert result.exit_code == 0, clean(result)
    kept = out / "inputs" / f"stdin-{hashlib.sha256(text).hexdigest()[:16]}"
    assert f"standard input: {len(text):,} bytes, kept in {kept}" in result.stderr
    assert kept.read_bytes() == text
    assert [entry.path for entry in Run.open(out).request.inputs] == [str(kept)]
    again = piped(text, name, "--out", out, "--shards", 3)
    assert again.exit_code == 0, clean(again)
    assert "nothing to do" in again.stdout
    assert call("reduce", out).exit_code == 0
    assert sorted((out / "inputs").iterdir()) == [kept]


def test_other_bytes_are_another_run(tmp_path: Path) -> None:
    assert piped(TEXT, "-", "--out", tmp_path / "run").exit_code == 0
    result = piped(TEXT[:-10] + b"\n", "-", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "which holds something else" in clean(result)
    assert piped(TEXT[:-10] + b"\n", "-", "--out", tmp_path / "run", "--force").exit_code == 0


def test_what_cannot_be_planned_can_be_given_again(tmp_path: Path) -> None:
    assert piped(b"no sequences", "-", "--out", tmp_path / "run").exit_code == 1
    assert "standard input is empty" in clean(piped(b"", "-", "--out", tmp_path / "run"))
    assert piped(TEXT, "-", "--out", tmp_path / "run").exit_code == 0


def test_where_there_is_no_run_to_keep_it_in(tmp_path: Path) -> None:
    for result in (
        piped(TEXT, "-", "--out", tmp_path / "run", "--dry-run"),
        CliRunner().invoke(frames, ["-", "--out", str(tmp_path / "run")], input=TEXT),
    ):
        assert result.exit_code == 2
        assert "standard input can be read only once" in clean(result)
    assert not (tmp_path / "run").exists()
