"""What commands write and say, frozen: a rearrangement of the code may change none of it.

Expected values are in ``tests/freeze``. A change that is meant is made by ``VNP_FREEZE_UPDATE=1 python -m pytest
tests/test_freeze.py``, which writes them anew, and is reviewed as the difference of these files. Nothing here imports
the library, only commands by their names, so that modules can move freely.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.frozen import FROZEN, Json, array, as_text, close, close_table, equal, keys, sha256, statistics

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE = REPOSITORY / "vnp/sample"

HERE = "--cluster inline"
KMER = f"--dna kmer --protein kmer {HERE}"
DNA_WIDTH, PROTEIN_WIDTH, PROJECTED = 768, 1280, 384
GROUPS = ("benchmark",)
PARTS = ("accuracy", "speed")
"""Of a command that consists of commands, those that users need: the others, and with them its own help, may move."""

# How commands are run


@pytest.fixture(autouse=True)
def plain_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, 80 columns, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("VNP_", "SLURM_", "SBATCH_"))]:
        if name != "VNP_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")


def invoke(command: click.Command, name: str, *arguments: object) -> Result:
    # Click leaves two columns of a terminal free, but not where it runs tests.
    return CliRunner().invoke(command, [str(one) for one in arguments], prog_name=name, terminal_width=78)


def run(name: str, *arguments: object) -> Result:
    """Run a command as ``python -m jobs.NAME`` does, with its streams apart."""
    command = importlib.import_module(f"jobs.{name}").main
    result = invoke(command, f"python -m jobs.{name}", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def must(name: str, *arguments: object) -> str:
    """Run a command that has to end well; what it said, without what changes from run to run."""
    result = run(name, *arguments)
    assert result.exit_code == 0, result.output
    return lasting(result.stdout)


def lasting(text: str) -> str:
    text = text.replace(str(REPOSITORY), "REPOSITORY").replace(str(Path.cwd()), "HERE")
    text = re.sub(r"\b\d+ (h \d\d min|min \d\d s|s)\b", "TIME", text)
    text = re.sub(r"(report\.html  )[\d.]+ MB", r"\1N MB", text)
    return re.sub(r"[\d,]+ tokens/s", "N tokens/s", text)


# Tables of rows


def embed(inputs: Path, out: str, shards: int) -> Json:
    """Everything that extract and reduce leave of some input."""
    said = {"extract": must("extract", inputs, "--out", out, "--shards", shards, *KMER.split()).splitlines()}
    said["status"] = must("status", out).splitlines()
    found: dict[str, Json] = {"shards": {}, "says": said}
    for path in sorted(Path(out, "shards").iterdir()):
        with h5py.File(path, "r") as file:
            found["shards"][path.name] = {
                name: statistics(values) if name == "dna_projected" else array(values)
                for name, values in arrays(file).items()
            }
    receipt = json.loads(Path(out, "receipts/shard-00000.json").read_text())
    found["run.json"] = list(keys(json.loads(Path(out, "run.json").read_text())))
    found["receipt"] = list(keys(receipt))
    said["reduce"] = must("reduce", out).splitlines()
    with h5py.File(Path(out, "features.h5"), "r") as file:
        held = arrays(file)
        features = held.pop("features")
        attributes = {name: file.attrs[name] for name in sorted(file.attrs)}
    assert features.shape[1] == PROJECTED + PROTEIN_WIDTH
    found["features.h5"] = {name: array(values) for name, values in held.items()}
    found["features.h5"]["features, protein"] = array(features[:, PROJECTED:])
    found["features.h5"]["features, dna"] = statistics(features[:, :PROJECTED])
    found["attributes"] = {
        name: value if isinstance(value, str) else int(value)
        for name, value in attributes.items()
        if name in ("kind", "schema", "layout", "chunk")
    }
    found["attributes"]["names"] = sorted(attributes)
    found["attributes"]["provenance"] = list(keys(json.loads(attributes["provenance"])))
    found["skipped.tsv"] = sha256(lasting(Path(out, "skipped.tsv").read_text()).encode())
    found["files"] = sorted(path.name for path in Path(out).iterdir())
    said["full"] = must("reduce", out, "--layout", "full", "--force").splitlines()
    with h5py.File(Path(out, "features.h5"), "r") as file:
        found["features.h5, full"] = array(file["features"][:])
        assert file["features"].shape[1] == DNA_WIDTH + PROTEIN_WIDTH
    return found


def arrays(file: h5py.File) -> dict[str, np.ndarray]:
    """All arrays of a file by name; empty ones, which have no bytes, too."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    file.visititems(visit)
    return dict(sorted(found.items()))


