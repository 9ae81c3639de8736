"""Whatever stands in place of a file that a command reads: one message and an exit code, or made anew; never a wait."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.encoders._folders import write_folder
from tests.jobs.commands import KMER, SAMPLE, call, extract

PATIENCE_SECONDS = 120

pytestmark = pytest.mark.usefixtures("without_plots")
HERE = ("--cluster", "inline")
PHAGE = SAMPLE.parent / "viral/phage_t4.fna.gz"

REFUSED = frozenset({1, 2, 3})
ANY = REFUSED | {0}

# What is read, by name: the file, the command that reads it, and how it may end. Where 0 is among the codes, such a
# file counts as none, or what is in it is not needed.
Reader = tuple[str, str, frozenset[int]]
READERS: dict[str, Reader] = {
    "vnp.toml": ("vnp.toml", "status run --config vnp.toml", ANY),
    "profile": (
        "profile.toml",
        "extract genomes.fna --out new --cluster slurm --dry-run --profile ./profile.toml",
        ANY,
    ),
    "samplesheet": ("sheet.csv", "extract sheet.csv --out new", REFUSED),
    "samplesheet, TSV": ("sheet.tsv", "extract sheet.tsv --out new", REFUSED),
    "sequences": ("genomes.fna", "extract genomes.fna --out new", REFUSED),
    "sequences of frames": ("genomes.fna", "frames genomes.fna --out new", REFUSED),
    "sequences that were planned": ("genomes.fna", "extract genomes.fna --out planned", REFUSED),
    "request": ("run/run.json", "status run", REFUSED),
    "request, reduce": ("run/run.json", "reduce run", REFUSED),
    "request, rerun": ("run/run.json", "rerun run", REFUSED),
    "request, cancel": ("run/run.json", "cancel run", ANY),
    "plan": ("run/plan.h5", "status run", REFUSED),
    "shard": ("run/shards/shard-00000.h5", "reduce run --force", REFUSED),
    "receipt": ("run/receipts/shard-00000.json", "status run", ANY),
    "receipt, reduce": ("run/receipts/shard-00000.json", "reduce run --force", REFUSED),
    "block": ("half/parts/shard-00000/block-00000.h5", "rerun half", ANY),
    "attempt": ("half/parts/shard-00000/attempt-1.json", "status half", ANY),
    "log of jobs": ("run/logs/jobs.jsonl", "status run", ANY),
    "log of jobs, cancel": ("run/logs/jobs.jsonl", "cancel run", ANY),
    "features": ("run/features.h5", "train run --out new.pth", REFUSED),
    "features, export": ("run/features.h5", "export run --format npz --out new", REFUSED),
    "features, accuracy": ("run/features.h5", "benchmark accuracy run@model.pth --out new", REFUSED),
    "features, reduce": ("run/features.h5", "reduce run", ANY),
    "groups": ("groups.tsv", "train run --groups groups.tsv --out new.pth", REFUSED),
    "split": ("model.split.tsv", "benchmark accuracy run@model.pth --out new", ANY),
    "checkpoint": ("model.pth", "predict genomes.fna --checkpoint model.pth --out new", REFUSED),
    "checkpoint, --from": ("model.pth", "predict --from run --checkpoint model.pth --out new", REFUSED),
    "checkpoint, accuracy": ("model.pth", "benchmark accuracy run@model.pth --out new", REFUSED),
    "checkpoint of VirNucPro": ("model.pth", "convert model.pth --chunk 300 --out new.pth", REFUSED),
    "scores": ("calls/shards/shard-00000.h5", "predict --from calls --out other --threshold 0.9", REFUSED),
    "receipt, predict": ("calls/receipts/shard-00000.json", "predict --from calls --out other", REFUSED),
    "summary": ("calls/predictions.json", "predict --from calls --out other --threshold 0.9", ANY),
    "settings": ("calls/predict.json", "predict --from calls --out other --threshold 0.9", REFUSED),
    "weights, config": ("esm/config.json", "extract genomes.fna --out new --weights esm", REFUSED),
    "sheet of a training set": ("sheet.csv", "dataset sheet.csv --out new", REFUSED),
}

TEXTS = (".csv", ".tsv", ".fna", ".toml")
CONTENTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "text": lambda path: path.write_bytes(b"hello\n"),
    "binary": lambda path: path.write_bytes(random.Random(1).randbytes(5_000)),
    "NULs": lambda path: path.write_bytes(bytes(5_000)),
    "deep list": lambda path: path.write_bytes(b"[" * 200_000),
    "deep object": lambda path: path.write_bytes(b'{"a":' * 200_000),
    "long number": lambda path: path.write_bytes(b'{"schema": ' + b"1" * 5_000 + b"}"),
    "object": lambda path: path.write_bytes(b"{}"),
    "list": lambda path: path.write_bytes(b"[1, null]"),
    "deep TOML": lambda path: path.write_bytes(b"a = " + b"[" * 200_000),
    "wide field": lambda path: path.write_bytes(b"path\tlabel\tgroup\n" + b"x" * 300_000 + b"\t\t\n"),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)),
    "pickle": lambda path: path.write_bytes(b"\x80\x02cos\nsystem\n(S'true'\ntR."),
}
FROM_THE_TRUE_ONE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "other types": lambda content: _of_other_types(content),
}


def _of_other_types(content: bytes) -> bytes:
    """JSON with a list where anything else stood; other formats with a stretch of noise in the middle."""
    try:
        found: Any = json.loads(content.splitlines()[0] if content.count(b"\n{") else content)
    except (ValueError, IndexError):
        middle = len(content) // 2
        return content[:middle] + b"\xa5" * min(500, middle) + content[middle + 500 :]
    return json.dumps({name: [[]] for name in found} if isinstance(found, dict) else {}).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that commands read, small."""
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    try:
        _make(root)
        yield root
    finally:
        os.chdir(before)


