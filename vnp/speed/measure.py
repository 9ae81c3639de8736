"""How long something takes and the memory it needs, how far its numbers are from exact ones, and on which machine.

The most that could be had is the rate of a model's own matrix products alone, one layer's in turn, on random numbers.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from jaxtyping import Int64

from vnp.encoders.build import DTYPES, default_budget
from vnp.encoders.device import multiplies_bf16
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.files.machine import processor_name

_ROWS_ON_CPU, _ROWS_FP32 = 1024, 16384
_LARGEST_FP8 = 448.0  # of float8_e4m3fn
_LIBRARIES = ("torch", "triton", "transformers", "numpy", "tokenizers")


class Clock:
    """The time that a measurement may take in all, in seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - time.monotonic())

    def share(self, parts: int) -> Clock:
        """A clock for the next of so many parts that are left."""
        return Clock(self.left / max(1, parts))


class Memory:
    """The peak of a GPU's memory, counted from when this was made; a CPU has none."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        free(device)
        self._base = torch.cuda.memory_allocated(device) if self._cuda else 0

    def restart(self) -> None:
        """Forget the peak so far."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def peak_gib(self) -> float | None:
        """The peak since the last restart."""
        if not self._cuda:
            return None
        return max(0, torch.cuda.max_memory_allocated(self._device) - self._base) / 2**30

    @property
    def held_gib(self) -> float | None:
        """What is held now."""
        return (torch.cuda.memory_allocated(self._device) - self._base) / 2**30 if self._cuda else None


def free(device: torch.device) -> None:
    """Give back what nobody refers to any more."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def take_time(run: Callable[[], object], repeats: int, memory: Memory, clock: Clock | None = None) -> list[float]:
    """Seconds of each round, after one that does not count; none is begun once the clock has run out but the first."""
    run()
    memory.restart()
    times: list[float] = []
    while not times or (len(times) < repeats and (clock is None or clock.left)):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times


def choose_sample(lengths: Int64[np.ndarray, "n"], count: int) -> Int64[np.ndarray, "m"]:
    """Places of so many sequences to compare numbers on: at random, with the shortest and the longest."""
    extremes = np.unique([int(lengths.argmin()), int(lengths.argmax())])
    others = np.setdiff1d(np.arange(len(lengths)), extremes)
    more = np.random.default_rng(0).permutation(others)[: max(0, count - len(extremes))]
    return np.sort(np.concatenate([extremes, more]))


@dataclass(frozen=True)
class Ceiling:
    """TFLOP/s of one precision's products over ``rows`` tokens, before and after all else, since clocks drift."""

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


def measure_ceiling(model: BareModel, precision: str, seconds: float = 1.0) -> float:
    """Measure one layer's matrix products alone, in turn, after warming up, for so many seconds; gives TFLOP/s.

    The precision is ``fp32``, ``fp16``, ``bf16``, or ``fp8`` (row-wise scales, fast accumulation, bfloat16 out).

    Raises:
        EncoderError: the device cannot do that.
    """
    rows, device = ceiling_rows(model, precision), model.device
    if precision not in DTYPES:
        raise EncoderError(f"no ceiling is known for the precision {precision!r}")
    make = _fp8_product if precision == "fp8" else _plain_product
    shapes = model.sizes.products
    products = [make(rows, out, into, DTYPES[precision], device) for out, into in shapes]

    def turn(times: int) -> None:
        for _ in range(times):
            for product in products:
                product()

    with torch.inference_mode():
        spent = seconds_of(turn, seconds, device)
    del products
    free(device)
    return 2 * rows * sum(out * into for out, into in shapes) / spent / 1e12


def seconds_of(turn: Callable[[int], object], seconds: float, device: torch.device) -> float:
    """How long one of many turns takes, once all is warm; they take so many ``seconds``, about."""

    def timed(times: int) -> float:
        _wait(device)
        began = time.perf_counter()
        turn(times)
        _wait(device)
        return time.perf_counter() - began

    timed(1)
    times = max(2, round(2 * seconds / timed(2)))
    timed(times // 3)
    return timed(times) / times


def ceiling_rows(model: BareModel, precision: str) -> int:
    """Tokens of the batch that the products are measured with: the engine's default on this device."""
    if model.device.type != "cuda":
        return _ROWS_ON_CPU
    return _ROWS_FP32 if precision == "fp32" else default_budget(model.device, "fp16")


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


def _fp8_product(rows: int, out: int, into: int, _: torch.dtype, device: torch.device) -> Callable[[], torch.Tensor]:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise EncoderError("fp8 needs a GPU of compute capability 8.9 or newer")
    x, x_scale = _quantised(_draw(rows, into, device))
    weight, weight_scale = _quantised(_draw(out, into, device) * into**-0.5)
    a, b = x_scale[:, None].contiguous(), weight_scale[None, :].contiguous()
    return lambda: torch._scaled_mm(x, weight.T, scale_a=a, scale_b=b, out_dtype=torch.bfloat16, use_fast_accum=True)


def _quantised(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as float8, each with the scale that brings its largest number to float8's largest."""
    scale = values.abs().amax(dim=1).clamp(min=1e-12) / _LARGEST_FP8
    return (values / scale[:, None]).to(torch.float8_e4m3fn), scale.float()


def describe_machine(device: torch.device) -> dict[str, object]:
    """The device, the versions, the command and the date as JSON values, for everybody who reads the figures later."""
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found: dict[str, object] = {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "cuda": torch.version.cuda,
        "command": " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["memory_gib"] = round(properties.total_memory / 2**30, 1)
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["gpus"] = torch.cuda.device_count()
    return found


def default_precisions(device: torch.device, *, few: bool = False) -> tuple[str, ...]:
    """The precisions worth measuring: half ones on a GPU; float32 on a CPU, and bfloat16 where it has units for it."""
    if device.type == "cuda":
        return ("fp16",) if few else ("fp16", "bf16")
    return ("fp32", "bf16") if multiplies_bf16() and not few else ("fp32",)
