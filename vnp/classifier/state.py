"""What a killed training goes on from: one file, written whole after every epoch."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from vnp.classifier.model import MLPClassifier
from vnp.files.durable import replacing

_FORMAT = "vnp-training-state/1"
_UNREADABLE = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training between two epochs.

    Args:
        weights: the network's state, on the CPU.
        optimiser: tensors of each parameter, such as its momentum, in the order of the parameters.
        best: the network's state after the best epoch.
        best_epoch: that epoch, counted from 1; 0 before the first.
        best_loss: its validation loss.
        stale: epochs since then.
        history: see ``Fitted``.
    """

    weights: dict[str, torch.Tensor]
    optimiser: list[dict[str, torch.Tensor]]
    best: dict[str, torch.Tensor]
    best_epoch: int
    best_loss: float
    stale: int
    history: list[dict[str, Any]]

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
    """Write a state in place of the one before.

    Args:
        path: the file.
        state: to write.
        digest: of all that the training depends on.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    about = {"best_epoch": state.best_epoch, "best_loss": state.best_loss, "stale": state.stale}
    content = {
        "format": _FORMAT,
        "digest": digest,
        "about": json.dumps({**about, "history": state.history}),
        "weights": state.weights,
        "optimiser": state.optimiser,
        "best": state.best,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_state(path: Path, digest: str) -> TrainingState | None:
    """Read a state; None if there is none, or it is of another training, or it cannot be read."""
    try:
        content = _load(path)
        if content["digest"] != digest:
            return None
        about = json.loads(content["about"])
        return TrainingState(weights=content["weights"], optimiser=content["optimiser"], best=content["best"], **about)
    except _UNREADABLE:
        return None


def is_state_of(path: Path, request: str) -> bool:
    """Whether a state is there whose digest begins with ``request:``, be it of another machine or of other code."""
    try:
        return bool(_load(path)["digest"].partition(":")[0] == request)
    except _UNREADABLE:
        return False


def _load(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
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
