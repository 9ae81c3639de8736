from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from jobs.train import main
from tests.classifier.making import both_classes, write_features
from vnp.classifier import train
from vnp.classifier.checkpoint import Checkpoint
from vnp.features.layout import make_layout
from vnp.features.read import open_features
from vnp.report.plots import write_training_plots

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ("--epochs", "2", "--rate", "0.01")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vnp.toml of the developer, no threads that wait for each other, no plots but where they are looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "write_training_plots", lambda *_: [])
    torch.set_num_threads(1)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features.h5", groups=both_classes())


def test_it_writes_the_checkpoint_and_what_belongs_to_it(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "write_training_plots", write_training_plots)
    done = run(features, "--out", tmp_path / "new/model.pth", *QUICK)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "model.pth", "model.split.tsv", "model.log.jsonl", "model.metrics.json", "model.plots",
        "model.train.html", "ro-crate-metadata.json",
    }  # fmt: skip
    opened = open_features(features)
    checkpoint = Checkpoint.load(tmp_path / "new/model.pth")
    checkpoint.require(opened.layout, opened.provenance["encoders"], opened.chunk, "the features")
    assert checkpoint.training["recipe"]["batch"] == 32
    assert checkpoint.training["epochs"] == 2
    assert checkpoint.split["kind"] == "group"
    assert checkpoint.code["vnp"]
    log = [json.loads(line) for line in (tmp_path / "new/model.log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2]
    assert all(row["validation_roc_auc"] is not None for row in log)
    metrics = json.loads((tmp_path / "new/model.metrics.json").read_text())
    assert metrics["test"]["frame"]["count"] == checkpoint.split["parts"]["test"]["rows"] == 80
    low, high = metrics["test"]["frame"]["intervals"]["roc_auc"]
    assert low <= metrics["test"]["frame"]["roc_auc"] <= high
    assert metrics["test"]["record"]["count"] == 4
    plots = {path.stem for path in (tmp_path / "new/model.plots").glob("*.svg")}
    assert plots == {
        *(f"curves_{name}" for name in ("loss", "accuracy", "f1", "roc_auc")),
        *(f"{name}_{part}" for name in ("scores", "confusion") for part in ("test", "validation")),
        "roc", "precision_recall", "reliability",
    }  # fmt: skip
    assert plots == {path.stem for path in (tmp_path / "new/model.plots").glob("*.png")}
    assert all(0 <= row["train_accuracy"] <= 1 for row in log)
    page = (tmp_path / "new/model.train.html").read_text()
    assert page.count("<svg") == len(plots)
    assert not re.search(r"<script|@import|\ssrc=|url\((?!#)|href=\"https?:", page)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(headings) == len(set(headings))
    found = metrics["test"]["record"]
    assert f"Of {found['count']} records of the test part, {found['accuracy']:.1%} are called right" in page
    assert f"<td>{checkpoint.training['best_epoch']} (best)</td>" in page
    levels = [(part, level) for part in ("validation", "test") for level in ("frame", "chunk", "record")]
    shown = [f"{metrics[part][level]['accuracy']:.3f}" for part, level in levels]
    assert ["accuracy", *shown] in [line.split() for line in done.output.splitlines()]
    table = done.output.partition("best of")[2].partition("wrote ")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "next: python -m jobs.predict" in done.output


def test_metrics_are_those_of_the_checkpoint_on_the_written_split(features: Path, tmp_path: Path) -> None:
    run(features, "--out", tmp_path / "model.pth", *QUICK)
    split = dict(line.split("\t") for line in (tmp_path / "model.split.tsv").read_text().splitlines()[1:])
    opened = open_features(features)
    rows = np.flatnonzero([split[group] == "test" for group in opened.groups()])
    probability = Checkpoint.load(tmp_path / "model.pth").scorer("cpu").probability(opened.mapped()[rows])
    accuracy = float(((probability >= 0.5) == (opened.labels()[rows] == 1)).mean())
    metrics = json.loads((tmp_path / "model.metrics.json").read_text())
    assert metrics["test"]["frame"]["accuracy"] == pytest.approx(accuracy)


def test_the_same_request_writes_the_same_bytes(features: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(features, "--out", tmp_path / f"{name}.pth", *QUICK, "--seed", "5")
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()
    run(features, "--out", tmp_path / "three.pth", *QUICK, "--seed", "6")
    assert Checkpoint.load(tmp_path / "three.pth").digest != Checkpoint.load(tmp_path / "one.pth").digest


KILLED = """
import os, signal, sys
from vnp.classifier import fit

write, written = fit.write_state, []

def write_and_die(*arguments):
    write(*arguments)
    written.append(1)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

fit.write_state = write_and_die
from jobs.train import main
main(sys.argv[1:])
"""


def test_a_killed_training_goes_on_by_itself_to_the_same_bytes(features: Path, tmp_path: Path) -> None:
    options = ("--epochs", "5", "--rate", "0.001")
    command = [sys.executable, "-c", KILLED, str(features), "--out", str(tmp_path / "model.pth"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "model.state.pth").exists()
    assert not (tmp_path / "model.pth").exists()
    done = run(features, "--out", tmp_path / "model.pth", *options)
    assert "3 epochs were done before" in done.output
    assert not (tmp_path / "model.state.pth").exists()
    run(features, "--out", tmp_path / "whole.pth", *options)
    assert (tmp_path / "model.pth").read_bytes() == (tmp_path / "whole.pth").read_bytes()


def test_what_is_there_is_kept_unless_forced(features: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_text("mine")
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert (done.exit_code, (tmp_path / "model.pth").read_text()) == (2, "mine")
    assert "--force" in done.output
    assert run(features, "--out", tmp_path / "model.pth", *QUICK, "--force").exit_code == 0
    Checkpoint.load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--protein", "esm2_3b"), ["asked for: esm2_3b (2560 numbers)", "kmer (1280 numbers)"]),
        (("--dna", "dnabert_s"), ["asked for: dnabert_s", ": kmer (768"]),
        (("--layout", "full"), ["asked for: 2048 = ", "features.h5: 1664 = "]),
        (("--chunk", "500"), ["500 bases were asked for", "has 300"]),
    ],
)
def test_features_that_are_not_what_was_asked_are_refused_before_the_first_step(
    tmp_path: Path, options: tuple[str, str], says: list[str]
) -> None:
    layout = make_layout("1664", dna=("kmer", 768), protein=("kmer", 1280))
    path = write_features(tmp_path / "features.h5", groups=both_classes(4, 2), layout=layout)
    done = run(path, "--out", tmp_path / "model.pth", *QUICK, *options)
    assert done.exit_code == 1
    assert all(text in done.output for text in says), done.output
    assert {path.name for path in tmp_path.iterdir()} == {"features.h5"}


def test_expectations_come_from_the_configuration_too(features: Path, tmp_path: Path) -> None:
    (tmp_path / "vnp.toml").write_text("chunk = 500\n")
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert done.exit_code == 1
    assert "500 bases were asked for" in done.output


def change(path: Path, column: str, rows: Any, value: Any) -> None:
    """Change features that have no checksums, as those of earlier versions."""
    with h5py.File(path, "r+") as file:
        file[column][rows] = value
        file.attrs.pop("content", None)
        file.pop("checksums", None)


@pytest.mark.parametrize(
    ("column", "rows", "value", "says"),
    [
        ("label", slice(None), 1, "all 400 rows are viral; a classifier needs both classes"),
        ("label", slice(3, 8), -1, "5 of 400 rows have no label"),
        ("features", (7, 3), np.nan, "virus_0_chunk_4F2 holds NaN or infinity"),
        ("features", (399, 0), -np.inf, "host_9_chunk_10F2 holds NaN or infinity"),
    ],
)
def test_features_that_cannot_be_trained_on(
    features: Path, tmp_path: Path, column: str, rows: Any, value: Any, says: str
) -> None:
    change(features, column, rows, value)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert done.exit_code == 1
    assert says in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"features.h5"}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (
            {"v1": [1] * 9, "v2": [1] * 9, "h1": [0] * 9, "h2": [0] * 9, "h3": [0]},
            "the class viral: 2, too few",
        ),
        ({"both": [0, 1] * 20}, "groups of the class"),
        ({}, "has no rows"),
    ],
)
def test_too_few_groups_or_rows(tmp_path: Path, groups: dict[str, list[int]], says: str) -> None:
    path = write_features(tmp_path / "few.h5", groups=groups)
    done = run(path, "--out", tmp_path / "model.pth", *QUICK)
    assert done.exit_code == 1
    assert says in done.output


