"""Features to a classifier."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.progress import Progress, duration
from vnp.classifier.recipe import DEFAULT_RECIPE, RECIPES
from vnp.encoders.spec import registered
from vnp.files.extras import require_extra
from vnp.files.machine import require_room

if TYPE_CHECKING:
    from vnp.classifier.train import Trained, Training, Watcher
    from vnp.features.read import Features

_REFUSED = "Refuse the features if they are not of this"
_HEADER = f"{'epoch':>5}  {'train loss':>10}  {'val. loss':>10}  {'accuracy':>8}  {'F1':>6}  {'AUC':>6}  {'time':>9}"
_RECIPE_OPTIONS = ("batch", "rate", "epochs", "patience", "dropout", "balance")


@command("python -m jobs.train RUN --out model_fastesm650.pth")
@click.argument("features", type=options.PATH)
@click.option("--out", type=options.FILE, required=True, help="The checkpoint to write.")
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
@options.units
@click.option("--validation", type=float, default=0.1, help="Share of the groups to watch while training.")
@click.option("--test", type=float, default=0.2, help="Share of the groups to keep apart for the metrics; 0 for none.")
@click.option("--dedupe", is_flag=True, help="Keep groups of at least 95 % nucleotide identity on one side.")
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default=DEFAULT_RECIPE,
    help="virnucpro: SGD on batches of 32; adamw: AdamW on batches of 4096, several times as fast.",
)
@click.option("--batch", type=int, help="Rows of a step.  [default: the recipe's]")
@click.option("--rate", type=float, help="Learning rate at the beginning.  [default: the recipe's]")
@click.option("--epochs", type=int, help="The most there may be.  [default: the recipe's, 200]")
@click.option("--patience", type=int, help="Epochs without a smaller validation loss.  [default: the recipe's, 5]")
@click.option("--dropout", type=float, help="Share of hidden units switched off.  [default: the recipe's, 0.5]")
@click.option(
    "--balance",
    type=click.Choice(["none", "label", "sampling", "group"]),
    default="none",
    help="label lets both classes count alike, by weights of their losses, sampling by drawing their rows as often; "
    "group draws as often from each organism group of a class too.",
)
@options.organisms("the column organism_group of the dataset that the run was extracted from")
@click.option(
    "--calibration",
    type=click.Choice(["auto", "none", "temperature", "isotonic"]),
    default="auto",
    help="auto keeps the one with the smaller validation log-loss.",
)
@click.option("--threshold", type=float, default=0.5, help="Probability from which on a row is called viral.")
@click.option(
    "--cascade", is_flag=True, help="Measure on the held-out records what predict --cascade native may leave to native."
)
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
@options.disk
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
    units: str | None,
    organisms: Path | None,
    cascade: bool,
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
    from vnp.classifier.rows import RequiredFeatures
    from vnp.classifier.split import split_named
    from vnp.classifier.train import Training, train
    from vnp.encoders.device import choose_device
    from vnp.features.columns import in_units_of, organisms_of
    from vnp.features.read import open_features
    from vnp.features.split import read_groups

    given = {name: value for name in _RECIPE_OPTIONS if (value := choices.pop(name)) is not None}
    opened = open_features(features)
    if units is not None:
        opened = in_units_of(opened, units, groups)
        # The split that came with the data keeps together something else.
        choices["split"] = "group" if choices["split"] == "auto" else choices["split"]
    elif groups is not None:
        opened = opened.regrouped(read_groups(groups))
    groups_of = None
    if given.get("balance") == "group":
        groups_of = organisms_of(opened, None if organisms is None else read_groups(organisms))
    training = Training(
        recipe=replace(RECIPES[choices.pop("recipe")], **given),
        required=RequiredFeatures(layout, dna, protein, chunk),
        split=split_named(choices.pop("split")),
        organisms=groups_of,
        **choices,
    )
    where = choose_device(device)
    with _watching(opened, out, training, quiet=as_json, tensorboard=tensorboard) as watcher:
        other = None
        if cascade:
            from vnp.native.classifier import other_of

            other = other_of(device)
        trained = train(opened, out, training, where, resume=resume, force=force, watcher=watcher, other=other)
    if as_json:
        files = {
            name: str(getattr(trained.outputs, name))
            for name in ("checkpoint", "split", "log", "metrics", "page", "plots")
        }
        echo(json.dumps({**files, **trained.checkpoint.training, "metrics": trained.checkpoint.metrics}, indent=2))
        return
    echo(_summary(trained))


@contextlib.contextmanager
def _watching(
    features: Features, out: Path, training: Training, *, quiet: bool, tensorboard: bool
) -> Iterator[Watcher]:
    """What follows a training: progress while rows are read, then a line for each epoch."""
    from vnp.classifier.model import HIDDEN
    from vnp.classifier.train import Watcher

    if training.split == "random":
        echo(
            "warning: a random split leaks: rows of one genome stand on both sides, so its metrics are too good. "
            "It is there to reproduce VirNucPro's numbers only",
            err=True,
        )
    if training.split != "auto" and not quiet and (features.splits() >= 0).any():
        echo(f"note: the data brings a split of its own, which --split {training.split} overrides")
    with contextlib.ExitStack() as opened:
        if tensorboard:
            require_extra("tensorboard", "--tensorboard")
        board: Any = None
        reading = opened.enter_context(contextlib.ExitStack())
        bars: dict[str, Progress] = {}
        shown = 0

        def advance(what: str, total: int | None, unit: str, amount: int) -> None:
            if what not in bars:
                bars[what] = reading.enter_context(Progress(what, total, unit))
            bars[what].advance(amount)

        def dealt(summary: Mapping[str, Any]) -> None:
            reading.close()
            if not quiet:
                echo(_split_text(summary))
            # The state has weights, momenta and the best weights; a new one and the old one are there at once.
            echo(require_room(out.parent, features.layout.width * HIDDEN * 4 * 8), err=True)

        def epoch(history: list[dict[str, Any]]) -> None:
            nonlocal shown, board
            reading.close()
            bars.clear()
            if board is None and tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                board = SummaryWriter(str(out.with_name(f"{out.stem}.tensorboard")))
                opened.callback(board.close)
            for row in history[shown:]:
                if not quiet:
                    echo(_epoch_text(row) if row["epoch"] > 1 else f"{_HEADER}\n{_epoch_text(row)}")
                if board is not None:
                    _add(board, row)
            shown = len(history)

        def inside(number: int, total: int, rows: int) -> None:
            if "training" not in bars:
                bars["training"] = reading.enter_context(Progress("training", total, "rows", lasting=False))
            bars["training"].to(rows, f", epoch {number}")

        yield Watcher(
            reading=lambda rows: advance("reading", features.rows, "rows", rows),
            comparing=lambda groups: advance("comparing", None, "groups", groups),
            dealt=dealt,
            warn=lambda text: echo(f"warning: {text}", err=True),
            epoch=epoch,
            inside=inside,
        )


def _summary(trained: Trained) -> str:
    """What a finished training says: metrics, files, and what comes next."""
    fitted, outputs = trained.fitted, trained.outputs
    why = "the validation loss no longer fell" if fitted.stopped_early else "that is the most there may be"
    lines = [f"best of {len(fitted.history)} epochs: {fitted.best_epoch} ({why})"]
    if fitted.resumed_after:
        lines.append(f"{fitted.resumed_after} epochs were done before, by a process that was stopped")
    calibration = trained.checkpoint.calibration
    losses = ", ".join(f"{kind} {loss:.4f}" for kind, loss in calibration.log_loss)
    lines.append(f"calibration: {calibration.kind}" + (f" (held-out log-loss: {losses})" if losses else ""))
    lines += _metric_lines(trained.checkpoint.metrics)
    lines.append(f"wrote {outputs.checkpoint}, and beside it {outputs.split.name}, {outputs.log.name}, "
                 f"{outputs.metrics.name}, {outputs.page.name} and {outputs.plots.name}/")  # fmt: skip
    own = [part for part in trained.checkpoint.layout.parts if not registered(part.encoder)]
    folders = "".join(f" --{part.name} FOLDER" for part in own)
    lines.append(f"next: python -m jobs.predict INPUT --checkpoint {quote(str(outputs.checkpoint))}{folders} --out DIR")
    return "\n".join(lines)


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    # Here, because help need not wait for it.
    from vnp.metrics.metrics import METRICS

    shown = [(part, level) for part, levels in metrics.items() for level in levels]
    for names in zip(*shown, strict=True):
        yield f"{'':<9}" + "".join(f"{name:>11}" for name in names)
    for metric in METRICS:
        values = (metrics[part][level][metric.name] for part, level in shown)
        yield f"{metric.title:<9}" + "".join(f"{_number(value):>11}" for value in values)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _split_text(summary: Mapping[str, Any]) -> str:
    parts = "".join(
        f"\n  {name}: {part['rows']:,} rows ({part['viral']:,} viral) of {part['groups']:,} groups"
        for name, part in summary["parts"].items()
        if part["rows"]
    )
    joined = f"\n  {summary['joined']:,} groups joined others of 95 % identity" if summary["joined"] else ""
    kind = "the split of the dataset" if summary["kind"] == "dataset" else f"split by {summary['kind']}"
    return f"{kind}:{parts}{joined}"


def _epoch_text(row: Mapping[str, Any]) -> str:
    numbers = "  ".join(f"{row[name]:>10.4f}" for name in ("train_loss", "validation_loss"))
    watched = (row["validation_accuracy"], row["validation_f1"], row["validation_roc_auc"])
    accuracy, f1, auc = map(_number, watched)
    return f"{row['epoch']:>5}  {numbers}  {accuracy:>8}  {f1:>6}  {auc:>6}  {duration(row['seconds']):>9}"


def _add(board: Any, row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        part, _, metric = name.partition("_")
        if value is not None and name not in ("epoch", "seconds"):
            board.add_scalar(f"{metric}/{part}" if metric else name, value, row["epoch"])


if __name__ == "__main__":
    main()
