"""Times the engine, and runs it out of memory on purpose."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp.encoders._random import RandomModel, mixed_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Speed:
    """What one workload took: the median of three runs after one to warm up."""

    family: str
    kernel: str
    precision: str
    workload: str
    sequences: int
    tokens: int
    seconds: float
    sequences_per_second: float
    tokens_per_second: float
    tflops: float
    peak_gib: float


def measure(model: RandomModel, precision: str, attention: str, workload: str, lengths: NDArray[np.int64]) -> Speed:
    encoder = model.encoder(precision, attention)
    ids = model.sequences(lengths, 0)
    on_gpu = encoder.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(encoder.device)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        encoder.embed_ids(ids)
        times.append(time.perf_counter() - began)
    seconds = sorted(times[1:])[1]
    return Speed(
        family=model.family,
        kernel=encoder.kernel,
        precision=precision,
        workload=workload,
        sequences=len(ids),
        tokens=int(lengths.sum()),
        seconds=seconds,
        sequences_per_second=len(ids) / seconds,
        tokens_per_second=float(lengths.sum()) / seconds,
        tflops=model.operations(lengths) / seconds / 1e12,
        peak_gib=torch.cuda.max_memory_allocated(encoder.device) / 2**30 if on_gpu else 0.0,
    )


def starve(model: RandomModel, precision: str) -> dict[str, object]:
    """Take most of the GPU's memory away, and see whether the encoder goes on with smaller batches."""
    encoder = model.encoder(precision, "auto")
    ids = model.sequences(np.full(2 * encoder.token_budget // 100, 100, np.int64), 0)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(encoder.device)
    torch.cuda.reset_peak_memory_stats(encoder.device)
    plenty = encoder.embed_ids(ids)
    peak = torch.cuda.max_memory_allocated(encoder.device)
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(encoder.device).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 0.4 * (peak - held)) / whole, encoder.device)
    try:
        scarce = encoder.embed_ids(ids)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, encoder.device)
    return {
        "family": model.family,
        "events": encoder.events,
        "max_abs": float(np.abs(plenty - scarce).max()),
        "passes": bool(encoder.events) and bool(np.allclose(plenty, scarce, atol=1e-2)),
    }


def workloads(tokens: int, longest: int) -> dict[str, NDArray[np.int64]]:
    """Lengths of short frames alone, and of all lengths mixed, with about as many tokens each."""
    mean = (longest - 10) / np.log(longest / 10)
    mixed = mixed_lengths(max(2, int(tokens / mean)), longest, 1)
    return {"100 residues": np.full(max(1, tokens // 102), 102, np.int64), f"10..{longest} tokens": mixed}
