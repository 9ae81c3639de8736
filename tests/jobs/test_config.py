"""What vnp.toml may hold: every option by its long name, with a value of its type."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from benchmarks.train import main as measure_training
from jobs.__main__ import every_command
from jobs._cli.command import Command, read_config
from tests.jobs.commands import KMER, call, clean, extract
from tests.runs.making import coding, write_fasta
from vnp.errors import UsageError

COMMANDS = {" ".join(command.table): command for command in every_command() if isinstance(command, Command)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_fasta(tmp_path / "a.fa", [(f"r{i}", coding(900, i)) for i in range(4)])


def read(text: str, command: str) -> dict[str, object]:
    Path("vnp.toml").write_text(text)
    return read_config(None, COMMANDS[command])


def written(parameter: click.Parameter) -> str:
    """A value that the parameter takes, as TOML."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return "true"
    if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        return "3"
    return f'"{parameter.type.choices[0]}"' if isinstance(parameter.type, click.Choice) else '"x"'


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_long_name(name: str) -> None:
    command = COMMANDS[name]
    table = f"[{'.'.join(command.table)}]\n"
    with pytest.raises(UsageError) as caught:
        read(f"{table}nonsense = 1\n", name)
    listed = str(caught.value).split("there are ")[1].split(", ")
    options = [one for one in command.params if isinstance(one, click.Option) and one.name != "config"]
    arguments = [str(one.name) for one in command.params if isinstance(one, click.Argument)]
    names = {long: one for one in options for long in (*one.opts, *one.secondary_opts)}
    assert listed == sorted([*(long.removeprefix("--") for long in names), *arguments])
    for long, parameter in names.items():
        for key in (long[2:], long[2:].replace("-", "_")):
            assert list(read(f"{table}{key} = {written(parameter)}\n", name)) == [parameter.name]


def test_names_that_differ_inside() -> None:
    assert read("[status]\nall = true\njson = true\n", "status") == {"show_all": True, "as_json": True}
    text = '[benchmark.accuracy]\npart = ["dna", "protein"]\nall = false\n'
    assert read(text, "benchmark accuracy") == {"parts": ["dna", "protein"], "everything": False}
    assert read('part = "dna"\n', "benchmark accuracy") == {"parts": ["dna"]}
    assert read('from = "RUN"\nvirnucpro-output = true\n', "predict") == {"source": "RUN", "virnucpro": True}
    for old in ("as-json", "show_all"):
        with pytest.raises(UsageError, match="has no option"):
            read(f"[status]\n{old} = true\n", "status")


def test_names_that_switch_off() -> None:
    assert read("[fetch]\nno-fasta = true\n", "fetch") == {"fasta": False}
    assert read("[fetch]\nno-fasta = false\n", "fetch") == {"fasta": True}
    assert read("[benchmark.speed]\nend-to-end = true\n", "benchmark speed") == {"encoder_only": False}
    with pytest.raises(UsageError, match="no-fasta in \\[fetch\\] must be true or false, not 1"):
        read("[fetch]\nno-fasta = 1\n", "fetch")


def test_out_is_the_run_at_the_top_and_the_own_option_in_a_table() -> None:
    for name in ("extract", "pipeline", "status", "reduce", "export", "doctor"):
        for key in ("out", "run"):
            assert read(f'{key} = "RUN"\n', name) == {"run": "RUN"}
    for name in ("dataset", "frames", "fetch"):
        assert read('out = "RUN"\n', name) == {}
        assert read(f'out = "RUN"\n[{name}]\nout = "here"\n', name) == {"folder": "here"}
    assert read('out = "RUN"\n[export]\nout = "here"\n', "export") == {"run": "RUN", "folder": "here"}
    assert read('[status]\nout = "RUN"\n', "status") == {"run": "RUN"}


def test_status_from_the_file() -> None:
    assert extract("a.fa", "--out", "run").exit_code == 0
    Path("vnp.toml").write_text('out = "run"\n[status]\njson = true\nall = true\n')
    result = call("status")
    assert result.exit_code == 0, clean(result)
    assert json.loads(result.stdout)


WRONG = {
    "shards = [1]": "shards must be a whole number, not a list",
    "shards = inf": "shards must be a whole number, not inf",
    "shards = 2.9": "shards must be a whole number, not 2.9",
    "shards = true": "shards must be a whole number, not true",
    "[extract]\nshards = 1.5": "shards in [extract] must be a whole number, not 1.5",
    "[extract.shards]\na = 1": "shards in [extract] must be a whole number, not a table",
    "chunk = 1979-05-27": "chunk must be a whole number, not 1979-05-27",
    "chunk = 300.9": "chunk must be a whole number, not 300.9",
    "input = 3": "input must be a path in quotes, or a list of such, not 3",
    'input = ["a.fa", 3]': "input must be a path in quotes, or a list of such, not 3",
    'input = [["a.fa"]]': "input must be a path in quotes, or a list of such, not a list",
    "out = 3": "out must be a path in quotes, not 3",
    'out = ["a", "b"]': "out must be a path in quotes, not a list",
    "weights = 7": "weights must be a path in quotes, not 7",
    'weights = "a\\u0000b"': "weights must not hold a NUL character",
    "prefix-ids = 3": "prefix-ids must be true or false, not 3",
    'prefix-ids = "true"': "prefix-ids must be true or false, not 'true'",
    "profile = false": "profile must be a text in quotes, not false",
    "store = 16": 'store must be one of "float16", "float32", not 16',
    f"shards = {'1' * 5000}": "is no TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_values_of_another_type_are_named(text: str) -> None:
    Path("vnp.toml").write_text(text)
    result = call(
        "extract", *(() if "input" in text else ("a.fa",)), *(() if "out" in text else ("--out", "run")), *KMER
    )
    assert result.exit_code == 2
    message = clean(result)
    assert message.count("error: ") == 1
    assert "vnp.toml" in message
    assert WRONG[text] in message
    assert not Path("run").exists()


def test_values_that_fit() -> None:
    assert read("test = 0\nvalidation = 0.2\n", "train") == {"test": 0, "validation": 0.2}
    assert read('precision = ["fp16", "fp8"]\n', "benchmark speed") == {"precisions": ["fp16", "fp8"]}
    several = Path("several.toml")
    for value, found in (('[32, "64"]', [32, "64"]), ("32", [32])):
        several.write_text(f"batch = {value}\n")
        assert read_config(several, measure_training) == {"batch": found}
    for wrong in ("true", '["x", 1.5]', "[32, 1.5]"):
        several.write_text(f"batch = {wrong}\n")
        with pytest.raises(UsageError):
            read_config(several, measure_training)
    Path("vnp.toml").write_text('shards = "2"\n')
    assert extract("a.fa", "--out", "run").exit_code == 0
    assert json.loads(Path("run/run.json").read_text())["asked_shards"] == 2


def test_an_option_may_be_called_as_a_command_is() -> None:
    assert read('frames = "all"\n', "frames") == {}
    assert read('frames = "all"\n', "dataset") == {"frames": "all"}
