"""The training loop, the state that a killed training goes on from, and the steps themselves.

The state is one file, written whole after every epoch. A step is forward, backward and update. On a GPU one step is
recorded as a CUDA graph and replayed: a step on 32 rows is some twenty small kernels, which started one by one from
Python take several times as long as they run. A graph starts all of them at once, and it finds its rows itself: it
keeps its place in the order of the epoch.
"""

from __future__ import annotations

import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float64, Int8, Int64

from vnp.classifier.calibration import log_loss, logistic
from vnp.classifier.model import MLPClassifier, margin
from vnp.classifier.recipe import Recipe
from vnp.classifier.rows import Pool, RowStore
from vnp.classifier.split import Split
from vnp.errors import FeatureError
from vnp.features.split import TRAIN, VALIDATION
from vnp.files.records import parse_json
from vnp.files.tensors import load_tensors, save_tensors
from vnp.metrics.metrics import binary_metrics

log = logging.getLogger(__name__)

_WATCHED = ("accuracy", "f1", "roc_auc")
_ROWS_AT_ONCE = 16_384
_LOOKED_AT = 10_000
_WARM_UP = 3
_FORMAT = "vnp-training-state/1"
_UNREADABLE = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A trained network."""

    weights: dict[str, torch.Tensor]  # its state after the epoch with the smallest validation loss, on the CPU
    # of every epoch its number, learning rate, seconds, and losses and metrics named ``PART_METRIC``
    history: list[dict[str, Any]]
    best_epoch: int  # the epoch that the weights are of, counted from 1
    stopped_early: bool  # whether training ended because the validation loss no longer fell
    resumed_after: int = 0  # epochs that an earlier, killed process had done


def fit(
    store: RowStore,
    split: Split,
    recipe: Recipe,
    seed: int,
    *,
    state: Path | None = None,
    digest: str = "",
    resume: bool = True,
    graph: bool = True,
    organism: Int64[np.ndarray, "n"] | None = None,
    each_epoch: Callable[[list[dict[str, Any]]], None] = lambda _history: None,
    inside: Callable[[int, int, int], None] = lambda _epoch, _total, _rows: None,
) -> Fitted:
    """Train a network until its validation loss no longer falls.

    Every random number depends on the seed and the epoch alone. So the same seed gives the same weights, bit by bit, on
    the same machine, also when training was killed and went on from its state file.

    Args:
        state: file to go on from, if it is there and of this training, and to write after every epoch.
        digest: of all that this training depends on; a state with another one is not used.
        resume: whether to go on from a state; else it is written over after the first epoch.
        graph: whether to record steps as CUDA graphs, where there is a GPU.
        organism: number of each row's organism group; needed where these are balanced.
        each_epoch: shown the history after every epoch.
        inside: told within an epoch its number from 1, its rows, and those trained on so far.

    Raises:
        FeatureError: the loss is no longer a number.
        StorageError: the state cannot be written.
    """
    torch.manual_seed(seed)
    network = MLPClassifier(store.width, dropout=recipe.dropout).to(store.device)
    train, watched = split.rows(TRAIN), split.rows(VALIDATION)
    # Rows of training that are measured as those of validation are: without dropout, after the epoch.
    looked_at = np.sort(np.random.default_rng([seed, 3]).permutation(train)[:_LOOKED_AT])
    weights = torch.tensor(class_weights(store.label[train], recipe), dtype=torch.float32, device=store.device)
    stepper = Stepper(network, recipe, weights if recipe.balance == "label" else None, graph=graph)
    done = TrainingState.new(network, stepper.optimiser)
    if resume and state is not None and (found := read_state(state, digest)) is not None:
        done = found
        done.restore(network, stepper.optimiser)
    resumed_after = done.epochs

    while done.epochs < recipe.epochs and done.stale < recipe.patience:
        begun = time.perf_counter()
        epoch = done.epochs
        torch.manual_seed(_seed(seed, epoch))
        stepper.set_rate(recipe.rate_of(epoch))
        network.train()
        order = epoch_order(train, store.label, recipe, seed, epoch, organism)
        train_loss = stepper.run(store.pools(order, recipe.batch), partial(inside, epoch + 1, len(order)))
        network.eval()
        margins = margins_of(network, store, watched)
        loss = log_loss(store.label[watched], logistic(margins))
        right = (margins_of(network, store, looked_at) >= 0) == (store.label[looked_at] == 1)
        _require_number(train_loss, loss, epoch, recipe)
        found_metrics = binary_metrics(store.label[watched], logistic(margins)).to_json()
        row = {
            "epoch": epoch + 1,
            "rate": recipe.rate_of(epoch),
            "train_loss": train_loss,
            "validation_loss": loss,
            "train_accuracy": float(right.mean()),
            **{f"validation_{name}": found_metrics[name] for name in _WATCHED},
            "seconds": time.perf_counter() - begun,
        }
        done = done.after_epoch(row, network, stepper.optimiser)
        if state is not None:
            write_state(state, done, digest)
        each_epoch(done.history)

    return Fitted(done.best, done.history, done.best_epoch, done.stale >= recipe.patience, resumed_after)


def epoch_order(
    rows: Int64[np.ndarray, "m"],
    label: Int8[np.ndarray, "n"],
    recipe: Recipe,
    seed: int,
    epoch: int,
    organism: Int64[np.ndarray, "n"] | None = None,
) -> Int64[np.ndarray, "k"]:
    """The rows of an epoch, in the order in which they are shown; ``organism`` numbers the organism group of each."""
    chance = np.random.default_rng([seed, 1 + epoch])
    if recipe.balance not in ("sampling", "group"):
        return chance.permutation(rows)
    half, drawn = len(rows) // 2, []
    pile_of = label if recipe.balance == "sampling" or organism is None else organism
    for kind, size in ((0, half), (1, len(rows) - half)):
        own = rows[label[rows] == kind]
        piles = [own[pile_of[own] == number] for number in np.unique(pile_of[own])]
        sizes = np.diff(np.arange(len(piles) + 1) * size // len(piles)).tolist()
        drawn += [chance.choice(pile, share) for pile, share in zip(piles, sizes, strict=True)]
    return chance.permutation(np.concatenate(drawn))


def class_weights(label: Int8[np.ndarray, "m"], recipe: Recipe) -> tuple[float, float]:
    """Weights of host and viral in the loss; their mean over the rows is 1."""
    if recipe.balance != "label":
        return 1.0, 1.0
    viral = float((label == 1).mean())
    return 0.5 / (1.0 - viral), 0.5 / viral


def margins_of(network: MLPClassifier, store: RowStore, rows: Int64[np.ndarray, "m"]) -> Float64[np.ndarray, "m"]:
    """Log-odds that a network in evaluation mode gives rows of a store."""
    found = np.empty(len(rows), np.float64)
    with torch.inference_mode():
        for low in range(0, len(rows), _ROWS_AT_ONCE):
            features = store.take(rows[low : low + _ROWS_AT_ONCE]).float()
            found[low : low + _ROWS_AT_ONCE] = margin(network(features)).double().cpu().numpy()
    return found


def _seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, 2, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _require_number(train_loss: float, loss: float, epoch: int, recipe: Recipe) -> None:
    if not np.isfinite([train_loss, loss]).all():
        raise FeatureError(
            f"the loss is no longer a number in epoch {epoch + 1}: the learning rate {recipe.rate_of(epoch):g} is too "
            "high for these features; choose a smaller --rate"
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training between two epochs."""

    weights: dict[str, torch.Tensor]  # the network's state, on the CPU
    # tensors of each parameter, such as its momentum, in the order of the parameters
    optimiser: list[dict[str, torch.Tensor]]
    best: dict[str, torch.Tensor]  # the network's state after the best epoch
    best_epoch: int  # that epoch, counted from 1; 0 before the first
    best_loss: float  # its validation loss
    stale: int  # epochs since then
    history: list[dict[str, Any]]  # see ``Fitted``

    @property
    def epochs(self) -> int:
        """How many are done."""
        return len(self.history)

    @classmethod
    def new(cls, network: MLPClassifier, optimiser: torch.optim.Optimizer) -> Self:
        """The state before the first epoch."""
        weights = _copied(network.state_dict())
        return cls(weights, _tensors(optimiser), weights, 0, float("inf"), 0, [])

    def after_epoch(
        self, row: dict[str, Any], network: MLPClassifier, optimiser: torch.optim.Optimizer
    ) -> TrainingState:
        """The state after one more epoch, whose line of history is ``row``."""
        weights = _copied(network.state_dict())
        later = replace(
            self, weights=weights, optimiser=_tensors(optimiser), history=[*self.history, row], stale=self.stale + 1
        )
        if row["validation_loss"] < self.best_loss:
            return replace(later, best=weights, best_epoch=row["epoch"], best_loss=row["validation_loss"], stale=0)
        return later

    def restore(self, network: MLPClassifier, optimiser: torch.optim.Optimizer) -> None:
        """Put a network and its optimiser into this state."""
        network.load_state_dict(self.weights)
        for parameter, tensors in zip(network.parameters(), self.optimiser, strict=True):
            known = optimiser.state[parameter]
            for name, tensor in tensors.items():
                # AdamW makes its state in the first step; SGD's is there and may belong to a graph.
                if name in known:
                    known[name].copy_(tensor)
                else:
                    known[name] = tensor.to(parameter.device, copy=True)


