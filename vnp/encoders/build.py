"""Builds an encoder from a model's config and weights: device, precision, and the fastest kernels that are right.

Nothing that a file of weights contains is ever executed.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vnp.encoders.device import choose_device, device_name
from vnp.encoders.engine import Model, Precision, TransformerEncoder
from vnp.encoders.kernels.attention import choose
from vnp.encoders.measured import read_tuned
from vnp.encoders.models.trunk import Trunk
from vnp.encoders.packing import Attention, AttentionShape, on_device
from vnp.encoders.spec import TRANSFORMERS, EncoderSpec, Family
from vnp.encoders.tokens.tokenizers import Tokenizer
from vnp.encoders.weights.folders import SINGLE_FILES, read_index, weight_files
from vnp.errors import EncoderError, WeightsError

log = logging.getLogger(__name__)

# What weights and activations are held in; fp8 rounds further where it multiplies.
DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float16,
}
_FUSED = "fused"
_AGAIN = "fetch it again (python -m jobs.fetch)"


def default_budget(device: torch.device, precision: Precision) -> int:
    """Rows of a batch that use the device well and fit in its memory."""
    if device.type != "cuda":
        return 8192
    return 16384 if precision == "fp32" else 65536


def build(
    config: Mapping[str, object],
    state: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    spec: EncoderSpec,
    *,
    device: str | torch.device,
    precision: str,
    token_budget: int | None = None,
    attention: str = "auto",
) -> TransformerEncoder:
    """Build an encoder from the content of its ``config.json``, its tensors (with or without prefix) and its tokenizer.

    Args:
        precision: ``fp32``, ``fp16``, ``bf16``, or, for ESM2 on Hopper or newer, ``fp8``; weights are cast once.
        token_budget: rows of one batch; None for what ``benchmark speed --tune`` found best here, else what fits the
            device.
        attention: ``auto`` (``fused`` where it runs and agrees, else the fastest other; the environment variable
            VNP_ATTENTION may name another), ``fused``, ``packed``, ``padded``, or a kernel's name.

    Raises:
        WeightsError: config, weights and spec do not fit each other.
        EncoderError: the device, the precision or the kernel cannot be used.
    """
    kind = str(config.get("model_type"))
    if kind not in spec.family.model_types:
        known = sorted(name for family in TRANSFORMERS for name in family.model_types)
        raise WeightsError(f"config.json: 'model_type' is {kind!r}; known are {', '.join(known)}")
    if precision not in DTYPES:
        raise EncoderError(f"no precision is called {precision!r}; use {', '.join(DTYPES)}")
    if token_budget is not None and token_budget < 1:
        raise EncoderError(f"the token budget must be above 0, not {token_budget}")
    place = choose_device(device)
    torch.zeros((), device=place)  # starts a GPU's context, which is not reading weights
    started = time.perf_counter()
    model: Trunk = spec.family.load_model()(config, state, place, DTYPES[precision])
    brought = time.perf_counter() - started
    if model.width != spec.width:
        raise WeightsError(f"{spec.name} is {spec.width} wide, but config.json has hidden_size {model.width}")
    shape = AttentionShape(model.heads, model.head, model.slopes, DTYPES[precision], place)
    checked = cast("Precision", precision)
    family = spec.family
    with on_device(place):
        runner, kernel, name = (
            _in_8_bits(model, family, shape) if checked == "fp8" else _fastest(model, family, shape, attention)
        )
    encoder = TransformerEncoder(
        runner,
        tokenizer,
        spec,
        attention=kernel,
        device=place,
        precision=checked,
        token_budget=token_budget
        or read_tuned(device_name(place), spec.name, precision)
        or default_budget(place, checked),
        kernel=name,
    )
    encoder.weights_seconds = brought
    return encoder


def _fastest(model: Trunk, family: Family, shape: AttentionShape, wanted: str) -> tuple[Model, Attention, str]:
    if wanted == "auto":
        wanted = os.environ.get("VNP_ATTENTION", "auto")
    half_on_gpu = shape.device.type == "cuda" and shape.dtype != torch.float32
    if wanted == _FUSED or (wanted == "auto" and half_on_gpu):
        try:
            from vnp.encoders.kernels.fused import fuse

            return *fuse(model, family, shape), _FUSED
        except (EncoderError, ImportError) as error:
            if wanted == _FUSED:
                raise EncoderError(f"no fused layers run on {shape.device}: {error}") from error
            log.warning("fused layers are not used on %s: %s", shape.device, error)
    kernel = choose(wanted, shape)
    return model, kernel, kernel.name


def _in_8_bits(model: Trunk, family: Family, shape: AttentionShape) -> tuple[Model, Attention, str]:
    if family.eight_bits is None:
        able = " and ".join(one.title for one in TRANSFORMERS if one.eight_bits is not None)
        raise EncoderError(f"fp8 is for {able} models; use fp16")
    try:
        from vnp.encoders.kernels.fused import fuse_fp8

        return *fuse_fp8(model, family, shape), "fused fp8"
    except (EncoderError, ImportError) as error:
        raise EncoderError(f"--precision fp8 does not run on {shape.device}: {error}; use fp16") from error


def read_state(folder: Path, pins: Mapping[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Read all tensors of a model, on the CPU, mapped from disk where the format allows it.

    Raises:
        WeightsError: a file is missing, truncated, damaged, or a pickle with anything but plain tensors in it.
    """
    state: dict[str, torch.Tensor] = {}
    names = weight_files(folder, pins)
    for name in names:
        tensors = read_tensors(folder / name)
        twice = sorted(set(tensors) & set(state))
        if twice:
            raise WeightsError(f"{folder / name}: tensor {twice[0]!r} is also in another file of {folder}")
        state.update(tensors)
    for kind in SINGLE_FILES:
        index_path = folder / f"{kind}.index.json"
        if len(names) > 1 and names[0].endswith(Path(kind).suffix) and index_path.is_file():
            _check_index(index_path, state)
    return state