def test_rows_of_the_sample() -> None:
    close("sample.json", embed(SAMPLE / "samplesheet.csv", "sample", 3), 2e-4)
    said = must("export", "sample", "--format", "npz")
    with np.load("sample/export/features.npz") as held:
        found = {name: f"{values.dtype.str} {values.shape}" for name, values in held.items()}
        found["features"] = array(held["features"])
    equal("export.json", as_text({"says": said.splitlines(), **found}))


def test_rows_of_whole_genomes(shared: Path) -> None:
    with gzip.open(shared / "data/viral.fna.gz", "rt") as file, open("genomes.fna", "w") as out:
        records = 0
        for line in file:
            records += line.startswith(">")
            if records > 300:
                break
            out.write(line)
    close("genomes.json", embed(Path("genomes.fna"), "genomes", 2), 2e-4)


def test_frames() -> None:
    found = {}
    for name, options in (("frames", ()), ("frames-500", ("--chunk", 500, "--prefix-ids"))):
        said = must("frames", SAMPLE / "samplesheet.csv", "--out", name, *options)
        written = {path.name: sha256(lasting(path.read_text()).encode()) for path in sorted(Path(name).iterdir())}
        # How large it is depends on where the sample lies, whose path stands in each of its lines.
        said = re.sub(r"(skipped\.tsv  )\d+ kB", r"\1SIZE", said)
        found[name] = {"says": said.splitlines(), **written}
    equal("frames.json", as_text(found))


# Calls


HIDDEN = 32


def write_checkpoint(path: Path) -> None:
    """A classifier whose weights are drawn from a hash: fractions of 64, the same everywhere."""

    def draw(name: str, *shape: int) -> torch.Tensor:
        count = math.prod(shape)
        drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(count), np.int8)
        return torch.from_numpy(drawn.astype(np.float32).reshape(shape) / 64)

    parts = [
        {"name": "dna", "encoder": "kmer", "native": 768, "width": 384, "projection": "srdct384-v1"},
        {"name": "protein", "encoder": "kmer", "native": 1280, "width": 1280, "projection": None},
    ]
    about = {
        "encoders": {part: {"name": "kmer", "algorithm": f"kmer-{part}-1"} for part in ("dna", "protein")},
        "chunk": 300,
        "threshold": 0.5,
        "origin": "vnp",
        "training": {},
        "split": {},
        "metrics": {},
        "code": {},
        "layout": {"parts": parts, "width": 1664},
        "classes": ["host", "viral"],
        "calibration": {
            "kind": "temperature",
            "temperature": 0.75,
            "offset": 0.125,
            "margins": [],
            "probabilities": [],
            "log_loss": [],
        },
    }
    weights = {
        "hidden.bias": draw("hidden bias", HIDDEN),
        "hidden.weight": draw("hidden weight", HIDDEN, 1664),
        "norm.bias": draw("norm bias", HIDDEN),
        "norm.num_batches_tracked": torch.tensor(1),
        "norm.running_mean": draw("norm mean", HIDDEN),
        "norm.running_var": torch.full((HIDDEN,), 2.25),
        "norm.weight": draw("norm weight", HIDDEN),
        "output.bias": torch.tensor([-1.0, 1.0]),
        "output.weight": draw("output weight", 2, HIDDEN) / 3,
    }
    torch.save({"format": "vnp-classifier/1", "about": json.dumps(about), "weights": weights}, path)


