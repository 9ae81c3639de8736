"""A tiny run of many small files, and what must hold of its files at any moment."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py

from tests.runs.making import make_one
from vnp.errors import DamagedShardError
from vnp.features.table import CONTENT, content_digest
from vnp.runs.done.crate import NAME as CRATE
from vnp.runs.done.receipts import Attempt, require_sealed
from vnp.runs.done.reduce import reduce_run
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.making.pipeline import Outcome
from vnp.runs.planning import start
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.plan import read_plan
from vnp.runs.request import Request, Run, RunPaths
from vnp.sequences.samplesheet import read_inputs

SHARDS = 2
BLOCK_UNITS = 4
LAYOUT = "1664"
_CODONS = ["ATG", "GCC", "AAA", "GAC", "CTC", "GGC", "TTC", "ACC"]


def write_input(path: Path, records: int = 6) -> Path:
    """Records without stops on the forward strand, one too short for a codon, one of nothing but N."""
    random_source = random.Random(20)
    with path.open("w") as file:
        for index in range(records):
            length = random_source.choice([60, 250, 400, 700])
            file.write(f">record{index}\n{''.join(random_source.choices(_CODONS, k=length // 3))}\n")
        file.write(">short\nAC\n>unknown\n" + "N" * 320 + "\n")
    return path


@dataclass(frozen=True)
class Tiny:
    """The tiny run's input, and the files that an undisturbed run makes of it.

    Args:
        source: the FASTA file.
        expected: SHA-256 of every file whose bytes do not depend on time and place, by name below the run.
        names: all files that stand when all is done, by name below the run.
    """

    source: Path
    expected: dict[str, str]
    names: frozenset[str]

    def ask(self) -> RunOptions:
        return ask_for(self.source)


def ask_for(source: Path) -> RunOptions:
    return RunOptions(tuple(read_inputs((source,))), shards=SHARDS, dna="kmer", protein="kmer", device="cpu")


def plan(ask: RunOptions, root: Path) -> Run:
    """Plan, or find planned, with blocks of a few chunks."""
    make_request = start.make_request

    def in_small_blocks(*args: Any, **kwargs: Any) -> Request:
        return dataclasses.replace(make_request(*args, **kwargs), block_units=BLOCK_UNITS)

    with mock.patch.object(start, "make_request", in_small_blocks):
        return start.start_run(ask, root)[0]


def extract(run: Run, shards: Sequence[int] | None = None, **watch: Any) -> list[Outcome]:
    numbers = range(run.request.shards) if shards is None else shards
    return [make_one(run, number, lambda: RunEncoders.load(run.request), **watch) for number in numbers]


def make_all(ask: RunOptions, root: Path) -> list[Outcome]:
    """Plan, extract and reduce: also what a user does again after something died."""
    run = plan(ask, root)
    outcomes = extract(run)
    reduce_run(run, LAYOUT)
    return outcomes


def undisturbed(folder: Path) -> Tiny:
    source = write_input(folder / "input.fasta")
    root = folder / "undisturbed"
    make_all(ask_for(source), root)
    expected = {
        name: sha256(root / name) for name in files(root) if not name.startswith(("receipts/", "run.json", CRATE))
    }
    return Tiny(source, expected, frozenset(files(root)))


def files(root: Path) -> list[str]:
    """Names of all files below a folder."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def require_whole_or_absent(tiny: Tiny, root: Path) -> None:
    """Every file under a final name is whole; everything else has a temporary name."""
    run = Run.open(root) if (root / "run.json").exists() else None
    for name in files(root):
        path = root / name
        if path.name.startswith(".") and path.suffix == ".tmp":
            continue
        if name in tiny.expected:
            assert sha256(path) == tiny.expected[name], f"{name} is not whole"
        elif name == "run.json":
            assert run is not None
            read_plan(run.paths.plan, run.request.plan_sha256)
        elif name.startswith("receipts/"):
            assert run is not None
            assert require_sealed(run, int(path.stem.removeprefix("shard-")), full=True) is not None
        elif name == CRATE:
            assert json.loads(path.read_bytes())["@graph"]
        elif path.name.startswith("attempt-"):
            Attempt(**json.loads(path.read_bytes()))
        else:
            assert path.name.startswith("block-"), f"a stray file: {name}"
            with h5py.File(path, "r", locking=False) as file:
                assert file.attrs[CONTENT] == content_digest(file)


def require_finished(tiny: Tiny, root: Path) -> None:
    """The run is what an undisturbed one is, and nothing is left over."""
    assert files(root) == sorted(tiny.names)
    for name, expected in tiny.expected.items():
        assert sha256(root / name) == expected, f"{name} has other bytes than in an undisturbed run"
    assert not any(RunPaths(root).parts.iterdir())
    run = Run.open(root)
    for number in range(run.request.shards):
        assert require_sealed(run, number, full=True) is not None


def valid(run: Run) -> Iterator[int]:
    """Numbers of the shards whose receipts and files are valid to the last bit."""
    for number in range(run.request.shards):
        try:
            if require_sealed(run, number, full=True) is not None:
                yield number
        except DamagedShardError:
            continue
