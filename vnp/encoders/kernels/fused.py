"""Both models' layers on a GPU in half precision, with everything between the matrix products fused into few kernels.

What differs from the plain layers, which stay the reference:

- A residual is added by the matrix product that makes it. The biases of those products are left out of the stream
  and added where it is read, as one constant for each layer: ``x = stream + shift``.
- LayerNorm reads the stream once and writes once; the last one writes float32.
- GELU runs in the epilogue of the product before it, where the GPU has the bulk copy engine (Hopper or newer).
- Rotary positions are applied while attention loads its queries and keys.

An encoder uses these only after they agreed with the plain layers on its own weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from vnp.encoders.kernels.attention import AttentionShape, ByLength
from vnp.encoders.kernels.fused_dnabert import FusedMosaicBert
from vnp.encoders.kernels.fused_esm2 import FusedEsm2
from vnp.encoders.kernels.fused_fp8 import Fp8Esm2
from vnp.encoders.kernels.triton_attention import TritonAttention
from vnp.encoders.kernels.triton_linear import SHARED_MEMORY
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.models.esm2 import Esm2
from vnp.encoders.packing import Batch, collate
from vnp.errors import EncoderError

log = logging.getLogger(__name__)

_LEAST_COSINE = {torch.float16: 0.9995, torch.bfloat16: 0.99}
_LEAST_COSINE_FP8 = 0.98  # of a single token's state, before pooling

Fused = FusedEsm2 | FusedMosaicBert


def fuse(model: Esm2 | MosaicBert, shape: AttentionShape) -> tuple[Fused, TritonAttention]:
    """Make the fastest fused form of a model that runs here and agrees with it.

    Args:
        model: on a CUDA device, in half precision.
        shape: its attention.

    Returns:
        The fused model, and the attention that its batches are prepared for.

    Raises:
        EncoderError: none fits, runs and agrees.
    """
    attention = _attention(shape)
    joins = _has_tiles(shape.device) and model.width % 64 == 0 and model.config.inner % 256 == 0
    faults = []
    for joint in (True, False) if joins else (False,):
        try:
            fused = FusedEsm2(model, joint=joint) if isinstance(model, Esm2) else FusedMosaicBert(model, joint=joint)
            agree(fused, attention, model, shape)
        except Exception as error:  # whatever a kernel's compiler or library raises, the next one may run
            faults.append(f"{type(error).__name__}: {error}")
            log.warning("fused layers%s: %s", ", GELU in the product" if joint else "", faults[-1])
        else:
            return fused, attention
    raise EncoderError("; ".join(faults))


def fuse_fp8(model: Esm2, shape: AttentionShape) -> tuple[Fused, TritonAttention]:
    """Make the 8-bit form of a model; see ``fuse``.

    Raises:
        EncoderError: it does not fit, run or agree; nothing else is put in its place.
    """
    attention = _attention(shape)
    if not _has_tiles(shape.device):
        raise EncoderError(
            "8-bit products need a GPU of compute capability 9.0 (Hopper) or newer with "
            f"{SHARED_MEMORY // 1024} KiB of shared memory a block"
        )
    if model.width % 256 or model.config.inner % 256:
        raise EncoderError(f"8-bit products need widths that are multiples of 256, not {model.width}")
    try:
        fused = Fp8Esm2(model, attention)
        agree(fused, attention, model, shape, ((50, 70, 64, 129), (300, 77)), least=_LEAST_COSINE_FP8)
    except EncoderError:
        raise
    except Exception as error:  # whatever a kernel's compiler or library raises
        raise EncoderError(f"8-bit products do not run: {type(error).__name__}: {error}") from error
    return fused, attention


def _has_tiles(device: torch.device) -> bool:
    """Whether a GPU has the bulk copy engine and the room for the tiles of our own products."""
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", SHARED_MEMORY)
    return torch.cuda.get_device_capability(device) >= (9, 0) and room >= SHARED_MEMORY


def _attention(shape: AttentionShape) -> TritonAttention:
    half = shape.dtype in (torch.float16, torch.bfloat16)
    if shape.device.type != "cuda" or not half or torch.cuda.get_device_capability(shape.device) < (8, 0):
        raise EncoderError("fused layers need half precision on a CUDA device of compute capability 8.0 or newer")
    if shape.head not in (32, 64, 128):
        raise EncoderError(f"fused layers need heads of 32, 64 or 128 numbers, not {shape.head}")
    return TritonAttention(shape, rotary=shape.slopes is None)


def agree(
    fused: Callable[[Batch], torch.Tensor],
    attention: TritonAttention,
    model: Esm2 | MosaicBert,
    shape: AttentionShape,
    lengths: Sequence[Sequence[int]] = ((3, 70, 1, 129), (300, 5)),
    least: float | None = None,
) -> None:
    """Compare the last hidden states of a few random sequences with those of the plain layers.

    Args:
        fused: what is checked.
        attention: that its batches are prepared for.
        model: the plain layers.
        shape: its attention.
        lengths: of the sequences, batch by batch.
        least: the smallest cosine of two states that is let pass; by default what the precision allows for.

    Raises:
        EncoderError: they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    plain = ByLength(shape)
    wanted = _LEAST_COSINE[shape.dtype] if least is None else least
    with torch.inference_mode():
        for each in lengths:
            ids = [rng.integers(0, model.vocabulary, n) for n in each]
            members = np.arange(len(ids))
            got = fused(collate(ids, members, attention, shape.device, None)).float()
            want = model(collate(ids, members, plain, shape.device, None)).float()
            found = float(cosine_similarity(got, want, dim=-1).min())
            size = float((got.norm() / want.norm() - 1).abs())
            if not (found >= wanted and size < 0.01):
                raise EncoderError(f"differ from the plain layers: cosine {found:.6f}, size {size:.2g}")
