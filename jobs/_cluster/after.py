"""What a pipeline does behind the merging, where inputs are labelled: train, then measure on what was held out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._cli.command import Command

if TYPE_CHECKING:
    from jobs._cluster.profile import Profile
    from vnp.runs.request import PlannedInput
    from vnp.sequences.samplesheet import InputFile

_BOTH = {0, 1}


def can_train(inputs: Iterable[InputFile | PlannedInput]) -> bool:
    """Whether there are viral and host inputs, so that a classifier can be trained; a dataset has both."""
    return {label for entry in inputs for label in ((entry.label,) if entry.dataset is None else _BOTH)} >= _BOTH


def model_path(root: Path) -> Path:
    """Where a pipeline writes its classifier."""
    return root / "model" / "model.pth"


def train_and_measure(root: Path) -> None:
    """Train on a merged run and measure the classifier, in this process.

    What was made from these features already is kept; what was made from others is written anew.
    """
    _train(root)
    _measure(root)


def train_task(request: str) -> str:
    """Train on a merged run; the task of a job."""
    root = Path(request).parent
    _train(root)
    return str(model_path(root))


def measure_task(request: str) -> str:
    """Measure the classifier of a run on what was held out; the task of a job."""
    root = Path(request).parent
    _measure(root)
    return str(_results(root))


def submit_after(root: Path, profile: Profile, merging: str) -> None:
    """Submit training and measuring behind the merging; neither ever starts if what is before it fails."""
    from jobs._cluster.chain import submit_behind

    training = submit_behind(root, "train", train_task, profile.gpu, merging)
    submit_behind(root, "benchmark", measure_task, profile.cpu, training)


def _results(root: Path) -> Path:
    return root / "accuracy"


def _train(root: Path) -> None:
    from jobs.train import main

    path = model_path(root)
    if path.exists():
        if _trained_here(path, root):
            click.echo(f"{path} is there already")
            return
        click.echo(f"{path} was trained on other features than are in {root} now: training anew")
    # A training of these features that was killed goes on all the same; one of other features makes way.
    _call(main, [str(root), "--out", str(path), "--force"])


def _trained_here(path: Path, root: Path) -> bool:
    from vnp.classifier.checkpoint import Checkpoint
    from vnp.classifier.rows import data_digest, labels_of
    from vnp.features.read import open_features

    features = open_features(root)
    return bool(Checkpoint.load(path).training.get("data") == data_digest(features, labels_of(features)))


def _measure(root: Path) -> None:
    from jobs.benchmark import main

    folder, path = _results(root), model_path(root)
    words = [f"{root}@{path}", "--out", str(folder)]
    if folder.exists():
        if _measured(folder / "accuracy.json", path):
            click.echo(f"{folder} is there already")
            return
        words.append("--force")
    accuracy = main.commands["accuracy"]
    assert isinstance(accuracy, Command)
    _call(accuracy, words)


def _measured(table: Path, path: Path) -> bool:
    """Whether a table of results is that of this classifier, and whole."""
    from vnp.classifier.checkpoint import Checkpoint
    from vnp.comparison.folder import UNFINISHED

    if (table.parent / UNFINISHED).exists():
        return False
    try:
        found = json.loads(table.read_text())
        measured = [one["training"] for one in found["contestants"]]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    return bool(measured == [json.loads(json.dumps(Checkpoint.load(path).training))])


def _call(command: click.Command, words: list[str]) -> None:
    """Run another command with its own options and messages; ends the process as that one would."""
    code = command.main(args=words, standalone_mode=False)
    if code:
        sys.exit(code)
