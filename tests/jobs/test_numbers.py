"""Numbers that nothing can be made of are refused with one message."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jobs._cli.command import Command
from tests.jobs.commands import call, clean, extract, measure
from tests.runs.making import coding, write_fasta

HUGE = 10**20


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "in.fna", [("a", coding(900, 1))])


@pytest.mark.parametrize("several", [False, True])
def test_no_command_takes_what_eight_bytes_do_not_hold(several: bool) -> None:
    option = click.Option(["--count"], type=int, multiple=several)
    command = Command("counting", params=[option], callback=lambda count: click.echo(f"got {count}"))
    for value in (2**63 - 1, -5):
        assert f"{value}" in CliRunner().invoke(command, ["--count", str(value)]).stdout
    for value in (2**63, HUGE, -HUGE):
        result = CliRunner().invoke(command, ["--count", str(value)])
        assert result.exit_code == 2
        assert f"'--count': {value} is out of range" in clean(result)


@pytest.mark.parametrize("value", [HUGE, 2**63 - 1, 1_000_000_001])
def test_chunks_beyond_any_sequence(fasta: Path, tmp_path: Path, value: int) -> None:
    run = ("--out", tmp_path / "out")
    for result in (
        extract(fasta, *run, "--chunk", value),
        call("frames", fasta, *run, "--chunk", value),
        measure("frames", fasta, "--chunk", value),
        measure("dataset", fasta, "--chunk", value),
    ):
        assert result.exit_code == 2
        assert "--chunk" in clean(result)
    assert not (tmp_path / "out").exists()
    assert call("frames", fasta, *run, "--chunk", 1_000_000_000).exit_code == 0


def test_the_front_end_with_a_chunk_beyond_any_sequence(fasta: Path) -> None:
    result = measure("frontend", fasta, "--chunk", HUGE)
    assert result.exit_code == 2
    assert f"'--chunk': {HUGE} " in clean(result)


@pytest.mark.parametrize("option", ["--shards", "--token-budget", "--block-tokens"])
def test_extract_has_bounds(fasta: Path, tmp_path: Path, option: str) -> None:
    for value in (0, 10**13, HUGE):
        result = extract(fasta, "--out", tmp_path / "run", option, value)
        assert result.exit_code == 2
        assert option in clean(result)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["frames", "train"])
def test_seeds_are_not_negative(name: str) -> None:
    result = measure(name, "--seed", -1)
    assert result.exit_code == 2
    assert "'--seed': -1 is not in the range" in clean(result)


@pytest.mark.parametrize("options", [("train", "--rows"), ("train", "--width"), ("merge", "--rows")])
def test_benchmarks_have_bounds(options: tuple[str, str]) -> None:
    result = measure(*options, 2**63 - 1)
    assert result.exit_code == 2
    assert "is not in the range" in clean(result)


def test_timing_frames_of_a_file_without_bases(tmp_path: Path) -> None:
    path = tmp_path / "in.fna"
    path.write_bytes(b">a\nACGT\0ACGT\n")
    result = measure("frames", path, "--bases", 100, "--repeats", 1)
    assert result.exit_code == 1
    message = clean(result)
    assert "no usable bases were read" in message
    assert str(path) in message
