"""How fast a model trains: vnp's own loop, and transformers with peft."""

from __future__ import annotations

import importlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rivals import published_model
from benchmarks.tuning.checks import NEVER, made_up
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.finetune.language.loop import tune
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.recipe import TuningRecipe
from vnp.finetune.pace import Pace
from vnp.speed.measure import Clock, Memory, free

_TARGETS = ["query", "key", "value", "attention.output.dense"]
_BATCHES = (64, 128, 256, 512, 1024)
_CPU_BATCHES = (2, 4)
_WARM, _TIMED = 2, 4
_WORTH_MORE = 1.01


def operations(model: BareModel, recipe: TuningRecipe, length: int) -> float:
    """Floating-point operations that training on a protein of so many tokens takes.

    A multiplication and an addition are two. Forward; then backward what comes in (but for the first products, whose
    input nobody trains, with adapters) and, where they are trained, the weights. Attention's backward pass is counted
    as twice its forward one. Nothing that is computed again counts.
    """
    sizes = model.sizes
    products = sum(out * into for out, into in sizes.products)
    whole = recipe.train == "all"
    linear = 2.0 * products * sizes.depth * (3 if whole else 2)
    if not whole:
        linear -= 2.0 * math.prod(sizes.products[0])
        linear += 3 * 4 * 2.0 * 2 * recipe.rank * sizes.width * sizes.depth
    attention = 3 * 4.0 * sizes.depth * sizes.width * length
    return (linear + attention) * length


def measure_ours(
    model: BareModel, recipe: TuningRecipe, residues: int, watch: Callable[[str], None] | None = None
) -> dict[str, object]:
    """Train for the recipe's steps as ``finetune`` does, and count from the second on; ``watch`` hears of each."""
    free(model.device)
    length = residues + 2
    # Whole steps make an epoch: one of the last few proteins alone would take nearly as long.
    examples = made_up(np.full(4 * max(2, recipe.tokens // length), length), 5)
    half = torch.bfloat16 if model.device.type == "cuda" else torch.float32
    said: list[str] = []
    began = time.perf_counter()
    network = TunedEsm2(model.config, model.state, recipe, model.device, half)
    with tempfile.TemporaryDirectory(prefix="vnp-benchmark-") as place:
        pace = Pace(log=1 if watch else recipe.steps, save=NEVER, watch=NEVER)
        tuned = tune(network, examples, Path(place), {}, pace=pace, say=watch or said.append)
    if tuned.failed or not tuned.tokens_per_second:
        raise EncoderError(tuned.stopped or "no step was timed")
    rate = tuned.tokens_per_second
    return {
        "way": f"vnp, {network.attention.name} attention" + (", compiled" if network.compiled else ""),
        "train": recipe.train,
        "residues": residues,
        "tokens_a_step": recipe.tokens,
        "tokens_at_once": tuned.budget,
        "checkpointing": network.checkpointing,
        "tokens_per_second": rate,
        "tflops": rate / length * operations(model, recipe, length) / 1e12,
        "peak_gib": tuned.peak_bytes / 2**30,
        "until_done_seconds": time.perf_counter() - began,
        "said": said,
    }


def measure_rival(
    model: BareModel, recipe: TuningRecipe, residues: int, clock: Clock, batches: Sequence[int] = ()
) -> dict[str, object]:
    """Train transformers' model the usual way: adapters of peft, automatic bfloat16, its best batch.

    All proteins have one length, so it pads nothing. Frozen weights are held in bfloat16, trained ones in float32.
    """
    free(model.device)
    device, cuda = model.device, model.device.type == "cuda"
    length = residues + 2
    network: Any = published_model(model).train()
    if recipe.train == "lora":
        peft: Any = importlib.import_module("peft")
        asked = peft.LoraConfig(r=recipe.rank, lora_alpha=int(recipe.alpha), lora_dropout=0.0, target_modules=_TARGETS)
        network = peft.get_peft_model(network.to(torch.bfloat16) if cuda else network, asked)
    head = torch.nn.Linear(model.sizes.width, 1, device=device)
    trained = [one for one in (*network.parameters(), *head.parameters()) if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.rate, fused=cuda)
    memory = Memory(device)
    tried: dict[int, float | str] = {}
    best: tuple[float, int, float | None] = (0.0, 0, None)
    for batch in batches or (_BATCHES if cuda else _CPU_BATCHES):
        if tried and not clock.left:
            break
        examples = made_up(np.full(batch, length), 6)
        ids = torch.from_numpy(examples.tokens.astype(np.int64).reshape(batch, length)).to(device)
        label = torch.from_numpy(examples.label.astype(np.float32)).to(device)
        memory.restart()
        try:
            rate = _rate(network, head, optimiser, trained, ids, label)
        except torch.OutOfMemoryError:
            tried[batch] = "out of memory"
            break
        tried[batch] = rate
        before = best[0]
        if rate > before:
            best = rate, batch, memory.peak_gib
        if rate < _WORTH_MORE * before:
            break
    optimiser.zero_grad(set_to_none=True)
    del network, optimiser, trained, head
    free(device)
    if not best[1]:
        raise EncoderError("not even the smallest batch fits in memory")
    return {
        "way": f"transformers{' and peft' if recipe.train == 'lora' else ''}, SDPA, batch {best[1]}",
        "train": recipe.train,
        "residues": residues,
        "tokens_at_once": best[1] * length,
        "tokens_per_second": best[0],
        "tflops": best[0] / length * operations(model, recipe, length) / 1e12,
        "peak_gib": best[2],
        "tried": {str(size): rate for size, rate in tried.items()},
    }


def _rate(network: Any, head: Any, optimiser: Any, trained: list[Any], ids: Any, label: Any) -> float:
    """Tokens a second of whole steps."""
    cuda = ids.device.type == "cuda"

    def step() -> float:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=cuda):
            hidden = network(input_ids=ids).last_hidden_state
            logit = head(hidden[:, 1:-1].mean(1).float())[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit.float(), label)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    for _ in range(_WARM):
        step()
    began = time.perf_counter()
    losses = [step() for _ in range(_TIMED)]
    spent = time.perf_counter() - began
    if not all(map(math.isfinite, losses)):
        raise EncoderError("the rival's loss is not a number")
    return float(ids.numel() * _TIMED / spent)


def table(found: Sequence[Mapping[str, Any]], ceiling: float | None) -> str:
    """The figures in Markdown."""
    head = ("trained", "residues", "way", "tokens at once", "tokens/s", "share of GEMM rate", "peak GiB", "times rival")
    rival = {
        (one["train"], one["residues"]): one["tokens_per_second"]
        for one in found
        if str(one.get("way", "")).startswith("transformers")
    }
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in found:
        if "tokens_per_second" not in one:
            continue
        other = rival.get((one["train"], one["residues"]))
        again = " (activations computed again)" if one.get("checkpointing") else ""
        cells = (
            one["train"],
            one["residues"],
            one["way"],
            f"{one['tokens_at_once']:,}{again}",
            f"{one['tokens_per_second']:,.0f}",
            "" if not ceiling else f"{one['tflops'] / ceiling:.1%}",
            "" if one["peak_gib"] is None else f"{one['peak_gib']:.1f}",
            "" if not other else f"{one['tokens_per_second'] / other:.2f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"
