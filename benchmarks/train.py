"""Times training against a loop over single rows, on made-up features, and checks that CUDA graphs change no result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import MOST
from benchmarks._commands import command, duration, options
from vnp.classifier.fit import Stepper, epoch_order, fit
from vnp.classifier.model import MLPClassifier
from vnp.classifier.recipe import ADAMW, VIRNUCPRO, Recipe
from vnp.classifier.rows import RowStore
from vnp.classifier.split import Split
from vnp.encoders.device import choose_device
from vnp.errors import FeatureError, RunExistsError, storage_error
from vnp.files.records import write_json

_BLOCK = 10_000
_ROWS_OF_A_FILE = 10_000
_CHECKED_ROWS = 20_000
_CHECKED_EPOCHS = 3
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Timing:
    """One way to train, timed."""

    way: str  # in words
    batch: int  # rows of a step
    seconds: float  # of an epoch over all rows
    rows_per_second: float  # through the whole of training
    step_microseconds: float  # of a batch
    # rows a second while batches are made and nothing is trained; None where that is not measured
    batches_only: float | None
    times_loop: float  # how many times as fast as the loop over single rows


@dataclass(frozen=True, slots=True)
class TrainingFigures:
    """What ``measure_training`` measured."""

    device: str  # in words
    rows: int  # of an epoch
    width: int  # numbers in a row
    timings: tuple[Timing, ...]  # of each way
    # largest relative difference between the losses of graphs and of plain steps over some epochs; None where there is
    # no GPU
    loss_difference: float | None
    weight_difference: float | None  # largest difference between their weights; 0 means the same bytes


def measure_training(
    device: torch.device,
    *,
    rows: int,
    width: int = 1664,
    batches: Sequence[int] = (4096, 32),
    loop_rows: int = 3_000,
    loop_workers: int = 12,
    seed: int = 1,
    progress: Callable[[str], None] = lambda _what: None,
) -> TrainingFigures:
    """Time one epoch of each way, after one step to warm up.

    Args:
        rows: of an epoch; a block of made-up rows is repeated.
        width: numbers in a row, stored as float16.
        batches: sizes to time; VirNucPro's recipe with each.
        loop_rows: rows of the loop over single rows that are timed; the time of an epoch is computed from them.

    Raises:
        FeatureError: graphs and plain steps give other losses.
    """
    progress(f"making {rows:,} rows of {width}")
    store = _store(rows, width, device, seed)
    progress("the loop over single rows")
    block = torch.from_numpy(_block(width, seed)[0]).float()
    classes = torch.from_numpy(_block(width, seed)[1].astype(np.int64))
    count = max(1, rows // _ROWS_OF_A_FILE)
    loop, loop_batches = loop_seconds(Files([block] * count, [classes] * count), device, loop_workers, loop_rows)
    timings = [_timing(f"loop over rows, {loop_workers} workers", VIRNUCPRO.batch, rows, loop, loop, 1 / loop_batches)]
    for batch in batches:
        for graph in (True, False) if device.type == "cuda" else (False,):
            way = "CUDA graph" if graph else "plain steps"
            progress(f"{way}, batches of {batch:,}")
            seconds, only = _epoch_seconds(store, replace(VIRNUCPRO, batch=batch), graph, device)
            timings.append(_timing(way, batch, rows, seconds / rows, loop, rows / only))
    losses = weights = None
    if device.type == "cuda":
        progress("comparing graphs with plain steps")
        losses, weights = graph_difference(width, device, seed)
        if losses > _TOLERANCE:
            raise FeatureError(f"graphs and plain steps give losses that differ by {losses:.2g} of their size")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return TrainingFigures(name, rows, width, tuple(timings), losses, weights)


def graph_difference(width: int, device: torch.device, seed: int) -> tuple[float, float]:
    """Train some epochs with and without graphs; the largest differences of losses (relative) and weights."""
    store = _store(_CHECKED_ROWS, width, device, seed)
    part = (np.arange(_CHECKED_ROWS) % 10 == 0).astype(np.int8)
    split = Split("random", part, np.zeros(_CHECKED_ROWS, np.int64), ["all"], seed)
    losses = weights = 0.0
    for recipe in (VIRNUCPRO, replace(ADAMW, batch=1024), replace(VIRNUCPRO, balance="label", step=1)):
        short = replace(recipe, epochs=_CHECKED_EPOCHS)
        graph, plain = (fit(store, split, short, seed, graph=recorded) for recorded in (True, False))
        for one, other in zip(graph.history, plain.history, strict=True):
            for name in ("train_loss", "validation_loss"):
                losses = max(losses, abs(one[name] - other[name]) / abs(other[name]))
        for name, tensor in graph.weights.items():
            weights = max(weights, float((tensor.double() - plain.weights[name].double()).abs().max()))
    return losses, weights


def _epoch_seconds(store: RowStore, recipe: Recipe, graph: bool, device: torch.device) -> tuple[float, float]:
    """Seconds of an epoch, order of the rows included, and of making its batches alone."""
    network = MLPClassifier(store.width).to(device).train()
    stepper = Stepper(network, recipe, None, graph=graph)
    every = np.arange(len(store))
    # Records the graph with as long an order as the epoch's.
    stepper.warm(store.pools(every, recipe.batch))
    _wait(device)
    begun = time.perf_counter()
    stepper.run(store.pools(epoch_order(every, store.label, recipe, 0, 0), recipe.batch))
    _wait(device)
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    for pool in store.pools(epoch_order(every, store.label, recipe, 0, 1), recipe.batch):
        for batch in torch.split(pool.order, recipe.batch):
            pool.features.index_select(0, batch).float()
            pool.labels.index_select(0, batch)
    _wait(device)
    return seconds, time.perf_counter() - begun


def _timing(way: str, batch: int, rows: int, of_row: float, loop: float, only: float) -> Timing:
    return Timing(way, batch, of_row * rows, 1 / of_row, of_row * batch * 1e6, only, loop / of_row)


def _block(width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some rows whose label can be learnt from them."""
    chance = np.random.default_rng(seed)
    values = chance.standard_normal((_BLOCK, width), np.float32)
    label = (values[:, :8].sum(axis=1) > 0).astype(np.int8)
    return values.astype(np.float16), label


