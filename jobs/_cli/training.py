"""What a training shows while it goes on, and at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from jobs._cli.progress import Progress, duration
from vnp.classifier.train import Trained, Training, Watcher
from vnp.errors import UsageError
from vnp.features.read import Features

_HEADER = f"{'epoch':>5}  {'train loss':>10}  {'val. loss':>10}  {'accuracy':>8}  {'F1':>6}  {'AUC':>6}  {'time':>9}"
_SHOWN = ("accuracy", "precision", "recall", "f1", "mcc", "roc_auc", "brier", "ece")


@contextlib.contextmanager
def watching(features: Features, out: Path, training: Training, *, quiet: bool, tensorboard: bool) -> Iterator[Watcher]:
    """Make what follows a training: progress while rows are read, then a line for each epoch.

    Raises:
        UsageError: TensorBoard is wanted and not installed.
    """
    if training.split == "random":
        click.echo(
            "warning: a random split leaks: rows of one genome stand on both sides, so its metrics are too good. "
            "It is there to reproduce VirNucPro's numbers only",
            err=True,
        )
    if training.split != "auto" and not quiet and (features.splits() >= 0).any():
        click.echo(f"note: the data brings a split of its own, which --split {training.split} overrides")
    with contextlib.ExitStack() as opened:
        make_board = _board_maker() if tensorboard else None
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
                click.echo(_split_text(summary))

        def epoch(history: list[dict[str, Any]]) -> None:
            nonlocal shown, board
            reading.close()
            if board is None and make_board is not None:
                board = make_board(str(out.with_name(f"{out.stem}.tensorboard")))
                opened.callback(board.close)
            for row in history[shown:]:
                if not quiet:
                    click.echo(_epoch_text(row) if row["epoch"] > 1 else f"{_HEADER}\n{_epoch_text(row)}")
                if board is not None:
                    _add(board, row)
            shown = len(history)

        yield Watcher(
            reading=lambda rows: advance("reading", features.rows, "rows", rows),
            comparing=lambda groups: advance("comparing", None, "groups", groups),
            dealt=dealt,
            epoch=epoch,
        )


def summary(trained: Trained) -> str:
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
                 f"{outputs.metrics.name} and {outputs.plots.name}/")  # fmt: skip
    lines.append(f"next: python -m jobs.predict INPUT --checkpoint {outputs.checkpoint} --out DIR")
    return "\n".join(lines)


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'':<18}" + "".join(f"{name:>10}" for name in _SHOWN)
    for part, levels in metrics.items():
        for level, values in levels.items():
            yield f"{part + ' ' + level:<18}" + "".join(f"{_number(values[name]):>10}" for name in _SHOWN)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _split_text(summary: Mapping[str, Any]) -> str:
    parts = ", ".join(
        f"{name} {part['rows']:,} rows ({part['viral']:,} viral) of {part['groups']:,} groups"
        for name, part in summary["parts"].items()
        if part["rows"]
    )
    joined = f"; {summary['joined']:,} groups joined others of 95 % identity" if summary["joined"] else ""
    kind = "the split of the dataset" if summary["kind"] == "dataset" else f"split by {summary['kind']}"
    return f"{kind}: {parts}{joined}"


def _epoch_text(row: Mapping[str, Any]) -> str:
    numbers = "  ".join(f"{row[name]:>10.4f}" for name in ("train_loss", "validation_loss"))
    watched = (row["validation_accuracy"], row["validation_f1"], row["validation_roc_auc"])
    accuracy, f1, auc = map(_number, watched)
    return f"{row['epoch']:>5}  {numbers}  {accuracy:>8}  {f1:>6}  {auc:>6}  {duration(row['seconds']):>9}"


def _board_maker() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs TensorBoard: pip install 'vnp[tensorboard]'") from error
    return SummaryWriter


def _add(board: Any, row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        part, _, metric = name.partition("_")
        if value is not None and name not in ("epoch", "seconds"):
            board.add_scalar(f"{metric}/{part}" if metric else name, value, row["epoch"])