def test_a_random_split_warns_that_it_leaks(features: Path, tmp_path: Path) -> None:
    done = run(features, "--out", tmp_path / "model.pth", *QUICK, "--split", "random")
    assert done.exit_code == 0
    assert "a random split leaks" in done.stderr
    assert Checkpoint.load(tmp_path / "model.pth").split["kind"] == "random"
    assert (tmp_path / "model.split.tsv").read_text().startswith("id\tpart\n")


def table(path: Path, column: str, values: dict[str, str]) -> Path:
    path.write_text(f"record\t{column}\n" + "".join(f"{name}\t{value}\n" for name, value in values.items()))
    return path


def test_units_are_kept_together_and_doubts_are_said(features: Path, tmp_path: Path) -> None:
    names = list(both_classes())
    plain = run(features, "--out", tmp_path / "plain.pth", *QUICK)
    assert f"warning: each of the {len(names)} groups is a single record" in " ".join(plain.stderr.split())
    families = {name: f"{name[0]}{number // 2}" for number, name in enumerate(names)}
    units = table(tmp_path / "units.tsv", "family", families)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK, "--groups", units, "--units", "family")
    assert done.exit_code == 0, done.output
    assert "single record" not in done.stderr
    parts = dict(line.split("\t") for line in (tmp_path / "model.split.tsv").read_text().splitlines()[1:])
    assert set(parts) == set(families.values())
    assert "groups are viral: what is measured on the few" in done.stderr
    refused = run(features, "--out", tmp_path / "other.pth", "--units", "family")
    assert (refused.exit_code, "is not of a dataset" in refused.output) == (2, True)


