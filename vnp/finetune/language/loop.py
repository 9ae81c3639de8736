"""The fine-tuning of a protein encoder, from top to bottom; on a CPU the same seed gives the same bytes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vnp.errors import EncoderError
from vnp.features.split import TRAIN, VALIDATION
from vnp.files.hashing import json_sha256
from vnp.files.tensors import save_tensors
from vnp.finetune.language.batches import Order
from vnp.finetune.language.examples import Examples
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.objectives import Objective, Piece
from vnp.finetune.pace import LOG, STATE, Log, Pace, adamw, damage, learning_rate, read_state, reproducible

log = logging.getLogger(__name__)

TUNING_PACE = Pace(log=10, save=200, watch=100, windows=4000)
_CPU_BUDGET = 4096
_PROBED = 4096
_USED = 0.85
_WORTH_KEEPING = 8192  # tokens at once, below which activations are rather computed again


@dataclass(slots=True, eq=False)
class Tuned:
    """What training came to; the network holds the best weights."""

    network: TunedEsm2
    steps: int = 0  # that were taken
    best: int = 0  # the step whose weights these are
    looks: dict[int, dict[str, float]] = field(default_factory=dict)  # what the validation units said, by step
    budget: int = 0  # tokens that went through at once in the end
    stopped: str = ""  # why it ended before its last step; empty if it did not
    failed: bool = False  # whether that was because the loss was no number any more
    tokens_per_second: float = 0.0  # of training
    peak_bytes: int = 0  # the most memory that tensors took on a GPU; 0 on a CPU


def tune(
    network: TunedEsm2,
    examples: Examples,
    folder: Path,
    base: Mapping[str, object],
    *,
    budget: int | None = None,
    pace: Pace = TUNING_PACE,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Train, or go on where a killed training of the same set, encoder and recipe was.

    Args:
        network: as it begins; holds the best weights in the end, by the loss on validation units.
        examples: the set; its test part is never looked at.
        folder: that is there; holds the log and the state.
        budget: tokens that go through at once; None for what fits.

    Raises:
        EncoderError: one protein does not fit into memory, or the loss is no number before anything good was kept.
        FeatureError: the state in the folder is of another training.
        StorageError: the disk is full or cannot be written.
    """
    with reproducible(network.device):
        return _tune(network, examples, folder, base, budget, pace, say)


