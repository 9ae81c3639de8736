"""The most that could be had: a model's own matrix products alone, one layer's in turn, on random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vnp.encoders.build import DTYPES, default_budget
from vnp.errors import EncoderError
from vnp.speed.measure import free
from vnp.speed.subject import Subject

_SECONDS = 1.0
_ROWS_ON_CPU = 1024
_ROWS_FP32 = 16384
_LARGEST_FP8 = 448.0  # of float8_e4m3fn


@dataclass(frozen=True)
class Ceiling:
    """The rate of the products of one precision, measured before and after the contestants, since clocks drift.

    Attributes:
        precision: of the products.
        rows: tokens that they took at once.
        before: TFLOP/s before.
        after: TFLOP/s after, or None if that failed or was left out.
        error: why there is none.
    """

    precision: str
    rows: int
    before: float | None
    after: float | None = None
    error: str | None = None

    @property
    def tflops(self) -> float | None:
        """The mean of both."""
        found = [value for value in (self.before, self.after) if value is not None]
        return sum(found) / len(found) if found else None


def measure_ceiling(subject: Subject, precision: str, seconds: float = _SECONDS) -> float:
    """Measure one layer's matrix products alone, in turn, after warming up.

    Args:
        subject: whose shapes.
        precision: ``fp32``, ``fp16``, ``bf16``, or ``fp8`` (row-wise scales, fast accumulation, bfloat16 out).
        seconds: how long.

    Returns:
        TFLOP/s.

    Raises:
        EncoderError: the device cannot do that.
    """
    rows, device = ceiling_rows(subject, precision), subject.device
    if precision != "fp8" and precision not in DTYPES:
        raise EncoderError(f"no ceiling is known for the precision {precision!r}")
    make = _fp8_product if precision == "fp8" else _plain_product
    products = [
        make(rows, out, into, torch.bfloat16 if precision == "fp8" else DTYPES[precision], device)
        for out, into in subject.products()
    ]

    def turn(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(times):
            for product in products:
                product()
        _wait(device)
        return time.perf_counter() - began

    with torch.inference_mode():
        turn(1)
        each = turn(2) / 2
        times = max(2, round(seconds / each))
        turn(times // 3)
        spent = turn(times)
    del products
    free(device)
    return 2 * rows * sum(out * into for out, into in subject.products()) * times / spent / 1e12


def ceiling_rows(subject: Subject, precision: str) -> int:
    """Tokens of the batch that the products are measured with: the engine's default on this device."""
    if subject.device.type != "cuda":
        return _ROWS_ON_CPU
    return _ROWS_FP32 if precision == "fp32" else default_budget(subject.device, "fp16")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _draw(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device=device).manual_seed(0)
    return torch.randn(rows, columns, generator=generator, device=device)


def _plain_product(
    rows: int, out: int, into: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], torch.Tensor]:
    x = _draw(rows, into, device).to(dtype)
    weight = (_draw(out, into, device) * into**-0.5).to(dtype)
    result = torch.empty(rows, out, dtype=dtype, device=device)
    return lambda: torch.mm(x, weight.T, out=result)


def _fp8_product(
    rows: int, out: int, into: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], torch.Tensor]:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise EncoderError("fp8 needs a GPU of compute capability 8.9 or newer")
    x, x_scale = _quantised(_draw(rows, into, device))
    weight, weight_scale = _quantised(_draw(out, into, device) * into**-0.5)
    a, b = x_scale[:, None].contiguous(), weight_scale[None, :].contiguous()
    return lambda: torch._scaled_mm(x, weight.T, scale_a=a, scale_b=b, out_dtype=dtype, use_fast_accum=True)


def _quantised(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as float8, each with the scale that brings its largest number to float8's largest."""
    scale = values.abs().amax(dim=1).clamp(min=1e-12) / _LARGEST_FP8
    return (values / scale[:, None]).to(torch.float8_e4m3fn), scale.float()