def test_organism_groups_are_balanced(features: Path, tmp_path: Path) -> None:
    organisms = {name: "viral" if name[0] == "v" else f"h{number % 3}" for number, name in enumerate(both_classes())}
    path = table(tmp_path / "organisms.tsv", "organism", organisms)
    given = (features, *QUICK, "--balance", "group", "--organisms", path)
    done = run(*given, "--out", tmp_path / "model.pth")
    assert done.exit_code == 0, done.output
    assert Checkpoint.load(tmp_path / "model.pth").training["recipe"]["balance"] == "group"
    assert run(features, "--out", tmp_path / "b.pth", "--balance", "group").exit_code == 2


def test_a_validation_far_above_the_test_is_said(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train._measure
    drop = iter((0.0, 0.2))

    def worse(*arguments: Any) -> Any:
        found, less = real(*arguments), next(drop)
        return {**found, "record": {**found["record"], "roc_auc": 0.9 - less}}

    monkeypatch.setattr(train, "_measure", worse)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert "warning: roc_auc of records is 0.90 in validation and 0.70 in test" in done.stderr


def test_a_given_split_is_used(features: Path, tmp_path: Path) -> None:
    run(features, "--out", tmp_path / "one.pth", *QUICK)
    done = run(features, "--out", tmp_path / "two.pth", *QUICK, "--split", tmp_path / "one.split.tsv")
    assert done.exit_code == 0
    one, two = (Checkpoint.load(tmp_path / f"{name}.pth") for name in ("one", "two"))
    assert (two.split["kind"], two.split["sha256"]) == ("file", one.split["sha256"])
    assert two.digest == one.digest
    assert run(features, "--out", tmp_path / "three.pth", "--split", "nowhere.tsv").exit_code == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said(features: Path, tmp_path: Path) -> None:
    done = run(features, "--out", tmp_path / "model.pth", "--device", "cuda")
    assert (done.exit_code, "torch sees no GPU here" in done.output) == (1, True)


@pytest.mark.parametrize(
    "options",
    [
        ("--test", "0.95"),
        ("--validation", "0"),
        ("--threshold", "1.2"),
        ("--batch", "1"),
        ("--epochs", "0"),
        ("--rate", "-1"),
        ("--dedupe", "--split", "random"),
    ],
)
def test_options_out_of_range_are_wrong_use(features: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(features, "--out", tmp_path / "model.pth", *options)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "-1"),
        ("--seed", str(2**63)),
        *((name, str(number)) for name in ("--batch", "--epochs", "--patience") for number in (10**10, 10**20)),
    ],
)
def test_numbers_that_nothing_can_hold_are_wrong_use(features: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(features, "--out", tmp_path / "model.pth", *options)
    assert done.exit_code == 2, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"features.h5"}


