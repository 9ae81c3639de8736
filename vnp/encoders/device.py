"""Which device to compute on, and in which precision where nobody said."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from vnp.encoders.models.eight_bits import multiplies_bytes
from vnp.errors import EncoderError, UsageError
from vnp.files.machine import cpu_fact, processor_name

_BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
_FIRST_WITH_BF16 = (8, 0)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` (the current one) or ``cuda:N``.

    Raises:
        UsageError: no device is called so.
        EncoderError: the device is not there.
    """
    name = str(name)
    here = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if here else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"no device is called {name!r}; use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device(name)
    if not here:
        raise EncoderError(f"device {name!r}: torch sees no GPU here (python -m jobs.doctor says why)")
    if number and int(number) >= torch.cuda.device_count():
        raise EncoderError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPU(s), counted from 0")
    return torch.device("cuda", int(number) if number else torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


@cache
def multiplies_bf16() -> bool:
    """Whether the CPU has units for products of bfloat16, and torch uses them."""
    if not _BF16_INSTRUCTIONS & set(cpu_fact("flags").split()):
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def choose_precision(
    name: str,
    device: torch.device,
    half: str = "fp16",
    *,
    int8: bool = False,
    bears_bf16: Callable[[], bool] = lambda: False,
) -> str:
    """Settle what ``auto`` means on a device; any other precision stays.

    Args:
        half: what ``auto`` is on CUDA, where the GPU has it; else fp16.
        int8: whether ``auto`` is int8 on a CPU that multiplies bytes.
        bears_bf16: asked, on a CPU that multiplies bfloat16, whether ``auto`` is bf16 for these weights; else fp32.

    Raises:
        EncoderError: bf16 was asked for, and the GPU does not have it.
    """
    if device.type != "cuda":
        if name != "auto":
            return name
        if int8 and multiplies_bytes():
            return "int8"
        return "bf16" if multiplies_bf16() and bears_bf16() else "fp32"
    has_bf16 = torch.cuda.get_device_capability(device) >= _FIRST_WITH_BF16
    if name == "bf16" and not has_bf16:
        raise EncoderError(f"{torch.cuda.get_device_name(device)} has no bf16: use --precision fp16 or fp32")
    if name != "auto":
        return name
    return "fp16" if half == "bf16" and not has_bf16 else half