def _tune(
    network: TunedEsm2, examples: Examples, folder: Path, base: Mapping[str, object], budget: int | None, pace: Pace,
    say: Callable[[str], None],
) -> Tuned:  # fmt: skip
    recipe, device = network.recipe, network.device
    data = json_sha256(examples.describe())
    identity = json_sha256({"recipe": asdict(recipe), "data": data, "base": dict(base), "device": device.type})
    objective = Objective(network, examples)
    optimiser = adamw(network.parameters(), recipe.rate, recipe.decay)
    watched = _spread(examples, examples.rows(VALIDATION), pace.windows, recipe.seed)
    order = Order(examples.rows(TRAIN), examples.lengths, recipe.tokens, recipe.seed)
    done = Tuned(network)
    kept = network.snapshot()
    state = read_state(folder / STATE, identity, torch.device("cpu"))
    if state is not None:
        with damage(folder / STATE):
            network.restore(state["trained"])
            optimiser.load_state_dict(state["optimiser"])
            kept = state["kept"]
            order = Order(
                examples.rows(TRAIN), examples.lengths, recipe.tokens, recipe.seed, state["epoch"], state["done"]
            )
            done.steps, done.best, done.budget = state["step"], state["best"], state["budget"]
            done.looks = {int(step): found for step, found in state["looks"].items()}
            done.stopped, network.checkpointing = state["stopped"], state["checkpointing"]
            say(f"going on from step {done.steps}")
    book = Log(folder / LOG, done.steps)
    if state is not None:
        # Of steps that are in no line of the log yet.
        book.seen = [(0, loss) for loss in state["seen"].to(device)]

    def save() -> None:
        content = {
            "identity": identity, "step": done.steps, "best": done.best, "budget": done.budget,
            "looks": {str(step): found for step, found in done.looks.items()}, "stopped": done.stopped,
            "checkpointing": network.checkpointing, "epoch": order.epoch, "done": order.done,
            "seen": torch.tensor([float(loss) for _, loss in book.seen]),
            "trained": network.snapshot(), "kept": kept, "optimiser": optimiser.state_dict(),
        }  # fmt: skip
        save_tensors(folder / STATE, content)

    if not done.budget:
        done.budget = budget or find_budget(objective, order, say)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, seen = 0.0, -1
    while done.steps < recipe.steps and not done.stopped:
        rows = order.step()
        rate = learning_rate(done.steps, recipe)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, norm = _step(objective, rows, done, say)
        if not (math.isfinite(float(norm)) and math.isfinite(float(loss))):
            done.stopped, done.failed = f"the loss is not a number any more at step {done.steps + 1}", True
            break
        optimiser.step()
        done.steps += 1
        pace.told(done.steps, recipe.steps)
        if seen < 0:
            # The first step compiles and allocates.
            started, seen = time.perf_counter(), 0
        else:
            seen += int(examples.lengths[rows].sum())
        book.add(0, loss)
        if done.steps % pace.log == 0 or done.steps == recipe.steps:
            done.tokens_per_second = seen / max(1e-9, time.perf_counter() - started)
            say(f"{book.write(done.steps, rate, by_length=False)}, {done.tokens_per_second:,.0f} tokens/s")
        if len(watched) and (done.steps % pace.watch == 0 or done.steps == recipe.steps):
            found = objective.look(watched, done.budget)
            done.looks[done.steps] = found
            book.note({"step": done.steps, "validation": found})
            say(f"step {done.steps}: validation " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
            if not math.isfinite(found["loss"]):
                done.stopped, done.failed = f"the validation loss is not a number at step {done.steps}", True
                break
            if not done.best or found["loss"] < done.looks[done.best]["loss"]:
                done.best, kept = done.steps, network.snapshot()
            looked = sorted(done.looks)
            if len(looked) - 1 - looked.index(done.best) >= recipe.patience:
                done.stopped = f"no better on validation units since step {done.best}"
        if done.steps % pace.save == 0 or done.stopped:
            save()
    if done.failed and not done.best:
        raise EncoderError(
            f"{done.stopped}, before anything good was kept; train with a smaller --rate (it was {recipe.rate:g})"
        )
    if done.best:
        network.restore(kept)
    else:
        done.best = done.steps
    if device.type == "cuda":
        done.peak_bytes = torch.cuda.max_memory_allocated(device)
    return done


def _step(
    objective: Objective, rows: Int64[np.ndarray, " k"], done: Tuned, say: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """The mean loss of a step's proteins, and the norm of its gradient, which is ready for the optimiser.

    Where memory runs out, the whole step begins again with half as many tokens at once, and then with activations that
    are computed again.
    """
    network = objective.network
    while True:
        cut = objective.cut(rows, done.budget, done.steps + 1)
        weight = objective.weight(cut)
        # Dropout is the same however often a step is begun.
        torch.manual_seed(network.recipe.seed * 1_000_003 + done.steps)
        for parameter in network.parameters():
            parameter.grad = None
        total = _accumulate(objective, cut, weight)
        if total is not None:
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            return total, norm
        _shrink(network, cut, done, say)


def _accumulate(objective: Objective, cut: Sequence[Piece], weight: float) -> Tensor | None:
    """Sum up losses and gradients; None where memory ran out."""
    total = torch.zeros((), device=objective.network.device)
    try:
        for piece in cut:
            loss = objective.loss(piece) / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
    except torch.OutOfMemoryError:
        # Answered outside of the handler: here the failed piece's tensors are still referred to.
        return None
    return total


def _shrink(network: TunedEsm2, cut: Sequence[Piece], done: Tuned, say: Callable[[str], None]) -> None:
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    longest = max(cut, key=lambda piece: piece.tokens)
    if not network.checkpointing and (done.budget <= _WORTH_KEEPING or len(longest.rows) == 1):
        network.checkpointing = True
        say("out of memory: going on with activations that are computed again")
        return
    if len(longest.rows) == 1:
        raise EncoderError(
            f"a protein of {longest.tokens:,} tokens does not fit in the memory of {network.device} with --train "
            f"{network.recipe.train}: use --train lora or head, a larger GPU, or a set of shorter chunks"
        )
    before = done.budget
    done.budget = max(1, min(done.budget, longest.tokens) // 2)
    say(f"out of memory at {before:,} tokens at once: going on with {done.budget:,}")


def find_budget(objective: Objective, order: Order, say: Callable[[str], None]) -> int:
    """How many tokens fit at once, by the memory that some take; activations are kept where enough fit so."""
    network = objective.network
    if network.device.type != "cuda" or objective.frozen:
        return _CPU_BUDGET if network.device.type != "cuda" else 65_536
    recipe = network.recipe
    probe = Order(objective.examples.rows(TRAIN), objective.examples.lengths, _PROBED, recipe.seed, order.epoch)
    # Gradients and both moments of the optimiser are there later.
    held = 12 * sum(parameter.numel() for parameter in network.parameters())
    budget = 0
    for checkpointing in (False, True):
        network.checkpointing = checkpointing
        torch.cuda.empty_cache()
        cut = objective.cut(probe.step(), _PROBED, 0)[:1]
        # Once for what is compiled and cached and for the gradients, then for what the tokens take.
        used = 0
        for _ in range(2):
            before = torch.cuda.memory_allocated(network.device)
            torch.cuda.reset_peak_memory_stats(network.device)
            if _accumulate(objective, cut, objective.weight(cut)) is None:
                break
            used = torch.cuda.max_memory_allocated(network.device) - before
        for parameter in network.parameters():
            parameter.grad = None
        if not used:
            continue
        free, _ = torch.cuda.mem_get_info(network.device)
        room = _USED * (free + torch.cuda.memory_reserved(network.device)) - torch.cuda.memory_allocated(network.device)
        budget = int((room - held) / (used / cut[0].tokens)) // 256 * 256
        if budget >= min(_WORTH_KEEPING, recipe.tokens):
            break
    budget = max(256, min(budget, recipe.tokens))
    kept = "computed again" if network.checkpointing else "kept"
    say(f"{budget:,} tokens at once, activations {kept}")
    return budget


def _spread(examples: Examples, rows: Int64[np.ndarray, " m"], most: int, seed: int) -> Int64[np.ndarray, " k"]:
    """At most so many proteins, of units alike: one of every unit, then a second of each that has one, and so on."""
    shuffled = np.random.default_rng([seed, 2]).permutation(rows)
    unit = examples.unit[shuffled]
    by_unit = np.argsort(unit, kind="stable")
    ordered = unit[by_unit]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    rank = np.empty(len(rows), np.int64)
    rank[by_unit] = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
    chosen: Int64[np.ndarray, " k"] = np.sort(shuffled[np.argsort(rank, kind="stable")[:most]])
    return chosen
