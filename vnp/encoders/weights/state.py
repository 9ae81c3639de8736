"""The tensors of a model out of its files; nothing that a file contains is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vnp.encoders.weights.folders import (
    SINGLE_FILES,
    read_index,
    weight_files,
)
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "fetch it again (python -m jobs.fetch)"


def read_state(folder: Path, pins: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Read all tensors of a model, on the CPU, mapped from disk where the format allows it.

    Raises:
        WeightsError: a file is missing, truncated, damaged, or a pickle with anything but plain tensors in it.
    """
    state: dict[str, Tensor] = {}
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


def _check_index(path: Path, state: Mapping[str, Tensor]) -> None:
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
