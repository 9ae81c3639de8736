"""The body of ``benchmark accuracy``: reads what was typed, runs the contest, writes and shows the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli.progress import Progress
from vnp.errors import InputError, RunExistsError, UsageError

if TYPE_CHECKING:
    from vnp.comparison.contestants import CompareOptions, Contestant


def run_accuracy(
    words: Sequence[str],
    folder: Path,
    *,
    checkpoint: Path | None,
    groups: Path | None,
    organisms: Path | None,
    force: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compare contestants and write the results.

    Args:
        words: contestants as they were typed.
        folder: for the results.
        checkpoint: scores the contestants that name none.
        groups: file of the groups that a split must not cut.
        organisms: file of the groups of organisms.
        force: write over results that are there.
        as_json: print the JSON instead of tables.
        asked: the rules.

    Raises:
        VnpError: see ``contest`` and ``claimed``.
    """
    from vnp.comparison.contest import contest
    from vnp.comparison.contestants import claimed, require_new
    from vnp.comparison.results import summary, write_results

    if not force:
        require_new(folder)
    rules = _rules(organisms, asked)
    contestants = _contestants(words, checkpoint, groups)
    with claimed(folder, contestants, rules, force=force):
        results = contest(contestants, rules, folder, Progress)
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


def run_reads(
    inputs: Sequence[Path], folder: Path, *, groups: Path | None, split: Path | None, force: bool, **asked: int
) -> None:
    """Cut reads from inputs and say what comes next.

    Args:
        inputs: as they were typed.
        folder: for the reads.
        groups: file of the groups that a split must not cut.
        split: file that says which groups are held out; None cuts from all.
        force: write over reads that are there.
        asked: length, most and seed.

    Raises:
        VnpError: see ``cut_reads``.
    """
    from vnp.comparison.reads import cut_reads
    from vnp.features.split import read_groups
    from vnp.sequences.samplesheet import read_inputs

    if (folder / "samplesheet.csv").exists() and not force:
        raise RunExistsError(f"{folder} holds reads; --force writes over them")
    only = None
    if split is not None:
        from vnp.classifier.split import read_split
        from vnp.features.split import TEST

        key, stored = read_split(split)
        if key != "group":
            raise UsageError(f"{split} deals out single rows; reads are cut from whole groups that were held out")
        only = {name for name, part in stored.items() if part == TEST}
    group_of = None if groups is None else read_groups(groups)
    entries = read_inputs(inputs)
    datasets = [str(entry.path) for entry in entries if entry.dataset is not None]
    if datasets:
        raise UsageError(
            f"{', '.join(datasets)}: a dataset holds chunks already. Make one with --lengths {asked['length']} from "
            "the same sheet and seed, and compare on its test part"
        )
    folder.mkdir(parents=True, exist_ok=True)
    cut = cut_reads(entries, folder, groups=group_of, only=only, **asked)
    click.echo(f"cut {cut.reads:,} reads from {cut.records:,} records: {cut.sheet}")
    click.echo(f"next: python -m jobs.extract {cut.sheet} --out RUN, with the --chunk and encoders of the checkpoint")


def _rules(organisms: Path | None, asked: dict[str, Any]) -> CompareOptions:
    from vnp.classifier.checkpoint import choose_device
    from vnp.classifier.recipe import RECIPES
    from vnp.comparison.contestants import CompareOptions
    from vnp.features.split import read_groups

    split = asked["split"]
    if split not in ("auto", "group", "random"):
        split = Path(split)
        if not split.is_file():
            raise InputError("is neither auto, group nor random nor a file that says who is in which part", path=split)
    return CompareOptions(
        parts=tuple(dict.fromkeys(asked["parts"])),
        split=split,
        validation=asked["validation"],
        test=asked["test"],
        seed=asked["seed"],
        everything=asked["everything"],
        rule=asked["rule"],
        replicates=asked["replicates"],
        recipe=RECIPES[asked["recipe"]],
        device=choose_device(asked["device"]),
        organisms=None if organisms is None else read_groups(organisms),
    )


def _contestants(words: Sequence[str], checkpoint: Path | None, groups: Path | None) -> list[Contestant]:
    from vnp.comparison.contestants import Contestant
    from vnp.features.read import open_features
    from vnp.features.split import read_groups

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
