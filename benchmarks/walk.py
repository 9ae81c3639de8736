"""The way of the data: which modules and functions of ``vnp`` and ``jobs`` a command runs through, in order.

``python -m benchmarks walk`` extracts the bundled sample with the weight-free encoders, inline. What a module does when
it is imported does not count, what its functions do does.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import click

from benchmarks._commands import command, options
from jobs.extract import main as extract

_PACKAGES = ("vnp.", "jobs.")
SAMPLE = Path(__file__).resolve().parent.parent / "vnp" / "sample" / "samplesheet.csv"


@dataclass(frozen=True, slots=True)
class Walk:
    """Functions that ran, by module; both in the order of their first call."""

    functions: dict[str, list[str]]

    @property
    def count(self) -> int:
        """How many functions ran."""
        return sum(map(len, self.functions.values()))


def walk(work: Callable[[], object]) -> Walk:
    """Note which functions of the project run, in any thread, while something is done."""
    found: dict[Any, tuple[str, str] | None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code not in found:
            module = str(frame.f_globals.get("__name__", ""))
            # <lambda> and <listcomp> belong to the function around them; dataclasses write some functions themselves.
            inside = (
                module.startswith(_PACKAGES) and not code.co_name.startswith("<") and code.co_filename != "<string>"
            )
            found[code] = (module, code.co_qualname) if inside and not _importing(frame) else None

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    functions: dict[str, list[str]] = {}
    for place in found.values():
        if place is not None:
            functions.setdefault(place[0], []).append(place[1])
    return Walk(functions)


def _importing(frame: FrameType | None) -> bool:
    """Whether a module of the project is being imported: decorators and tables are not the way of the data."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals["__name__"].startswith(_PACKAGES):
            return True
        frame = frame.f_back
    return False


def walk_extract(words: Sequence[str] = ()) -> Walk:
    """Extract the bundled sample with the weight-free encoders in this process, and note what ran."""
    with TemporaryDirectory() as folder:
        options = ["--dna", "kmer", "--protein", "kmer", "--cluster", "inline", "--shards", "2"]
        arguments = [str(SAMPLE), "--out", str(Path(folder) / "run"), *options, *words]
        return walk(lambda: extract.main(args=arguments, standalone_mode=False))


@command("python -m benchmarks walk")
@options.as_json
def main(as_json: bool) -> None:
    """Print the modules and functions that extracting the sample runs through."""
    found = walk_extract()
    if as_json:
        click.echo(json.dumps(found.functions, indent=2))
        return
    for module, functions in found.functions.items():
        click.echo(f"{module:<36} {', '.join(functions)}")
    click.echo(f"{len(found.functions)} modules, {found.count} functions")
