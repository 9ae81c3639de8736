"""Chooses the attention kernel: the fastest that takes this model here and passes a small check."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from vnp.encoders.kernels.attention import Attention, AttentionShape, ByLength, Padded, VarlenFlash
from vnp.encoders.packing import Borders
from vnp.errors import EncoderError

log = logging.getLogger(__name__)

_CHECK_LENGTHS = (3, 70, 1, 129)
_CHECK_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def choose(name: str, shape: AttentionShape) -> Attention:
    """Choose an attention kernel.

    Args:
        name: ``auto`` (packed where a packed kernel is fast, padded for float32 on CUDA), ``packed``,
            ``padded``, or the name of one kernel.
        shape: the model, its precision and its device.

    Returns:
        The first kernel that takes the model and agrees with padded attention in float32.

    Raises:
        EncoderError: there is no such kernel, or it does not run here.
    """
    makers = _makers(shape)
    if name in makers:
        wanted = [name]
    elif name in ("auto", "packed"):
        wanted = _order(shape, packed=name == "packed")
    else:
        raise EncoderError(f"no attention is called {name!r}; there are: auto, packed, {', '.join(makers)}")
    faults = []
    for each in wanted:
        try:
            kernel = makers[each]()
            if shape.device.type == "cuda" and each != "padded":
                check_kernel(kernel, shape)
        except Exception as error:  # whatever a kernel's compiler or library raises, the next one may run
            faults.append(f"{each}: {type(error).__name__}: {error}")
            log.warning("attention kernel %s", faults[-1])
        else:
            return kernel
    raise EncoderError(f"no attention kernel runs on {shape.device}: {'; '.join(faults)}")


def _makers(shape: AttentionShape) -> dict[str, Callable[[], Attention]]:
    def triton() -> Attention:
        from vnp.encoders.kernels.triton_attention import TritonAttention

        return TritonAttention(shape)

    return {
        VarlenFlash.name: VarlenFlash,
        "triton": triton,
        ByLength.name: lambda: ByLength(shape),
        Padded.name: lambda: Padded(shape),
    }


def _order(shape: AttentionShape, *, packed: bool) -> list[str]:
    if shape.device.type != "cuda":
        return [ByLength.name]
    if shape.dtype == torch.float32:
        # Without tensor cores a packed kernel saves nothing that padding would lose.
        return ["triton", ByLength.name] if packed else [Padded.name]
    flash = [VarlenFlash.name] if VarlenFlash.takes(shape) else []
    return [*flash, "triton", ByLength.name] if packed else [*flash, "triton", Padded.name]


def check_kernel(kernel: Attention, shape: AttentionShape) -> None:
    """Compare a kernel with float32 attention on a few short sequences.

    Args:
        kernel: to be checked.
        shape: the model it is for.

    Raises:
        EncoderError: they differ.
    """
    lengths = np.array(_CHECK_LENGTHS, np.int64)
    generator = torch.Generator(device=shape.device).manual_seed(0)
    rows = int(lengths.sum())
    size = (3, rows, shape.heads, shape.head)
    q, k, v = torch.randn(size, generator=generator, device=shape.device).to(shape.dtype)
    exact = AttentionShape(shape.heads, shape.head, shape.slopes, torch.float32, shape.device)
    reference = ByLength(exact).prepare(Borders(lengths, "packed", shape.device))
    with torch.inference_mode():
        got = kernel.prepare(Borders(lengths, kernel.layout, shape.device))(q, k, v).float()
        worst = float((got - reference(q.float(), k.float(), v.float())).abs().max())
    if not worst <= _CHECK_TOLERANCE[shape.dtype]:
        raise EncoderError(f"differs by {worst:.2g} from float32 attention")
