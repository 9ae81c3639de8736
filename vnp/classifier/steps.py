"""Steps of training: forward, backward, update. On a GPU one step is recorded as a CUDA graph and replayed.

A step on 32 rows is some twenty small kernels; started one by one from Python they take several times as long as they
run. A graph starts all of them at once, and it finds its rows itself: it keeps its place in the order of the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vnp.classifier.model import MLPClassifier
from vnp.classifier.recipe import Recipe
from vnp.classifier.rows import Pool

_WARM_UP = 3


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

    def run(self, pools: Iterator[Pool]) -> float:
        """Train on pools of rows; returns the mean loss of the rows.

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
                for batch in pool.order[: whole * self._batch].view(whole, self._batch):
                    self._step(pool, batch)
            if len(rest) > 1:
                self._step(pool, rest)
            rows += len(pool.order) - (len(rest) == 1)
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
