"""Commands in this process."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from benchmarks.__main__ import main as measurements

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SAMPLE = REPOSITORY / "vnp/sample/samplesheet.csv"
KMER = ("--dna", "kmer", "--protein", "kmer")


def call(name: str, *arguments: object) -> Result:
    """Run a command as ``python -m jobs.NAME`` would, with its streams apart."""
    command = importlib.import_module(f"jobs.{name}").main
    return CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name=f"python -m jobs.{name}")


def measure(*arguments: object) -> Result:
    """Run a measurement as ``python -m benchmarks`` would, with its streams apart."""
    return CliRunner().invoke(measurements, [str(argument) for argument in arguments], prog_name="python -m benchmarks")


def extract(*arguments: object) -> Result:
    """Extract with the weight-free encoders, in this process."""
    return call("extract", *arguments, *KMER, "--cluster", "inline")


def calls(*arguments: object) -> Result:
    """Predict on the CPU, in this process."""
    inline = () if "--from" in arguments else ("--cluster", "inline", "--device", "cpu")
    return call("predict", *arguments, *inline)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table that a command wrote."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def start(name: str, *arguments: object, **more: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{name}", *map(str, arguments)],
        cwd=more.pop("cwd", REPOSITORY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def clean(result: Result) -> str:
    """What a command said on stderr but for the disk it needs, once it is sure that nothing unexpected came up."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return "".join(line for line in result.stderr.splitlines(keepends=True) if not line.startswith("disk: "))
