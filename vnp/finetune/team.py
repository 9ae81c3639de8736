"""Several GPUs of one machine that train one network: a process each, which share gradients and nothing else.

Every member has the same weights, sees a share of each step's crops, and takes the mean of all gradients. The first one
alone writes and speaks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from torch import distributed as dist

from vnp.errors import EncoderError

_PATIENCE = timedelta(hours=1)
_LAST_WORDS = 10  # seconds in which the member that failed says why


@dataclass(frozen=True, slots=True)
class Team:
    """One member of those that train together; by itself where nothing else is said."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the members, the same bytes for each, into tensors of one dtype and device.

        Raises:
            EncoderError: another one cannot be reached.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _reached():
            dist.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])

    def first_ones(self, runs: Int64[Tensor, "runs 2"]) -> Int64[Tensor, "runs 2"]:
        """The pieces that the first member found; EncoderError where it cannot be reached."""
        if self.size == 1:
            return runs
        with _reached():
            count = torch.tensor(len(runs), device=runs.device)
            dist.broadcast(count, 0)
            found = runs if self.leads else torch.zeros((int(count), 2), dtype=runs.dtype, device=runs.device)
            dist.broadcast(found, 0)
        return found


@contextmanager
def joined(rank: int, size: int, meeting: Path, device: torch.device) -> Iterator[Team]:
    """Be one of ``size`` members, which find each other by a file that is not there before.

    Raises:
        EncoderError: another one cannot be reached.
    """
    # They are on one machine: nothing of it is to be heard outside.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _reached():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=meeting.absolute().as_uri(), rank=rank, world_size=size, timeout=_PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )  # fmt: skip
    yield Team(rank, size)
    dist.destroy_process_group()


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Another one failed, most likely, and its reason is the better one.
        time.sleep(_LAST_WORDS)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(f"the GPUs that train together do not reach each other: {first}") from error
