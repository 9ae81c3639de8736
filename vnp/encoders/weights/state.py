"""Tensors out of one file."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vnp.errors import WeightsError

_AGAIN = "fetch it again (python -m jobs.fetch)"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a ``.safetensors`` or ``.bin`` file on the CPU.

    Args:
        path: the file.

    Returns:
        Tensor name to tensor.

    Raises:
        WeightsError: it is missing, damaged, or more than a plain table of tensors.
    """
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
