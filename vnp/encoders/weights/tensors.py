"""The strict check of a state dict against what a model needs, and the reading of config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch

from vnp.errors import WeightsError

_SHOWN = 4


def whole_number(config: Mapping[str, object], key: str) -> int:
    """Read a positive whole number from config.json.

    Raises:
        WeightsError: it is missing or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WeightsError(f"config.json: {key!r} must be a whole number above 0, not {value!r}")
    return value


def number(config: Mapping[str, object], key: str, default: float | None = None) -> float:
    """Read a positive number from config.json.

    Raises:
        WeightsError: it is missing (and there is no default) or something else.
    """
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise WeightsError(f"config.json: {key!r} must be a number above 0, not {value!r}")
    return float(value)


def trunk(
    state: Mapping[str, torch.Tensor],
    expected: Mapping[str, tuple[int, ...]],
    *,
    prefix: str,
    beside: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Take a model's own tensors out of a checkpoint, and accept no surprise.

    Args:
        state: the checkpoint.
        expected: name and shape of every tensor that the model needs.
        prefix: what may stand before every name, such as ``esm.``.
        beside: regular expressions of the names that published checkpoints carry beside the trunk (heads for
            other tasks, buffers that can be computed); they are left out.

    Returns:
        The expected tensors under their names without prefix.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape, not of floating point, or not finite.
    """
    prefixed = any(name.startswith(prefix) for name in state)
    found: dict[str, torch.Tensor] = {}
    extra: list[str] = []
    for name, tensor in state.items():
        bare = name.removeprefix(prefix)
        if bare in expected and name.startswith(prefix) == prefixed:
            found[bare] = tensor
        elif not any(re.fullmatch(pattern, bare) for pattern in beside):
            extra.append(name)
    shown = prefix if prefixed else ""
    faults = [
        _fault("missing", (f"{shown}{name} {expected[name]}" for name in expected if name not in found)),
        _fault("unexpected", (f"{name} {tuple(state[name].shape)}" for name in extra)),
        _fault(
            "of another shape",
            (
                f"{shown}{name} (expected {expected[name]}, got {tuple(tensor.shape)})"
                for name, tensor in found.items()
                if tuple(tensor.shape) != expected[name]
            ),
        ),
        _fault(
            "not floating point",
            (f"{shown}{n} ({t.dtype})" for n, t in found.items() if not t.is_floating_point()),
        ),
    ]
    told = [fault for fault in faults if fault]
    if told:
        raise WeightsError(
            f"the weights do not fit config.json: {'; '.join(told)}. "
            "Use the config.json and the weight files of one and the same model, as published."
        )
    broken = _fault("with NaN or Inf", (f"{shown}{n}" for n, t in found.items() if not bool(t.isfinite().all())))
    if broken:
        raise WeightsError(f"the weights are damaged: {broken}. Fetch them again.")
    return found


def _fault(kind: str, names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return ""
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    plural = "tensor" if len(listed) == 1 else "tensors"
    return f"{len(listed)} {plural} {kind}: {', '.join(listed[:_SHOWN])}{more}"