def _store(rows: int, width: int, device: torch.device, seed: int) -> RowStore:
    values, label = _block(width, seed)
    times = -(-rows // _BLOCK)
    return RowStore(np.tile(values, (times, 1))[:rows], np.tile(label, times)[:rows], device, resident=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Files(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows of many files in memory; a row is found by counting through the files.

    Args:
        features: the rows of each file.
        labels: class of each row of each file.
    """

    def __init__(self, features: list[torch.Tensor], labels: list[torch.Tensor]) -> None:
        self._features = features
        self._labels = labels

    def __len__(self) -> int:
        return sum(len(file) for file in self._features)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        before = 0
        for features, labels in zip(self._features, self._labels, strict=True):
            if index < before + features.size(0):
                return features[index - before], torch.tensor(int(labels[index - before]))
            before += features.size(0)
        raise IndexError(index)


def loop_seconds(files: Files, device: torch.device, workers: int, limit: int) -> tuple[float, float]:
    """Seconds of a row while training, and while batches are only made.

    Args:
        files: the rows.
        device: to train on.
        workers: processes that make batches.
        limit: rows after which to stop; the first batches, while the workers start, do not count.
    """
    network = MLPClassifier(files[0][0].shape[0]).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=VIRNUCPRO.rate, momentum=VIRNUCPRO.momentum)

    def train(features: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(features.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loss.item()

    def only_make(_features: torch.Tensor, _labels: torch.Tensor) -> None:
        pass

    found = []
    for take in (train, only_make):
        loader = DataLoader(files, batch_size=VIRNUCPRO.batch, shuffle=True, num_workers=workers)
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(loader)
        for _ in range(2 * max(1, workers)):
            take(*next(batches))
        begun = time.perf_counter()
        rows = 0
        for features, labels in batches:
            take(features, labels)
            rows += len(labels)
            if rows >= limit:
                break
        found.append((time.perf_counter() - begun) / rows)
        del batches
    return found[0], found[1]


@command("python -m benchmarks train --rows 1800000")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option(
    "--rows", type=click.IntRange(2, MOST), help="Of an epoch.  [default: 1,800,000 on a GPU, 20,000 on a CPU]"
)
@click.option("--width", type=click.IntRange(8, 1_000_000), default=1664, help="Numbers in a row.")
@click.option("--batch", type=click.IntRange(2, 10_000_000), multiple=True, default=(4096, 32), help="Rows of a step.")
@click.option("--loop-rows", type=click.IntRange(1, MOST), default=3_000, help="Rows of the plain loop that are timed.")
@click.option("--loop-workers", type=click.IntRange(0, 10_000), default=12, help="Processes of the plain loop.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the made-up rows.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the figures as JSON.")
@options.as_json
def main(
    device: str,
    rows: int | None,
    width: int,
    batch: tuple[int, ...],
    loop_rows: int,
    loop_workers: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time an epoch of training against VirNucPro's loop over single rows, on made-up features.

    On a GPU steps are timed as CUDA graphs and plainly, and both must give the same losses. The goals are 5 s an epoch
    of 1.8 million rows on an H100 with batches of 4,096, and 20 s with batches of 32.
    """
    if out is not None:
        _make_way(out)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    where = choose_device(device)
    found = measure_training(
        where,
        rows=rows or (1_800_000 if where.type == "cuda" else 20_000),
        width=width,
        batches=batch,
        loop_rows=loop_rows,
        loop_workers=loop_workers,
        seed=seed,
        progress=lambda what: click.echo(what, err=True),
    )
    if out is not None:
        write_json(out, asdict(found))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(f"{found.rows:,} rows of {found.width} numbers, {found.device}")
    click.echo(f"{'':<30}{'batch':>7}{'epoch':>14}{'rows/s':>13}{'a step':>12}{'batches alone':>18}{'loop':>9}")
    for timing in found.timings:
        alone = f"{timing.batches_only:,.0f} rows/s" if timing.batches_only else "-"
        seconds = f"{timing.seconds:.2f} s" if timing.seconds < 60 else duration(timing.seconds)
        click.echo(
            f"{timing.way:<30}{timing.batch:>7,}{seconds:>14}{timing.rows_per_second:>13,.0f}"
            f"{timing.step_microseconds:>9,.0f} µs{alone:>18}{timing.times_loop:>8.1f}x"
        )
    if found.loss_difference is not None:
        click.echo(
            f"graphs against plain steps: losses differ by {found.loss_difference:.2g} of their size at most, "
            f"weights by {found.weight_difference:.2g}"
        )


def _make_way(out: Path) -> None:
    """Before anything is timed, which takes minutes, see that its figures can be written."""
    if out.exists():
        raise RunExistsError(f"{out} is there already: choose another --out, or move it away")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {out.parent}") from error
