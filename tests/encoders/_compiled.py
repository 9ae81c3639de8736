"""Compiles the GPU kernels that the layers launch, without a GPU: ``python -m tests.encoders._compiled 90``.

The layers run as they do on a GPU, over tensors in the CPU's memory; Triton is told that a GPU of the given compute
capability is there, and what would be launched is compiled instead. Prints, as JSON, what each model and form after
it (``esm2_650m:joint``) compiled: names of kernels, and the bytes of shared memory that each needs.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.encoders._models import DNABERT, ESM2, random_state
from vnp.encoders.kernels import fp8, fused, rounding
from vnp.encoders.kernels.fp8 import Fp8Esm2
from vnp.encoders.kernels.fused import FusedEsm2, FusedMosaicBert
from vnp.encoders.kernels.triton_attention import TritonAttention
from vnp.encoders.kernels.turned import TurnedAttention
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.models.esm2 import Esm2, RotaryTable
from vnp.encoders.packing import AttentionShape, collate
from vnp.finetune.language.attention import attend

CPU = torch.device("cpu")
# Heads, width and inner width of the published models; their layers are all alike, so one will do.
SIZES = {"esm2_650m": (20, 1280, 5120), "dnabert_s": (12, 768, 3072)}
# Each way of cutting attention into tiles; numbers of rows that are multiples of 16 and that are not.
LENGTHS = ((51, 3), (64,), (102, 95), (168,), (500, 12), (496,))


class Pretended:
    """Triton's driver of a GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


class Compiled:
    """What was compiled since it was made, in the place of launches."""

    def __init__(self) -> None:
        self.kernels: list[tuple[str, int]] = []
        launch = JITFunction.run

        def compile_only(kernel: Any, *args: object, grid: object, warmup: bool, **options: object) -> object:
            known = kernel.device_caches[0][0]
            before = len(known)
            compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
            if len(known) > before:
                module = kernel.__module__.rpartition(".")[2]
                self.kernels.append((f"{module}.{kernel.__name__}", compiled.metadata.shared))
            return compiled

        JITFunction.run = compile_only


def run_layers(name: str, *, joint: bool, eight: bool) -> None:
    """Run a layer of a model, its embedding and its last LayerNorm over batches of each kind."""
    heads, width, inner = SIZES[name]
    base = DNABERT if name == "dnabert_s" else ESM2
    config = {**base, "num_attention_heads": heads, "hidden_size": width, "intermediate_size": inner}
    # In 8 bits one more, which stays in half precision.
    config["num_hidden_layers"] = 1 + eight
    state = random_state(config)
    if name == "dnabert_s":
        bert = MosaicBert(config, state, CPU, torch.float16)
        attention = TritonAttention(AttentionShape(heads, bert.head, bert.slopes, torch.float16, CPU))
        layers: Any = FusedMosaicBert(bert, joint=joint)
    else:
        esm2 = Esm2(config, state, CPU, torch.float16)
        attention = TritonAttention(AttentionShape(heads, esm2.head, None, torch.float16, CPU), rotary=True)
        layers = Fp8Esm2(esm2, attention) if eight else FusedEsm2(esm2, joint=joint)
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for lengths in LENGTHS:
            ids = [rng.integers(0, layers.vocabulary, n) for n in lengths]
            layers(collate(ids, np.arange(len(ids)), attention, CPU, None))


def run_attention(name: str) -> None:
    """Run the attention of fine-tuning forward and backward."""
    heads, width, _ = SIZES[name]
    attention = TurnedAttention(AttentionShape(heads, width // heads, None, torch.bfloat16, CPU))
    rotary = RotaryTable(width // heads, 10_000.0, CPU)
    for lengths in LENGTHS:
        batch = collate([np.zeros(n, np.int64) for n in lengths], np.arange(len(lengths)), attention, CPU, None)
        qkv = torch.zeros(sum(lengths), 3, heads, width // heads, dtype=torch.bfloat16, requires_grad=True)
        out = attend(qkv, batch, rotary)
        torch.autograd.grad(out, qkv, torch.zeros_like(out))


def only_shapes() -> None:
    """Leave out what decides about numbers alone, and takes long on a CPU; nobody looks at any number."""
    vars(fused)["linear"] = lambda x, weight, bias=None: x.new_zeros(*x.shape[:-1], len(weight))
    torch.Tensor.addmm_ = lambda x, *_, **__: x  # type: ignore[method-assign]
    vars(fp8)["quantise_together"] = lambda weights, moments: weights.to(rounding.KIND)
    fp8._OF_EACH = 1  # proteins of each length
    fp8._DEEP = 1


def main(capability: int, *models: str) -> None:
    """Compile for one kind of GPU; forms are ``joint``, ``plain``, ``fp8`` and ``tuned``."""
    driver.set_active(Pretended(capability))
    only_shapes()
    compiled = Compiled()
    found = {}
    for model in models:
        name, _, form = model.partition(":")
        before = len(compiled.kernels)
        if form == "tuned":
            run_attention(name)
        else:
            run_layers(name, joint=form != "plain", eight=form == "fp8")
        found[model] = compiled.kernels[before:]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
