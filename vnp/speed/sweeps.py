"""How throughput and memory depend on the length of sequences, and on the tokens of a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.speed.measure import Clock, Memory

_GPU_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
_CPU_LENGTHS = (32, 64, 128, 256, 512)
_GPU_BUDGETS = (4096, 8192, 16384, 32768, 65536, 131072, 262144)
_CPU_BUDGETS = (512, 1024, 2048, 4096, 8192)
_REPEATS = 3
_WITHIN = 0.01
_FULL = 0.998  # a little less than whole batches, so that no token is left for one more


@dataclass(frozen=True)
class Point:
    """One measurement of a sweep.

    Attributes:
        length: tokens of each sequence.
        budget: tokens that a batch may have.
        sequences_per_second: of the engine.
        tokens_per_second: of the engine.
        tflops: of the engine.
        peak_gib: most memory, weights included; None on a CPU.
        error: why there is no measurement.
    """

    length: int
    budget: int
    sequences_per_second: float = 0.0
    tokens_per_second: float = 0.0
    tflops: float = 0.0
    peak_gib: float | None = None
    error: str | None = None


def ranges(device: torch.device) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of a sequence, and tokens of a batch, that are worth measuring on a device."""
    return (_GPU_LENGTHS, _GPU_BUDGETS) if device.type == "cuda" else (_CPU_LENGTHS, _CPU_BUDGETS)


def by_length(
    model: BareModel, encoder: TransformerEncoder, memory: Memory, lengths: Sequence[int], clock: Clock
) -> list[Point]:
    """Measure sequences of one length after another, with the encoder's own budget.

    Args:
        model: the model.
        encoder: it, ready.
        memory: made before the encoder was built.
        lengths: tokens of a sequence.
        clock: no further point is begun once it has run out.

    Returns:
        A point a length; the last one may have an error, and ends the sweep.
    """
    return _sweep(model, encoder, memory, [(length, encoder.token_budget) for length in lengths], clock)


def by_budget(
    model: BareModel, encoder: TransformerEncoder, memory: Memory, length: int, budgets: Sequence[int], clock: Clock
) -> list[Point]:
    """Measure batches of more and more tokens; see ``by_length``.

    Args:
        model: the model.
        encoder: it, ready.
        memory: made before the encoder was built.
        length: tokens of each sequence.
        budgets: tokens of a batch, from small to large.
        clock: no further point is begun once it has run out.

    Returns:
        A point a budget, up to the first that does not fit in memory.
    """
    return _sweep(model, encoder, memory, [(length, budget) for budget in budgets if budget >= length], clock)


def best_budget(points: Sequence[Point], within: float = _WITHIN) -> Point | None:
    """The smallest budget that is nearly as fast as the best.

    Args:
        points: of a sweep over budgets.
        within: how much slower it may be.

    Returns:
        Its point, or None if nothing was measured.
    """
    good = [point for point in points if point.error is None]
    if not good:
        return None
    top = max(point.tokens_per_second for point in good)
    return min((point for point in good if point.tokens_per_second >= (1 - within) * top), key=lambda p: p.budget)


def _sweep(
    model: BareModel, encoder: TransformerEncoder, memory: Memory, steps: Sequence[tuple[int, int]], clock: Clock
) -> list[Point]:
    """Measure length after length and budget after budget until one fails; the encoder keeps its own budget."""
    before = encoder.token_budget
    points: list[Point] = []
    try:
        for length, budget in steps:
            if not clock.left:
                break
            points.append(_point(model, encoder, memory, length, budget))
            if points[-1].error is not None:
                break
    finally:
        encoder.token_budget = before
    return points


def _point(model: BareModel, encoder: TransformerEncoder, memory: Memory, length: int, budget: int) -> Point:
    encoder.token_budget = budget
    empty = Point(length, budget)
    # Whole batches alone, so that a last one that is nearly empty does not count against a large budget.
    # Enough of them that small ones are not lost in the noise.
    batches = max(1, -(-(131_072 if model.device.type == "cuda" else 1024) // budget))
    lengths = np.full(batches * max(1, int(budget * _FULL) // length), length, np.int64)
    ids = model.sequences(lengths)
    try:
        encoder.embed_ids(ids)
        memory.restart()
        times = [_seconds(encoder, ids) for _ in range(_REPEATS)]
    except (EncoderError, torch.OutOfMemoryError) as error:
        return replace(empty, error="out of memory" if _is_memory(error) else str(error))
    if encoder.token_budget != budget:
        # The engine goes on with smaller batches by itself, which would be another measurement.
        return replace(empty, error="out of memory")
    seconds = statistics.median(times)
    return replace(
        empty,
        sequences_per_second=len(ids) / seconds,
        tokens_per_second=float(lengths.sum()) / seconds,
        tflops=model.operations(lengths) / seconds / 1e12,
        peak_gib=memory.peak_gib,
    )


def _seconds(encoder: TransformerEncoder, ids: Sequence[np.ndarray]) -> float:
    began = time.perf_counter()
    encoder.embed_ids(ids)
    return time.perf_counter() - began


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)
