"""What all commands share: help, vnp.toml, exit codes, and the list of commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jobs.__main__ import main as commands
from tests.jobs.commands import KMER, REPOSITORY, call, clean, extract, start
from tests.runs.making import coding, write_fasta


def every() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(commands)
    for name in commands.list_commands(context):
        found = commands.get_command(context, name)
        assert found is not None
        yield name, found
        if isinstance(found, click.Group):
            yield from ((f"{name} {inner}", command) for inner, command in found.commands.items())


NAMES = [name for name, _ in every()]
PARTS = [name for name, command in every() if not isinstance(command, click.Group)]


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "a.fa", [(f"r{i}", coding(900, i)) for i in range(4)])


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_defaults_and_one_example(name: str) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, [*name.split(), "--help"], prog_name="vnp")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    assert result.output.count("Example:") == 1
    example = result.output.split("Example:")[1].strip()
    assert example.startswith(f"python -m jobs.{name.split()[0]}")
    command = dict(every())[name]
    if not isinstance(command, click.Group):
        assert re.match(rf"python -m jobs\.{name}(\s|$)", example), example
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert parameter.help, parameter.name
                assert parameter.help.endswith((".", "]")), (parameter.name, parameter.help)
        if any(
            isinstance(p, click.Option) and p.default not in (None, False, ()) and not p.is_flag for p in command.params
        ):
            assert "[default:" in re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize("name", PARTS)
def test_the_example_parses(name: str) -> None:
    command = dict(every())[name]
    example = (command.epilog or "").split("Example:")[1].strip().split("\n")[0]
    arguments = example.removeprefix(f"python -m jobs.{name}").split()
    command.make_context(name, arguments, resilient_parsing=True)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= known


def test_every_command_has_a_config_option_and_says_what_it_does() -> None:
    for name, command in every():
        assert command.help, name
        if not isinstance(command, click.Group):
            assert "config" in {parameter.name for parameter in command.params}, name


def test_commands_are_listed_by_module_and_by_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in commands.list_commands(click.Context(commands)):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name
    script = Path(sys.executable).with_name("vnp")
    if script.exists():
        shown = subprocess.run([script, "benchmark", "reads", "--help"], capture_output=True, text=True, check=True)
        assert "--most" in shown.stdout
        wrong = subprocess.run([script, "extrct"], capture_output=True, text=True)
        assert wrong.returncode == 2
        assert "extrct" in wrong.stderr


class TestConfiguration:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def shards(self, run: str = "run") -> int:
        return int(json.loads(Path(run, "run.json").read_text())["asked_shards"])

    def test_top_level_alone_is_enough(self, fasta: Path) -> None:
        Path("vnp.toml").write_text(
            'input = ["a.fa"]\nout = "run"\ndna = "kmer"\nprotein = "kmer"\ncluster = "inline"\nlayout = "full"\n'
        )
        assert call("extract", "--shards", 2).exit_code == 0
        assert self.shards() == 2
        assert call("status").exit_code == 0
        assert call("rerun").exit_code == 0
        result = call("reduce", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["width"] == 2048

    def test_one_input_may_stand_without_brackets(self, fasta: Path) -> None:
        Path("vnp.toml").write_text('input = "a.fa"\nrun = "run"\n')
        result = extract()
        assert result.exit_code == 0, clean(result)

    def test_a_table_goes_before_the_top_and_the_command_line_before_both(self, fasta: Path) -> None:
        Path("vnp.toml").write_text('shards = 2\n[extract]\nshards = 3\nstore = "float32"\n[reduce]\nlayout = "full"\n')
        assert extract(fasta, "--out", "run").exit_code == 0
        assert self.shards() == 3
        assert json.loads(Path("run/run.json").read_text())["store"] == "float32"
        assert extract(fasta, "--out", "other", "--shards", 4).exit_code == 0
        assert self.shards("other") == 4

    def test_another_file(self, fasta: Path) -> None:
        Path("vnp.toml").write_text("shards = 2\n")
        Path("mine.toml").write_text("[extract]\nshards = 3\n")
        assert extract(fasta, "--out", "run", "--config", "mine.toml").exit_code == 0
        assert self.shards() == 3
        assert extract(fasta, "--out", "other", "--config=mine.toml").exit_code == 0
        assert self.shards("other") == 3

    def test_dashes_and_underscores_are_the_same(self, fasta: Path) -> None:
        Path("vnp.toml").write_text("[extract]\ntoken-budget = 77\nprefix_ids = true\n")
        assert extract(fasta, "--out", "run").exit_code == 0
        stored = json.loads(Path("run/run.json").read_text())
        assert stored["token_budget"] == 77
        assert stored["inputs"][0]["prefix"] == "a"

    def test_the_table_of_a_part_of_a_command(self, fasta: Path) -> None:
        Path("vnp.toml").write_text("[benchmark.reads]\nlength = 100\nmost = 1\n")
        result = call("benchmark", "reads", fasta, "--out", "reads")
        assert result.exit_code == 0, clean(result)
        assert "cut 4 reads from 4 records" in result.stdout

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("[extract]\nshard = 3\n", ["[extract] has no option 'shard'", "shards", "precision", "prefix-ids"]),
            ("shrads = 3\n", ["no command has an option 'shrads'", "shards", "precision"]),
            ("extract = 3\n", ["extract is a table of options, as in [extract], not 3"]),
            ("[extrct]\nshards = 3\n", ["no command has a table [extrct]", "benchmark.reads", "extract", "train"]),
            ("[benchmark.raeds]\nmost = 3\n", ["no command has a table [benchmark.raeds]", "benchmark.reads"]),
            ("[benchmark]\nmost = 3\n", ["[benchmark] holds the tables of its commands and no options", "'most'"]),
            ("shards = \n", ["vnp.toml is no TOML"]),
            ('[extract]\nshards = "many"\n', ["'many'", "--shards"]),
            ('cluster = "cloud"\n', ["'cloud'", "inline"]),
        ],
    )
    def test_slips_are_named(self, fasta: Path, text: str, parts: list[str]) -> None:
        Path("vnp.toml").write_text(text)
        result = call("extract", fasta, "--out", "run", *KMER)
        assert result.exit_code == 2
        message = clean(result)
        for part in parts:
            assert part in message, message
        assert not Path("run").exists()

    def test_options_of_other_commands_are_no_slips(self, fasta: Path) -> None:
        Path("vnp.toml").write_text(
            'layout = "full"\nmost = 7\n[reduce]\nlayout = "1664"\n[benchmark.reads]\nmost = 7\n'
        )
        assert extract(fasta, "--out", "run").exit_code == 0

    def test_a_file_that_is_named_must_be_there(self, fasta: Path) -> None:
        result = extract(fasta, "--out", "run", "--config", "none.toml")
        assert result.exit_code == 2
        assert "none.toml" in clean(result)

    def test_help_never_reads_it(self) -> None:
        Path("vnp.toml").write_text("broken")
        assert call("extract", "--help").exit_code == 0

    def test_in_a_process_of_its_own(self, fasta: Path) -> None:
        values = {"input": ["a.fa"], "out": "run", "dna": "kmer", "protein": "kmer", "cluster": "inline"}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        assert tomllib.loads(text) == values
        Path("vnp.toml").write_text(text)
        process = start(
            "extract", "--shards", "2", cwd=Path.cwd(), env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
        )
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "in 2 shards" in out


class TestExitCodes:
    def test_done(self, tmp_path: Path, fasta: Path) -> None:
        result = extract(fasta, "--out", tmp_path / "run")
        assert result.exit_code == 0
        assert "next: " in result.stdout

    def test_failed(self, tmp_path: Path) -> None:
        assert extract(tmp_path / "none.fa", "--out", tmp_path / "run").exit_code == 1

    def test_wrong_use(self, tmp_path: Path, fasta: Path) -> None:
        for arguments in ((), (fasta,), (fasta, "--out", tmp_path / "run", "--shards", 0), (fasta, "--nonsense")):
            result = extract(*arguments)
            assert result.exit_code == 2
            clean(result)
        for name in ("status", "rerun", "reduce"):
            result = call(name, tmp_path)
            assert result.exit_code == 2
            assert "is not a run: it has no run.json" in clean(result)

    def test_incomplete(self, tmp_path: Path, fasta: Path) -> None:
        out = tmp_path / "run"
        extract(fasta, "--out", out, "--shards", 3)
        (out / "receipts/shard-00001.json").unlink()
        for name in ("status", "reduce"):
            assert call(name, out).exit_code == 3

    def test_a_reader_that_goes_away_is_no_error(self, tmp_path: Path, fasta: Path) -> None:
        extract(fasta, "--out", tmp_path / "run", "--shards", 3)
        done = subprocess.run(
            f"{sys.executable} -m jobs.status {tmp_path / 'run'} --all --json | head -n 1",
            shell=True, cwd=REPOSITORY, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stderr == ""
