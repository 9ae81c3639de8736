"""Features to a classifier."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from jobs._cli import options
from jobs._cli.command import command
from vnp.classifier.recipe import RECIPES

_REFUSED = "Refuse the features if they are not of this"
_RECIPE_OPTIONS = ("batch", "rate", "epochs", "patience", "dropout", "balance")


@command("python -m jobs.train RUN --out model_fastesm650.pth")
@click.argument("features", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The checkpoint to write.")
@click.option("--layout", type=click.Choice(["1664", "full"]), help=f"{_REFUSED} layout.")
@click.option("--dna", help=f"{_REFUSED} DNA encoder.")
@click.option("--protein", help=f"{_REFUSED} protein encoder.")
@click.option("--chunk", type=int, help=f"{_REFUSED} chunk, in bases.")
@click.option(
    "--split",
    default="auto",
    help="auto is the split that came with the data, as that of a dataset, else group, which keeps the rows of a group "
    "together; random deals out single rows, as VirNucPro does, and leaks; or a file with the columns group (or id) "
    "and part.",
)
@options.groups
@click.option("--validation", type=float, default=0.1, help="Share of the groups to watch while training.")
@click.option("--test", type=float, default=0.2, help="Share of the groups to keep apart for the metrics; 0 for none.")
@click.option("--dedupe", is_flag=True, help="Keep groups of at least 95 % nucleotide identity on one side.")
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default="virnucpro",
    help="virnucpro: SGD on batches of 32; adamw: AdamW on batches of 4096, several times as fast.",
)
@click.option("--batch", type=int, help="Rows of a step.  [default: the recipe's]")
@click.option("--rate", type=float, help="Learning rate at the beginning.  [default: the recipe's]")
@click.option("--epochs", type=int, help="The most there may be.  [default: the recipe's, 200]")
@click.option("--patience", type=int, help="Epochs without a smaller validation loss.  [default: the recipe's, 5]")
@click.option("--dropout", type=float, help="Share of hidden units switched off.  [default: the recipe's, 0.5]")
@click.option(
    "--balance",
    type=click.Choice(["none", "weights", "sampling"]),
    default="none",
    help="Let both classes count alike: weigh their losses, or draw their rows as often.",
)
@click.option(
    "--calibration",
    type=click.Choice(["auto", "none", "temperature", "isotonic"]),
    default="auto",
    help="auto keeps the one with the smaller validation log-loss.",
)
@click.option("--threshold", type=float, default=0.5, help="Probability from which on a row is called viral.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    help="Of the split, the weights, the order of rows and dropout.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option(
    "--memory",
    type=click.Choice(["auto", "resident", "stream"]),
    default="auto",
    help="Keep all rows in the device's memory, or read them from the disk every epoch; auto does what fits.",
)
@click.option("--resume/--no-resume", default=True, help="Go on from a killed training, if it was this very one.")
@click.option("--tensorboard", is_flag=True, help="Write the curves for TensorBoard too.")
@options.force
@options.as_json
def main(
    features: Path,
    out: Path,
    layout: str | None,
    dna: str | None,
    protein: str | None,
    chunk: int | None,
    groups: Path | None,
    device: str,
    resume: bool,
    tensorboard: bool,
    force: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Train a classifier on FEATURES, a run or its features.h5, and write it with its split, log, metrics and plots.

    Rows need labels. The default is VirNucPro's recipe, so that encoders are compared fairly.
    """
    # cuBLAS gives the same bytes every time only if it is told so before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from jobs._cli.training import summary, watching
    from vnp.classifier.rows import RequiredFeatures
    from vnp.classifier.split import split_named
    from vnp.classifier.train import Training, train
    from vnp.encoders.device import choose_device
    from vnp.features.read import open_features
    from vnp.features.split import read_groups

    given = {name: value for name in _RECIPE_OPTIONS if (value := choices.pop(name)) is not None}
    training = Training(
        recipe=replace(RECIPES[choices.pop("recipe")], **given),
        required=RequiredFeatures(layout, dna, protein, chunk),
        split=split_named(choices.pop("split")),
        **choices,
    )
    opened = open_features(features)
    if groups is not None:
        opened = opened.regrouped(read_groups(groups))
    where = choose_device(device)
    with watching(opened, out, training, quiet=as_json, tensorboard=tensorboard) as watcher:
        trained = train(opened, out, training, where, resume=resume, force=force, watcher=watcher)
    if as_json:
        files = {
            name: str(getattr(trained.outputs, name)) for name in ("checkpoint", "split", "log", "metrics", "plots")
        }
        click.echo(
            json.dumps({**files, **trained.checkpoint.training, "metrics": trained.checkpoint.metrics}, indent=2)
        )
        return
    click.echo(summary(trained))


if __name__ == "__main__":
    main()