def write_state(path: Path, state: TrainingState, digest: str) -> None:
    """Write a state in place of the one before."""
    about = {"best_epoch": state.best_epoch, "best_loss": state.best_loss, "stale": state.stale}
    content = {
        "format": _FORMAT,
        "digest": digest,
        "about": json.dumps({**about, "history": state.history}),
        "weights": state.weights,
        "optimiser": state.optimiser,
        "best": state.best,
    }
    save_tensors(path, content)


def read_state(path: Path, digest: str) -> TrainingState | None:
    """Read a state; None if there is none, or it is of another training, or it is damaged, which is said."""
    try:
        content = _load(path)
        if content is None or content["digest"] != digest:
            return None
        about = parse_json(content["about"])
        return TrainingState(weights=content["weights"], optimiser=content["optimiser"], best=content["best"], **about)
    except _UNREADABLE as error:
        log.warning("%s is damaged (%s): training begins anew", path, str(error).partition("\n")[0])
        return None


def state_of(path: Path) -> str:
    """The digest of the training that a state is of, on any machine, by any code; ValueError where it is damaged."""
    try:
        content = _load(path)
        return "" if content is None else str(content["digest"]).partition(":")[0]
    except _UNREADABLE as error:
        raise ValueError(f"{path} is damaged") from error