def test_the_largest_seed_can_be_trained_with(features: Path, tmp_path: Path) -> None:
    done = run(features, "--out", tmp_path / "model.pth", *QUICK, "--seed", str(2**63 - 1))
    assert done.exit_code == 0, done.output


def test_rows_without_label_are_named_by_their_records(features: Path, tmp_path: Path) -> None:
    """Also where the table of records has a label for them."""
    change(features, "label", slice(38, 42), -1)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert "4 of 400 rows have no label, those of virus_1, virus_2. Training" in done.output
    change(features, "label", slice(None), -1)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert "those of virus_0, virus_1, virus_2 and 17 more records. Training" in done.output


def test_json_has_the_files_and_the_metrics(features: Path, tmp_path: Path) -> None:
    done = run(features, "--out", tmp_path / "model.pth", *QUICK, "--json", "--test", "0")
    found = json.loads(done.stdout)
    assert found["checkpoint"] == str(tmp_path / "model.pth")
    assert set(found["metrics"]) == {"validation"}


def test_curves_for_tensorboard(features: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    done = run(features, "--out", tmp_path / "model.pth", *QUICK, "--tensorboard")
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "model.tensorboard").glob("events.*"))
    before = sorted((tmp_path / "model.tensorboard").iterdir())
    assert run(features, "--out", tmp_path / "model.pth", *QUICK, "--tensorboard").exit_code == 2
    assert sorted((tmp_path / "model.tensorboard").iterdir()) == before, "a training that is refused adds no curves"


def test_a_damaged_or_missing_file_is_said(features: Path, tmp_path: Path) -> None:
    features.write_bytes(features.read_bytes()[:3000])
    done = run(features, "--out", tmp_path / "model.pth")
    assert done.exit_code == 1
    assert "probably damaged" in done.output
    assert run(tmp_path / "none.h5", "--out", tmp_path / "model.pth").exit_code == 1


def test_a_full_disk_is_said(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(self: Path, _data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    assert done.exit_code == 1
    assert "no space left on the disk" in done.output
    assert not (tmp_path / "model.pth").exists()


def test_training_speed_is_measured(tmp_path: Path) -> None:
    from benchmarks.__main__ import main as benchmarks

    arguments = ["train", "--device", "cpu", "--rows", "300", "--width", "16", "--batch", "64", "--loop-rows", "64"]
    arguments += ["--loop-workers", "0", "--json", "--out", str(tmp_path / "speed.json")]
    done = CliRunner().invoke(benchmarks, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "speed.json").read_text())
    assert [timing["batch"] for timing in found["timings"]] == [32, 64]
    assert all(timing["rows_per_second"] > 0 for timing in found["timings"])
    assert found["loss_difference"] is None


def test_a_long_epoch_says_how_far_it_is(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs._cli.progress.LOG_SECONDS", 0)
    done = run(features, "--out", tmp_path / "model.pth", *QUICK)
    lines = [line for line in done.stderr.splitlines() if line.startswith("training: ")]
    total = json.loads((tmp_path / "model.metrics.json").read_text())["split"]["parts"]["train"]["rows"]
    for epoch in (1, 2):
        assert any(line.startswith(f"training: {total:,} of {total:,} rows, epoch {epoch} after ") for line in lines)