ODD = f">closed\n{'TAATTAATTAA' * 9}\n>unknown\n{'N' * 400}\n>tiny\nAC\n>empty\n>protein\nMEEPQSDPSV\n"
RATIOS = {"score", "probability", "fdr", "agreement"}


def test_calls() -> None:
    write_checkpoint(Path("model.pth"))
    Path("odd.fna").write_text(ODD)
    # Beside the other input, because tables name files below the folder that all share.
    shutil.copytree(SAMPLE, "sample")
    inputs = ("sample/heldout.csv", "odd.fna")
    asked = ("--checkpoint", "model.pth", "--out", "calls", "--shards", 2, "--cluster", "inline")
    said = {"predict": must("predict", *inputs, *asked, "--virnucpro-output", "--no-native").splitlines()}
    for name in ("predictions", "chunks", "frames"):
        close_table(f"calls/{name}.tsv", Path(f"calls/{name}.tsv").read_text(), RATIOS)
    said["again"] = must(
        "predict", "--from", "calls", "--out", "again", "--rule", "length-weighted", "--threshold", 0.3, "--no-fasta"
    ).splitlines()
    close_table("calls/again.tsv", Path("again/predictions.tsv").read_text(), RATIOS)
    summary = json.loads(Path("calls/predictions.json").read_text())
    virnucpro = {}
    for name in ("prediction_results.txt", "prediction_results_highestscore.csv"):
        lines = Path("calls", name).read_text().splitlines()
        virnucpro[name] = [lines[0], len(lines), sha256("\n".join(line.split("\t")[0] for line in lines).encode())]
    found = {
        "says": said,
        "files": {out: sorted(path.name for path in Path(out).iterdir()) for out in ("calls", "again")},
        "viral.fna": sha256(Path("calls/viral.fna").read_bytes()),
        "virnucpro": virnucpro,
        "predictions.json": list(keys(summary)),
        "counts": summary["counts"],
    }
    close("calls/summary.json", found)


# What commands say


def commands() -> list[tuple[str, ...]]:
    names = sorted(path.stem for path in (REPOSITORY / "jobs").glob("[!_]*.py"))
    single = [(name,) for name in names if name not in GROUPS]
    return single + [(name, part) for name in GROUPS for part in PARTS]


@pytest.mark.parametrize("words", commands(), ids="-".join)
def test_help(words: tuple[str, ...]) -> None:
    result = run(words[0], *words[1:], "--help")
    assert result.exit_code == 0
    equal(f"help/{'-'.join(words)}.txt", result.stdout)


def test_help_of_all() -> None:
    main = importlib.import_module("jobs.__main__").main
    assert isinstance(main, click.Group)
    equal("help/vnp.txt", invoke(main, "vnp", "--help").stdout)


def test_no_help_is_left_of_a_command_that_is_gone() -> None:
    assert {path.stem for path in (FROZEN / "help").iterdir()} == {"-".join(words) for words in commands()} | {"vnp"}


def prepare() -> None:
    """Inputs that are good and bad, a run that is done and one that is not."""
    bases = "ATGGCTGCAAAAGGTCTGACCGATTACCGTGAACTG" * 20
    Path("good.fa").write_text(f">a\n{bases}\n>b\n{bases[30:]}\n")
    Path("other.fa").write_text(f">a\n{bases[60:]}\n")
    Path("empty.fa").touch()
    Path("protein.faa").write_text(">p\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ\n")
    Path("text.fa").write_text("ACGT\n")
    Path("sheet.csv").write_text("path,label\ngood.fa,viral\n")
    Path("label.csv").write_text("path,label,group\ngood.fa,virus,\n")
    Path("junk.pth").write_bytes(b"junk")
    Path("folder").mkdir()
    Path("folder/something").touch()
    Path("bad.toml").write_text("[extract]\nshard = 3\n")
    for out in ("done", "half"):
        must("extract", "good.fa", "--out", out, "--shards", 2, *KMER.split())
    must("reduce", "done")
    for path in ("receipts/shard-00001.json", "shards/shard-00001.h5"):
        Path("half", path).unlink()
    must("frames", "good.fa", "--out", "framed")
    write_checkpoint(Path("good.pth"))
    must("predict", "good.fa", "--checkpoint", "good.pth", "--out", "called", "--cluster", "inline", "--no-native")


