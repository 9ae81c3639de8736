"""Two commands that write to one place at once, for every command that writes: one is refused, and nothing is mixed."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.datasets.making import write_set
from tests.runs.making import coding, write_fasta
from vnp.classifier.model import MLPClassifier
from vnp.files import durable
from vnp.files.claims import LOCKS

pytestmark = pytest.mark.usefixtures("without_plots")

KMER = ("--dna", "kmer", "--protein", "kmer", "--cluster", "inline")
SAME = {".pth", ".fa", ".faa", ".tsv", ".pt", ".npz", ".gz", ".parquet", ".h5", ".fna"}
PAIRS: dict[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "extract": (["extract", "{in}/sheet.csv", "--out", "{out}/run", *KMER], ["--chunk", "300"], ["--chunk", "400"]),
    "reduce": (["reduce", "{out}"], ["--layout", "1664"], ["--layout", "full"]),
    "train": (["train", "{in}/run", "--out", "{out}/m.pth", "--epochs", "2"], ["--seed", "1"], ["--seed", "2"]),
    "convert": (["convert", "{in}/old.pth", "--out", "{out}/c.pth"], ["--chunk", "300"], ["--chunk", "500"]),
    "frames": (["frames", "{in}/viral.fa", "--out", "{out}"], ["--chunk", "300"], ["--chunk", "400"]),
    "export npz": (["export", "{in}/run", "--out", "{out}", "--format", "npz"], [], []),
    "export pt": (
        ["export", "{in}/run", "--out", "{out}", "--format", "pt", "--rows-per-file"], ["5"], ["7"],
    ),
    "dataset": (
        ["dataset", "{in}/set/sheet.csv", "--out", "{out}", "--lengths", "150", "--per-group", "9"],
        ["--units", "genome", "--seed", "1"], ["--units", "genome", "--seed", "2"],
    ),
    "accuracy": (
        ["benchmark", "accuracy", "{in}/run@{in}/model.pth", "--out", "{out}", "--all"],
        ["--replicates", "20"], ["--replicates", "30"],
    ),
    "predict": (
        ["predict", "{in}/viral.fa", "--checkpoint", "{in}/model.pth", "--out", "{out}/calls", "--cluster", "inline"],
        ["--threshold", "0.4"], ["--threshold", "0.6"],
    ),
    "predict --from": (
        ["predict", "--from", "{in}/calls", "--out", "{out}/calls"], ["--threshold", "0.4"], ["--threshold", "0.6"],
    ),
}  # fmt: skip


def call(words: Sequence[str]) -> tuple[int, str]:
    done = CliRunner().invoke(importlib.import_module(f"jobs.{words[0]}").main, list(words[1:]))
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, a reduced run, a classifier, calls, a classifier of VirNucPro, annotated genomes."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, seed in (("viral", 0), ("host", 40)):
        write_fasta(folder / f"{name}.fa", [(f"{name}{i}", coding(900, seed + i)) for i in range(8)])
    (folder / "sheet.csv").write_text("path,label,group\nviral.fa,viral,\nhost.fa,host,\n")
    model = str(folder / "model.pth")
    for words in (
        ["extract", str(folder / "sheet.csv"), "--out", str(folder / "run"), *KMER],
        ["reduce", str(folder / "run")],
        ["train", str(folder / "run"), "--out", model, "--epochs", "1"],
        ["predict", str(folder / "viral.fa"), "--checkpoint", model, "--out", str(folder / "calls"), *KMER[-2:]],
    ):
        assert call(words)[0] == 0, call(words)
    names = {"hidden": "hidden_layer", "norm": "bn1", "output": "output_layer"}
    weights = {".".join([names[(parts := name.split("."))[0]], parts[1]]): one for name, one in
               MLPClassifier(768 + 2560).state_dict().items()}  # fmt: skip
    torch.save(weights, folder / "old.pth")
    write_set(folder / "set")
    return folder


def place(made: Path, out: Path, name: str) -> list[list[str]]:
    """The two commands, and what they need in their folder."""
    out.mkdir()
    if name == "reduce":
        assert call(["extract", str(made / "sheet.csv"), "--out", str(out), *KMER])[0] == 0
    words, *both = PAIRS[name]
    return [[word.format(**{"in": made, "out": out}) for word in (*words, *more)] for more in both]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in SAME and not {"shards", "models"} & set(path.parts)
    }


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_two_at_once(made: Path, tmp_path: Path, name: str, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first is about to give its first file a name, the second does all of its work."""
    if not locks and name not in ("extract", "reduce", "export pt", "predict --from"):
        pytest.skip("one lock for all: some commands are enough without it")
    first, second = place(made, tmp_path / "out", name)
    ended: list[tuple[int, str]] = []
    sync = durable.sync_file

    def come_between(path: Path) -> None:
        if not ended and durable.final_path(path).suffix not in LOCKS:
            ended.append((-1, ""))
            ended.append(call(second))
        sync(path)

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as between:
        between.setattr(durable, "sync_file", come_between)
        if not locks:
            between.setattr("fcntl.flock", refuse)
        outcomes = [call(first), *ended[1:]]
    assert sorted(code for code, _ in outcomes) == [0, 2], outcomes
    refused = next(said for code, said in outcomes if code == 2)
    assert "at work" in refused or "is there" in refused, refused
    assert not list((tmp_path / "out").rglob(".*")), "neither a lock nor a temporary file is left"

    alone = place(made, tmp_path / "alone", name)[[code for code, _ in outcomes].index(0)]
    assert call(alone)[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