def _load(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = load_tensors(path)
    if content["format"] != _FORMAT:
        raise ValueError(f"the format is {content['format']}")
    return content


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _tensors(optimiser: torch.optim.Optimizer) -> list[dict[str, torch.Tensor]]:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    return [
        {
            name: value.detach().cpu().clone()
            for name, value in optimiser.state.get(parameter, {}).items()
            if isinstance(value, torch.Tensor)
        }
        for parameter in parameters
    ]


class Stepper:
    """Takes a network in training mode through the batches of pools of rows; on CUDA by a graph, where one is asked."""

    def __init__(
        self, network: MLPClassifier, recipe: Recipe, class_weights: torch.Tensor | None, *, graph: bool
    ) -> None:
        self._network = network
        self._batch = recipe.batch
        self._class_weights = class_weights
        self._parameters = list(network.parameters())
        self._device = self._parameters[0].device
        self._graph_wanted = graph and self._device.type == "cuda"
        self.optimiser = _optimiser(self._parameters, recipe, self._device)
        self._loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._cursor = torch.zeros((), dtype=torch.int64, device=self._device)
        self._ahead = torch.arange(recipe.batch, device=self._device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: Pool | None = None

    def set_rate(self, rate: float) -> None:
        """Change the learning rate, also inside a recorded graph."""
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def warm(self, pools: Iterator[Pool]) -> None:
        """Get everything ready for ``run`` without training: libraries, memory, and the graph."""
        for pool in pools:
            if self._graph_wanted and len(pool.order) >= self._batch:
                self._record(pool)
            return

    def run(self, pools: Iterator[Pool], told: Callable[[int], None] = lambda _rows: None) -> float:
        """Train on pools of rows, telling how many now and then; returns the mean loss of the rows.

        A batch of one row is left out: batch normalisation has no variance to divide by.
        """
        self._loss.zero_()
        rows = 0
        for pool in pools:
            whole = len(pool.order) // self._batch
            rest = pool.order[whole * self._batch :]
            if self._graph_wanted and whole:
                self._replay(pool, whole)
            else:
                for number, batch in enumerate(pool.order[: whole * self._batch].view(whole, self._batch)):
                    self._step(pool, batch)
                    told(rows + number * self._batch)
            if len(rest) > 1:
                self._step(pool, rest)
            rows += len(pool.order) - (len(rest) == 1)
            told(rows)
        return float(self._loss) / max(1, rows)

    def _step(self, pool: Pool, batch: torch.Tensor) -> None:
        features = pool.features.index_select(0, batch).float()
        labels = pool.labels.index_select(0, batch)
        loss = torch.nn.functional.cross_entropy(self._network(features), labels, weight=self._class_weights)
        gradients = torch.autograd.grad(loss, self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()
        self._loss += loss.detach() * len(batch)

    def _step_at_cursor(self) -> None:
        assert self._recorded is not None
        self._step(self._recorded, self._recorded.order.index_select(0, self._cursor + self._ahead))
        self._cursor += self._batch

    def _replay(self, pool: Pool, steps: int) -> None:
        recorded = self._record(pool)
        self._cursor.zero_()
        for _ in range(steps):
            recorded.replay()

    def _record(self, pool: Pool) -> torch.cuda.CUDAGraph:
        """The graph of one step, with this pool in the place of the one that it was recorded with."""
        fits = (
            self._recorded is not None
            and self._recorded.features.shape[0] >= pool.features.shape[0]
            and self._recorded.order.shape[0] >= pool.order.shape[0]
        )
        if self._graph is not None and fits:
            assert self._recorded is not None
            for mine, new in (
                (self._recorded.order, pool.order),
                (self._recorded.labels, pool.labels),
                (self._recorded.features, pool.features),
            ):
                if mine.data_ptr() != new.data_ptr():
                    mine[: len(new)].copy_(new)
            return self._graph
        self._recorded = Pool(pool.features, pool.labels, pool.order.clone())
        with _unchanged(self._network, self.optimiser, self._loss):
            self._warm_up()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._step_at_cursor()
        return self._graph

    def _warm_up(self) -> None:
        """A few steps on a stream of their own, so that libraries make their workspaces before the recording."""
        stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._cursor.zero_()
                self._step_at_cursor()
        torch.cuda.current_stream(self._device).wait_stream(stream)


def _optimiser(parameters: list[torch.nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimiser, with all of its state in place, as a graph needs it."""
    cuda = device.type == "cuda"
    # A graph reads the learning rate from memory; as a number it would be fixed.
    rate = torch.tensor(recipe.rate, device=device) if cuda else recipe.rate
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=recipe.weight_decay, fused=True, capturable=cuda)
    made = torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, fused=True)
    for parameter in parameters:
        made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


@contextmanager
def _unchanged(network: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> Iterator[None]:
    """Put back, in place, what steps inside the block change: weights, statistics, optimiser, loss, random numbers."""
    held = [*network.state_dict().values(), loss]
    before = [tensor.clone() for tensor in held]
    known = {id(state): {k: v.clone() for k, v in state.items()} for state in optimiser.state.values()}
    random = torch.cuda.get_rng_state()
    yield
    torch.cuda.synchronize()
    with torch.no_grad():
        for tensor, value in zip(held, before, strict=True):
            tensor.copy_(value)
        for state in optimiser.state.values():
            for name, value in state.items():
                old = known.get(id(state), {}).get(name)
                if isinstance(value, torch.Tensor):
                    value.zero_() if old is None else value.copy_(old)
    torch.cuda.set_rng_state(random)
