"""Whether what trains on a GPU is right: gradients against padded float32, merging, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vnp.encoders.models.bare import BareModel
from vnp.encoders.packing import collate
from vnp.errors import EncoderError
from vnp.finetune.language.attention import SpreadAttention
from vnp.finetune.language.examples import Examples
from vnp.finetune.language.loop import tune
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.objectives import Objective
from vnp.finetune.language.recipe import TuningRecipe
from vnp.finetune.pace import Pace, reproducible

_BOUND = 0.05  # of the gradient's length, in bfloat16
_TIMES_PADDED = 1.5  # as wrong as padded attention in the same precision, at most
_MERGED = 1e-5
NEVER = 1 << 30


def made_up(lengths: np.ndarray, seed: int) -> Examples:
    """Proteins of these tokens at random, half of them viral, all of one part."""
    chance = np.random.default_rng(seed)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    tokens = chance.integers(4, 24, starts[-1]).astype(np.uint8)
    tokens[starts[:-1]], tokens[starts[1:] - 1] = 0, 2
    number = np.arange(len(lengths))
    return Examples(
        tokens=tokens,
        starts=starts,
        label=(number % 2).astype(np.int8),
        unit=number.astype(np.int32),
        part=np.zeros(len(lengths), np.int8),
        units=[str(one) for one in number],
        about={"seed": seed},
    )


def shaken(model: BareModel, recipe: TuningRecipe, dtype: torch.dtype, *, compiled: bool) -> TunedEsm2:
    """A network whose adapters do something; the same every time."""
    network = TunedEsm2(model.config, model.state, recipe, model.device, dtype, compiled=compiled)
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.trained.items():
            if name.endswith(".b"):
                parameter.add_((0.02 * torch.randn(parameter.shape, generator=chance)).to(parameter.device))
    return network


def check_gradients(
    model: BareModel, recipe: TuningRecipe, lengths: np.ndarray, *, compiled: bool
) -> dict[str, object]:
    """Compare packed bfloat16 with padded float32, for the same proteins of these tokens.

    Returns:
        Relative errors of loss and gradient, those of padded attention in the same precision, and ``passes``.
    """
    examples = made_up(lengths, 1)
    half = torch.bfloat16 if model.device.type == "cuda" else torch.float32
    exact_loss, exact = _gradients(shaken(model, recipe, torch.float32, compiled=False), examples)
    padded = shaken(model, recipe, half, compiled=False)
    padded.attention = SpreadAttention()
    _, other = _gradients(padded, examples)
    packed = shaken(model, recipe, half, compiled=compiled)
    loss, found = _gradients(packed, examples)
    packed.checkpointing = True
    _, again = _gradients(packed, examples)
    error, plain = _distance(found, exact), _distance(other, exact)
    worst = max((_distance({name: found[name]}, {name: exact[name]}), name) for name in _heavy(exact))
    loss_error = abs(loss - exact_loss) / abs(exact_loss)
    recomputed = _distance(again, found)
    return {
        "attention": packed.attention.name,
        "compiled": packed.compiled,
        "loss_error": loss_error,
        "gradient_error": error,
        "gradient_error_padded": plain,
        "worst": worst[1],
        "worst_error": worst[0],
        "checkpointing_changes": recomputed,
        "passes": error <= _BOUND
        and loss_error <= _BOUND
        and error <= _TIMES_PADDED * plain + 1e-3
        and recomputed <= 1e-3
        and packed.compiled == compiled,
    }


def _gradients(network: TunedEsm2, examples: Examples) -> tuple[float, dict[str, Tensor]]:
    with reproducible(network.device):
        objective = Objective(network, examples)
        cut = objective.cut(np.arange(len(examples)), NEVER, 1)
        weight = objective.weight(cut)
        for parameter in network.parameters():
            parameter.grad = None
        total = 0.0
        for piece in cut:
            loss = objective.loss(piece) / weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    return total, {name: one.grad.double().cpu() for name, one in network.trained.items() if one.grad is not None}


def _distance(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """Length of the difference, as a share of the length of what is exact."""
    if found.keys() != exact.keys():
        return float("inf")
    apart = sum(float((found[name] - one).square().sum()) for name, one in exact.items())
    size = sum(float(one.square().sum()) for one in exact.values())
    return float((apart / size) ** 0.5)


def _heavy(exact: Mapping[str, Tensor]) -> list[str]:
    """The parameters whose gradients matter."""
    longest = max(float(one.norm()) for one in exact.values())
    return [name for name, one in exact.items() if float(one.norm()) > 1e-2 * longest]


def check_merging(model: BareModel, recipe: TuningRecipe, lengths: np.ndarray) -> dict[str, object]:
    """Compare rows of adapters beside their layers with rows of the engine that has them merged."""
    network = shaken(model, recipe, torch.float32, compiled=False)
    ids = [one.astype(np.int64) for one in _sequences(made_up(lengths, 2))]
    with torch.no_grad():
        batch = collate(ids, np.arange(len(ids)), network.attention, network.device, None)
        expected = network.pooled(batch).cpu().numpy()
    merged = replace(model, state=network.merged())
    half = "fp16" if model.device.type == "cuda" else "fp32"
    found = {name: merged.encoder(name).embed_ids(ids) for name in ("fp32", half)}
    base = model.encoder("fp32").embed_ids(ids)
    size = float(np.linalg.norm(expected))
    errors = {name: float(np.linalg.norm(one - expected)) / size for name, one in found.items()}
    moved = float(np.linalg.norm(base - expected)) / size
    return {
        "error_fp32": errors["fp32"],
        f"error_{half}": errors[half],
        "tuning_changed": moved,
        "passes": errors["fp32"] <= _MERGED and errors[half] <= 1e-2 and moved > 1e-3,
    }


def _sequences(examples: Examples) -> list[np.ndarray]:
    return [examples.ids(row) for row in range(len(examples))]


def check_resuming(
    model: BareModel, recipe: TuningRecipe, lengths: np.ndarray, folder: Path, *, compiled: bool
) -> dict[str, object]:
    """Train twice, the second time with a death on the way; whether both end with the same bytes."""
    recipe = replace(recipe, steps=8, warm_up=2)
    examples = made_up(lengths, 4)
    half = torch.bfloat16 if model.device.type == "cuda" else torch.float32
    pace = Pace(log=1, save=4, watch=NEVER)
    ended = []
    for name, death in (("whole", 0), ("killed", 6)):
        place = folder / name
        place.mkdir(parents=True)
        for dies in (death, 0) if death else (0,):
            network = TunedEsm2(model.config, model.state, recipe, model.device, half, compiled=compiled)

            def say(line: str, dies: int = dies) -> None:
                if dies and line.startswith(f"step {dies}:"):
                    raise EncoderError("killed")

            try:
                tune(network, examples, place, {}, budget=recipe.tokens // 2, pace=pace, say=say)
            except EncoderError:
                if not dies:
                    raise
        ended.append({name: tensor.numpy().tobytes() for name, tensor in network.snapshot().items()})
    different = [name for name, content in ended[0].items() if ended[1][name] != content]
    return {"tensors": len(ended[0]), "different": len(different), "passes": not different}
