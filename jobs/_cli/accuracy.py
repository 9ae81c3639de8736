"""The body of ``benchmark accuracy``: reads what was typed, runs the contest, writes and shows the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from jobs._cli.progress import Progress
from vnp.classifier.recipe import RECIPES
from vnp.classifier.split import split_named
from vnp.comparison.contest import contest
from vnp.comparison.contestants import CompareOptions, Contestant, claimed, require_new
from vnp.comparison.results import summary, write_results
from vnp.encoders.device import choose_device
from vnp.errors import InputError, UsageError
from vnp.features.read import open_features
from vnp.features.split import read_groups


def run_accuracy(
    words: Sequence[str],
    folder: Path,
    *,
    checkpoint: Path | None,
    groups: Path | None,
    force: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Compare contestants and write the results.

    Args:
        words: contestants as they were typed.
        folder: for the results.
        checkpoint: scores the contestants that name none.
        groups: file of the groups that a split must not cut.
        force: write over results that are there.
        as_json: print the JSON instead of tables.
        choices: ``CompareOptions`` as they were typed.

    Raises:
        VnpError: see ``contest`` and ``claimed``.
    """
    if not force:
        require_new(folder)
    organisms = choices.pop("organisms")
    options = CompareOptions(
        parts=tuple(dict.fromkeys(choices.pop("parts"))),
        split=split_named(choices.pop("split")),
        recipe=RECIPES[choices.pop("recipe")],
        device=choose_device(choices.pop("device")),
        organisms=None if organisms is None else read_groups(organisms),
        **choices,
    )
    contestants = _contestants(words, checkpoint, groups)
    with claimed(folder, contestants, options, force=force):
        results = contest(contestants, options, folder, Progress)
        paths = write_results(results, folder)
    if as_json:
        click.echo(json.dumps(results.to_json(), indent=2))
        return
    click.echo(summary(results))
    for note in results.notes:
        click.echo(f"note: {note}")
    if len(results.compared[0].measured) > 1:
        click.echo(f"calls differ on {len(results.disagreements):,} of {results.records:,} records: {paths[3]}")
    click.echo(f"wrote {', '.join(path.name for path in paths)} in {folder}")
    click.echo(f"look at: {paths[2]}")


def _contestants(words: Sequence[str], checkpoint: Path | None, groups: Path | None) -> list[Contestant]:
    group_of = None if groups is None else read_groups(groups)
    found = []
    for word in words:
        name, path, own = _parse(word)
        features = open_features(path)
        if group_of is not None:
            features = features.regrouped(group_of)
        model = own or checkpoint
        if model is not None and not model.is_file():
            raise InputError("there is no such checkpoint", path=model)
        found.append(Contestant(name or _name(features.path, own), features, model))
    return found


def _parse(word: str) -> tuple[str | None, Path, Path | None]:
    """``[NAME=]FEATURES[@MODEL]``; a path that exists is never taken apart."""
    if Path(word).exists():
        return None, Path(word), None
    name, equals, rest = word.partition("=")
    if not equals or not name:
        name, rest = "", word
    if Path(rest).exists():
        return name or None, Path(rest), None
    features, at, model = rest.rpartition("@")
    if at and not model:
        raise UsageError(f"{word} ends in @: a checkpoint goes behind it")
    return (name or None, Path(features), Path(model)) if at else (name or None, Path(rest), None)


def _name(path: Path, own: Path | None) -> str:
    """A run is called by its folder, and a checkpoint by its file."""
    if own is not None:
        return own.stem
    return path.resolve().parent.name if path.name == "features.h5" else path.stem
