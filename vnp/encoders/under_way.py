"""What is on its way through an encoder: sequences made ready, batches on the GPU, and numbers coming back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from vnp.encoders.packing import Batch

if TYPE_CHECKING:
    from jaxtyping import Float32
    from numpy.typing import NDArray

_UNDER_WAY = 8  # batches that are queued ahead, so that the GPU goes on while Python is held up


@dataclass(frozen=True, eq=False)
class Work:
    """Sequences made ready to be embedded; see ``TransformerEncoder.prepare``.

    Attributes:
        ids: tokens of each distinct sequence.
        firsts: where each of them comes first in the call.
        places: which of them each sequence of the call is.
    """

    ids: Sequence[NDArray[np.integer]]
    firsts: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answer:
    """A batch's numbers on their way to the host.

    Attributes:
        batch: whose they are.
        values: the numbers, on the host once ``arrived`` has passed.
        begun: where the GPU's queue was before the batch; None on a CPU.
        arrived: and after it.
    """

    batch: Batch
    values: torch.Tensor
    begun: torch.cuda.Event | None
    arrived: torch.cuda.Event | None

    @classmethod
    def send(cls, batch: Batch, values: torch.Tensor, begun: torch.cuda.Event | None) -> Answer:
        """Begin to copy numbers to the host, behind what computes them; does not wait."""
        if values.device.type != "cuda":
            return cls(batch, values, None, None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        return cls(batch, host, begun, mark(values.device))

    def read(self) -> tuple[NDArray[np.float32], float]:
        """Wait for the numbers; gives them, and for how many seconds the GPU had this batch to work on."""
        seconds = 0.0
        if self.arrived is not None:
            self.arrived.synchronize()
            if self.begun is not None:
                seconds = self.begun.elapsed_time(self.arrived) / 1000
        return cast("NDArray[np.float32]", self.values.numpy()), seconds


class Launched:
    """Batches of one call on their way.

    Attributes:
        gpu_seconds: for how long the GPU had the batches read so far to work on; 0 on a CPU.
    """

    def __init__(self, work: Work, width: int, check: Callable[[NDArray[np.int64], NDArray[np.bool_]], None]) -> None:
        self.gpu_seconds = 0.0
        self._work = work
        self._check = check
        self._out = np.empty((len(work.firsts), width), np.float32)
        self._waiting: deque[Answer] = deque()

    def add(self, answer: Answer) -> None:
        """Take note of a batch that was queued; waits for an earlier one if many are under way."""
        self._waiting.append(answer)
        while len(self._waiting) > _UNDER_WAY:
            self._read()

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Wait for all batches, and give one row a sequence.

        Raises:
            EncoderError: numbers are not finite.
        """
        while self._waiting:
            self._read()
        places = self._work.places
        return self._out if len(self._out) == len(places) else self._out[places]

    def _read(self) -> None:
        answer = self._waiting.popleft()
        means, seconds = answer.read()
        self.gpu_seconds += seconds
        members = answer.batch.members
        self._check(self._work.firsts[members], np.asarray(np.isfinite(means).all(axis=1)))
        self._out[members] = means


def mark(device: torch.device) -> torch.cuda.Event | None:
    """Mark where the GPU's queue is now; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
