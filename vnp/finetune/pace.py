"""What every training here does alike: its pace, its log, the learning rate, the optimiser, states to go on from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vnp.errors import EncoderError, FeatureError
from vnp.files.records import parse_json
from vnp.files.tensors import load_tensors

STATE = "state.pt"
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is done besides training.

    Attributes:
        log: steps between lines of the log.
        save: steps between states that a killed training goes on from.
        watch: steps between looks at the validation units.
        windows: of each label and length in one of those looks; of proteins, all that are looked at.
        told: what is told after each step how many are done, and of how many.
    """

    log: int = 200
    save: int = 1000
    watch: int = 2000
    windows: int = 1500
    told: Callable[[int, int], None] = lambda _steps, _of: None


def learning_rate(step: int, recipe: Any) -> float:
    """Rise in a straight line, then fall as a cosine (Loshchilov and Hutter, ICLR 2017)."""
    rise = min(1.0, (step + 1) / recipe.warm_up)
    return float(recipe.rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)))


def adamw(parameters: Iterable[torch.nn.Parameter], rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019), which leaves biases and normalisations without decay."""
    trained = [weight for weight in parameters if weight.requires_grad]
    wide = [weight for weight in trained if weight.ndim > 1]
    narrow = [weight for weight in trained if weight.ndim <= 1]
    groups = [{"params": wide, "weight_decay": decay}, {"params": narrow, "weight_decay": 0.0}]
    fused = any(weight.is_cuda for weight in trained)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=fused)


def be_reproducible() -> None:
    """Make torch's convolutions and products give the same bytes every time, where that is up to it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """The same for all that runs inside on a GPU, the backward pass of attention and sums at given places included."""
    be_reproducible()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if device.type == "cuda":
            memory.fill_uninitialized_memory = False
            torch.use_deterministic_algorithms(True)
            try:
                torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
            except RuntimeError:
                # cuBLAS began without CUBLAS_WORKSPACE_CONFIG.
                torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """What a killed training left to go on from, its tensors on the device; None where there is nothing.

    Raises:
        FeatureError: it is of another training, by its identity, or damaged.
    """
    if not path.exists():
        return None
    with damage(path):
        state: dict[str, Any] = load_tensors(path, device)
        if state["identity"] != identity:
            raise FeatureError(f"{path} is of another training; remove it, or choose another --out")
    return state


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Tell whatever comes up while a state is taken as damage of its file."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, EOFError, UnpicklingError) as error:
        raise FeatureError(f"{path} is damaged; remove it to begin again") from error


class Log:
    """Lines of JSON; what a killed training wrote behind its last state is cut off."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.seen: list[tuple[int, Tensor]] = []
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if parse_json(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, length: int, loss: Tensor) -> None:
        """Take note of the loss of crops, or frames, of a length; it is read when a line is written."""
        self.seen.append((length, loss))

    def note(self, entry: dict[str, Any]) -> None:
        """Write a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def write(self, step: int, rate: float, *, by_length: bool = True) -> str:
        """Write the mean loss since the last time, over all and for each length.

        Raises:
            EncoderError: it is not a number.
        """
        values = torch.stack([loss for _, loss in self.seen]).tolist()
        if not all(map(math.isfinite, values)):
            raise EncoderError(f"the loss is not a number any more at step {step}; train with a smaller --rate")
        lengths: dict[int, list[float]] = {}
        for (length, _), value in zip(self.seen, values, strict=True):
            lengths.setdefault(length, []).append(value)
        self.seen = []
        means = {str(length): round(float(np.mean(one)), 5) for length, one in sorted(lengths.items())}
        loss = float(np.mean(values))
        apart = {"by_length": means} if by_length else {}
        self.note({"step": step, "loss": round(loss, 5), "rate": rate, **apart})
        return f"step {step}: loss {loss:.4f}"