def _check_index(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    promised = set(read_index(path))
    missing, extra = sorted(promised - set(state)), sorted(set(state) - promised)
    if missing or extra:
        what = f"tensor {missing[0]!r} is in no file" if missing else f"tensor {extra[0]!r} is not listed"
        raise WeightsError(
            f"{path}: {what} ({len(missing)} missing, {len(extra)} unlisted); fetch it again (python -m jobs.fetch)"
        )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a ``.safetensors`` or ``.bin`` file on the CPU."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing; {_AGAIN}")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a plain state dict: it holds a {type(content).__name__}; {_AGAIN}")
    state: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path} is not a plain state dict: {name!r} is a {type(value).__name__}, not a tensor")
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise WeightsError(f"{path}: tensor {name!r} is not an ordinary dense tensor")
        state[name] = value.detach()
    if not state:
        raise WeightsError(f"{path} holds no tensors; {_AGAIN}")
    return state


def _safetensors(path: Path) -> object:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is truncated or damaged: {error}; {_AGAIN}") from error


def _pickle(path: Path) -> object:
    try:
        with path.open("rb") as stream:
            # Only the zip format (PyTorch 1.6 and later) can be mapped; its first bytes tell.
            mapped = stream.read(4) == b"PK\x03\x04"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a plain state dict of tensors ({_reason(error)}). "
            "Nothing in it was run; use a safetensors copy of these weights"
        ) from error
    # A damaged pickle can fail anywhere in the unpickler, with any error.
    except Exception as error:
        raise WeightsError(f"{path} is truncated or damaged ({_reason(error)}); {_AGAIN}") from error


def _reason(error: Exception) -> str:
    """What was found, without torch's page of advice on how to drop the check: that is around the first cause."""
    cause = error.__context__ if isinstance(error, pickle.UnpicklingError) else None
    lines = str(cause or error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
