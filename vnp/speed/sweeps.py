"""How throughput and memory depend on the length of sequences, and on the tokens of a batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.errors import EncoderError
from vnp.speed.measure import Clock, Memory
from vnp.speed.subject import Subject

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
    subject: Subject, encoder: TransformerEncoder, memory: Memory, lengths: Sequence[int], clock: Clock
) -> list[Point]:
    """Measure sequences of one length after another, with the encoder's own budget.

    Args:
        subject: the model.
        encoder: it, ready.
        memory: made before the encoder was built.
        lengths: tokens of a sequence.
        clock: no further point is begun once it has run out.

    Returns:
        A point a length; the last one may have an error, and ends the sweep.
    """
    asked = encoder.token_budget
    steps: list[Callable[[], Point]] = [
        lambda length=length: _point(subject, encoder, memory, length, asked)  # type: ignore[misc]
        for length in lengths
    ]
    return _sweep(encoder, steps, clock)


def by_budget(
    subject: Subject, encoder: TransformerEncoder, memory: Memory, length: int, budgets: Sequence[int], clock: Clock
) -> list[Point]:
    """Measure batches of more and more tokens; see ``by_length``.

    Args:
        subject: the model.
        encoder: it, ready.
        memory: made before the encoder was built.
        length: tokens of each sequence.
        budgets: tokens of a batch, from small to large.
        clock: no further point is begun once it has run out.

    Returns:
        A point a budget, up to the first that does not fit in memory.
    """
    steps: list[Callable[[], Point]] = [
        lambda budget=budget: _point(subject, encoder, memory, length, budget)  # type: ignore[misc]
        for budget in budgets
        if budget >= length
    ]
    return _sweep(encoder, steps, clock)


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


def _sweep(encoder: TransformerEncoder, steps: Sequence[Callable[[], Point]], clock: Clock) -> list[Point]:
    asked = encoder.token_budget
    points: list[Point] = []
    try:
        for step in steps:
            if not clock.left:
                break
            points.append(step())
            if points[-1].error is not None:
                break
    finally:
        encoder.token_budget = asked
    return points


def _point(subject: Subject, encoder: TransformerEncoder, memory: Memory, length: int, budget: int) -> Point:
    encoder.token_budget = budget
    empty = Point(length, budget)
    # Whole batches alone, so that a last one that is nearly empty does not count against a large budget.
    batches = max(1, encoder_batches(subject, budget))
    lengths = np.full(batches * max(1, int(budget * _FULL) // length), length, np.int64)
    ids = subject.sequences(lengths)
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
        tflops=subject.operations(lengths) / seconds / 1e12,
        peak_gib=memory.peak_gib,
    )


def encoder_batches(subject: Subject, budget: int) -> int:
    """Batches to time at once: enough that small ones are not lost in the noise."""
    enough = 131_072 if subject.device.type == "cuda" else 1024
    return -(-enough // budget)


def _seconds(encoder: TransformerEncoder, ids: Sequence[np.ndarray]) -> float:
    began = time.perf_counter()
    encoder.embed_ids(ids)
    return time.perf_counter() - began


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)
