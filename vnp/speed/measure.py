"""How long something takes: medians of repeats, the memory it needs, and how far its numbers are from exact ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Int64

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Callable[[Sequence["NDArray[np.int64]"]], "Float32[np.ndarray, 'n width']"]
Pieces = list[Int64[np.ndarray, "members"]]

_FEWEST_PIECES = 4


class Clock:
    """The time that a measurement may take in all.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - time.monotonic())

    def share(self, parts: int) -> Clock:
        """A clock for the next of so many parts that are left."""
        return Clock(self.left / max(1, parts))


@dataclass(frozen=True)
class Timing:
    """What was timed.

    Attributes:
        sequences: in one round.
        lengths: tokens of each.
        seconds: of each round, after one that did not count.
        peak_gib: most memory of the GPU beyond what was in use before the contestant was built; None on a CPU.
    """

    sequences: int
    lengths: Int64[np.ndarray, "n"]
    seconds: tuple[float, ...]
    peak_gib: float | None

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)


class Memory:
    """The peak of a GPU's memory, counted from when this was made.

    Args:
        device: a CPU has no peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        if self._cuda:
            free(device)
        self._base = torch.cuda.memory_allocated(device) if self._cuda else 0

    def restart(self) -> None:
        """Forget the peak so far."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def peak_gib(self) -> float | None:
        """The peak since the last restart, in GiB."""
        if not self._cuda:
            return None
        return max(0, torch.cuda.max_memory_allocated(self._device) - self._base) / 2**30


def free(device: torch.device) -> None:
    """Give back what nobody refers to any more."""
    if device.type == "cuda":
        import gc

        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def take_time(
    run: Run,
    ids: Sequence[NDArray[np.int64]],
    pieces: Pieces,
    *,
    repeats: int,
    memory: Memory,
    clock: Clock | None = None,
    seconds: float | None = None,
) -> Timing:
    """Time a contestant.

    Args:
        run: embeds sequences as one piece, and returns once the numbers are there.
        ids: of all sequences.
        pieces: what the contestant works through in turn, such as its batches.
        repeats: rounds that count.
        memory: whose peak is wanted.
        clock: no further round is begun once it has run out.
        seconds: for all rounds together, about; None times every piece in every round. Where it is too short for all
            pieces, some are timed, evenly spaced through them.

    Returns:
        The times of the pieces that were timed.
    """
    together = [[ids[i] for i in piece] for piece in pieces]
    run(together[0])
    chosen = together
    if seconds is not None and len(together) > _FEWEST_PIECES:
        probes = _spread(together, _FEWEST_PIECES)
        cost = _time(run, probes) / len(probes)
        chosen = _spread(together, max(_FEWEST_PIECES, int(seconds / (repeats * cost))))
    memory.restart()
    times = [_time(run, chosen)]
    while len(times) < repeats and (clock is None or clock.left):
        times.append(_time(run, chosen))
    lengths = np.array([len(each) for piece in chosen for each in piece], np.int64)
    return Timing(len(lengths), lengths, tuple(times), memory.peak_gib)


def _time(run: Run, pieces: Sequence[Sequence[NDArray[np.int64]]]) -> float:
    began = time.perf_counter()
    for piece in pieces:
        run(piece)
    return time.perf_counter() - began


def _spread(pieces: list[list[NDArray[np.int64]]], count: int) -> list[list[NDArray[np.int64]]]:
    """So many of the pieces, evenly spaced."""
    places = np.unique(np.linspace(0, len(pieces) - 1, min(count, len(pieces))).round().astype(np.int64))
    return [pieces[i] for i in places]


def choose_sample(lengths: Int64[np.ndarray, "n"], count: int, seed: int = 0) -> Int64[np.ndarray, "m"]:
    """Choose sequences to compare numbers on: at random, with the shortest and the longest.

    Args:
        lengths: tokens of each sequence.
        count: how many; fewer where there are fewer.
        seed: of the choice.

    Returns:
        Their places, in order.
    """
    extremes = np.unique([int(lengths.argmin()), int(lengths.argmax())])
    others = np.setdiff1d(np.arange(len(lengths)), extremes)
    more = np.random.default_rng(seed).permutation(others)[: max(0, count - len(extremes))]
    return np.sort(np.concatenate([extremes, more]))


def embed_in_pieces(run: Run, ids: Sequence[NDArray[np.int64]], pieces: Pieces) -> Float32[np.ndarray, "n width"]:
    """Embed all sequences piece by piece, and put the rows into the order of the sequences."""
    found: NDArray[np.float32] | None = None
    for piece in pieces:
        rows = run([ids[i] for i in piece])
        if found is None:
            found = np.empty((len(ids), rows.shape[1]), np.float32)
        found[piece] = rows
    assert found is not None
    return found


def least_cosine(got: Float32[np.ndarray, "n width"], want: Float32[np.ndarray, "n width"]) -> float:
    """The smallest cosine between rows of the same number; NaN where a number is not finite."""
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())