def _make(root: Path) -> None:
    import gzip

    (root / "genomes.fna").write_bytes(gzip.decompress(PHAGE.read_bytes())[:9_000] + b"\n")
    (root / "sheet.csv").write_text("path,label,group\ngenomes.fna,viral,a\n")
    (root / "sheet.tsv").write_text("path\tlabel\tgroup\ngenomes.fna\tviral\ta\n")
    (root / "vnp.toml").write_text("[status]\njson = true\n")
    (root / "profile.toml").write_text("[gpu]\npartition = 'gpu'\n")
    (root / "groups.tsv").write_text("record\tgroup\n")
    write_folder(root / "esm")
    for name, options in {"run": ("--shards", 2), "planned": (), "half": ("--shards", 1)}.items():
        source = SAMPLE if name == "run" else "genomes.fna"
        assert extract(source, "--out", name, *options).exit_code == 0
    assert call("reduce", "run").exit_code == 0
    assert call("train", "run", "--out", "model.pth", "--epochs", 2).exit_code == 0
    done = call("predict", "genomes.fna", "--checkpoint", "model.pth", "--out", "calls", *HERE)
    assert done.exit_code == 0, done.output
    (root / "run/logs").mkdir(exist_ok=True)
    (root / "run/logs/jobs.jsonl").write_text(
        json.dumps({"job": "1", "name": "x", "user": "nobody", "base": 0, "shards": [0], "at": "2025-01-01"}) + "\n"
    )
    (root / "half/receipts/shard-00000.json").unlink()
    (root / "half/parts/shard-00000").mkdir(parents=True)


@contextmanager
def patience(what: str) -> Iterator[None]:
    """Fail where a command waits for ever."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        pytest.fail(f"{what}: waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_hostile_files(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file, line, codes = READERS[name]
    command, *arguments = line.split()
    if command in ("extract", "rerun", "predict", "pipeline") and "--cluster" not in arguments:
        arguments += HERE
    if command == "extract" and "--weights" not in arguments:
        arguments += KMER
    elif command == "extract":
        arguments += ["--dna", "kmer", "--protein", "fastesm2_650"]
    true = (world / file).read_bytes() if (world / file).exists() else b""
    bad = []
    # Half of a text is a text.
    changed = FROM_THE_TRUE_ONE if true and Path(file).suffix not in TEXTS else {}
    for kind in (*CONTENTS, *changed):
        place = tmp_path / "world"
        # Links: what a command writes anew is another file.
        shutil.copytree(world, place, copy_function=os.link)
        path = place / file
        path.unlink(missing_ok=True)
        if kind in CONTENTS:
            CONTENTS[kind](path)
        else:
            path.write_bytes(FROM_THE_TRUE_ONE[kind](true))
        monkeypatch.chdir(place)
        with patience(f"{name}, {kind}"):
            result = call(command, *arguments)
        shutil.rmtree(place)
        said = result.stderr
        expected = {0: (0,), 3: (0, 1)}.get(result.exit_code, (1,))
        fault = None if isinstance(result.exception, SystemExit | None) else repr(result.exception)
        errors = len(re.findall("^[Ee]rror: ", said, re.MULTILINE))
        if fault or result.exit_code not in codes or errors not in expected or "Traceback" in said:
            bad.append(f"{kind}: {result.exit_code} {fault or said[:300]}")
    assert not bad, "\n".join(bad)