REFUSED = (
    f"extract --out new {KMER}",
    f"extract none.fa --out new {KMER}",
    "extract good.fa",
    f"extract good.fa --out new {KMER} --shards 0",
    f"extract good.fa --out new {KMER} --shards many",
    f"extract good.fa --out new {KMER} --chunk 2",
    f"extract good.fa --out new {KMER} --no-such-option",
    f"extract good.fa --out new {KMER} --precision fp4",
    f"extract good.fa --out new {KMER} --plan-job",
    f"extract good.fa --out new {KMER} --config none.toml",
    f"extract good.fa --out new {KMER} --config bad.toml",
    "extract good.fa --out new --dna kmer --protein kmer --cluster nowhere",
    f"extract good.fa --out new --dna none --protein kmer {HERE}",
    f"extract good.fa --out new --dna kmer --protein none_such {HERE}",
    f"extract good.fa --out new --weights folder {HERE}",
    f"extract good.fa good.fa --out new {KMER}",
    f"extract good.fa other.fa --out new {KMER}",
    f"extract empty.fa --out new {KMER}",
    f"extract protein.faa --out new {KMER}",
    f"extract text.fa --out new {KMER}",
    f"extract sheet.csv --out new {KMER}",
    f"extract label.csv --out new {KMER}",
    f"extract folder --out new {KMER}",
    f"extract good.fa --out folder {KMER}",
    f"extract good.fa --out done {KMER} --chunk 500",
    "extract --out none --only 0",
    "extract --out done --only 2",
    "extract --out done --only first",
    "reduce none",
    "reduce folder",
    "reduce half",
    "reduce done --layout full",
    "reduce done --layout 3",
    "status none",
    "status folder",
    "status half",
    f"rerun folder {HERE}",
    "cancel folder",
    "frames --out new",
    "frames good.fa --out framed",
    "frames good.fa --out new --chunk 2",
    f"predict good.fa --checkpoint none.pth --out new {HERE}",
    f"predict good.fa --checkpoint junk.pth --out new {HERE}",
    "predict good.fa --checkpoint good.pth --out new --threshold 2",
    f"predict good.fa --checkpoint good.pth --out called --threshold 0.9 {HERE}",
    "predict good.fa --from called",
    "predict --from done",
    "predict --from half --checkpoint good.pth",
    "train none --out new",
    "train half --out new",
    "train done --out new",
    "train done --out good.pth",
    "train done --out new --chunk 500",
    "export half --format npz",
    "export done --format zip",
    "convert none.pth --chunk 300 --out new",
    "convert good.pth --chunk 300 --out new",
    "dataset none.csv --out new",
    "dataset sheet.csv --out new",
    "fetch none_such",
    "fetch --refseq none_such --out new",
    f"pipeline --out new {HERE}",
    "benchmark accuracy --out new",
    "benchmark accuracy none --out new",
    "benchmark speed --out",
    "benchmark speed --device none_such",
    "benchmark none_such",
)


def test_refusals() -> None:
    """Exit code and first line of the message; of Click's own the line behind the usage, of a report the last."""
    prepare()
    found: dict[str, Json] = {}
    for line in REFUSED:
        name, *words = line.split()
        result = run(name, *words)
        said = lasting(result.stderr or result.stdout).splitlines()
        message = next((one for one in said if one.lower().startswith("error: ")), said[-1])
        found[line] = f"{result.exit_code} {message}"
        assert not Path("new").exists(), line
    equal("refused.json", as_text(found))
