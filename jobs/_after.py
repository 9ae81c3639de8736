"""What a pipeline does behind the merging, where inputs are labelled: train, then measure on what was held out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._command import Command

if TYPE_CHECKING:
    from jobs._profile import Profile
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
    """Train on a merged run and measure the classifier, in this process; what is there already is kept."""
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
    from jobs._chain import submit_behind

    training = submit_behind(root, "train", train_task, profile.gpu, merging)
    submit_behind(root, "benchmark", measure_task, profile.cpu, training)


def _results(root: Path) -> Path:
    return root / "accuracy"


def _train(root: Path) -> None:
    from jobs.train import main

    if model_path(root).exists():
        click.echo(f"{model_path(root)} is there already")
    else:
        _call(main, [str(root), "--out", str(model_path(root))])


def _measure(root: Path) -> None:
    from jobs.benchmark import main

    if (_results(root) / "accuracy.json").exists():
        click.echo(f"{_results(root)} is there already")
    else:
        accuracy = main.commands["accuracy"]
        assert isinstance(accuracy, Command)
        _call(accuracy, [f"{root}@{model_path(root)}", "--out", str(_results(root))])


def _call(command: click.Command, words: list[str]) -> None:
    """Run another command with its own options and messages; ends the process as that one would."""
    code = command.main(args=words, standalone_mode=False)
    if code:
        sys.exit(code)
