"""Runs shards as processes on this machine, through submitit's local executor."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs._task import run_task

if TYPE_CHECKING:
    from vnp.runs.request import Request, Run

_YEAR_MINUTES = 525_600
_CORES_A_TASK = 8
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one task at a time.

    Args:
        gpu: the GPU it sees, as in ``CUDA_VISIBLE_DEVICES``; empty for none.
        threads: threads of its tensor libraries.
    """

    gpu: str
    threads: int


def slots(request: Request) -> list[Slot]:
    """One slot for each visible GPU; without GPUs, or for encoders that need none, one for each group of cores."""
    cores = len(os.sched_getaffinity(0))
    if not (request.dna.identity.get("weights") or request.protein.identity.get("weights")):
        return [Slot("", 1)] * cores
    gpus = [] if request.device == "cpu" else visible_gpus()
    if gpus:
        return [Slot(gpu, max(1, cores // len(gpus))) for gpu in gpus]
    groups = max(1, cores // _CORES_A_TASK)
    return [Slot("", cores // groups)] * groups


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def run_local(run: Run, shards: Sequence[int], poll: Callable[[], None]) -> None:
    """Make shards, at most one a slot at a time; returns when no task is left.

    A task takes shard after shard until none is left, so that encoders are loaded once. One that dies is replaced,
    and the shard that it died of is left to ``rerun``.

    Args:
        run: a planned run.
        shards: numbers of the shards to make.
        poll: called a few times a second.

    Raises:
        KeyboardInterrupt: after the tasks have been ended.
    """
    import submitit

    places = slots(run.request)[: len(shards)]
    claims = Path(tempfile.mkdtemp(prefix="claims-", dir=run.paths.logs))
    executor = submitit.LocalExecutor(folder=run.paths.logs)
    executor.update_parameters(timeout_min=_YEAR_MINUTES)

    def start(slot: Slot) -> Any:
        return executor.submit(run_task, str(run.paths.request), list(shards), str(claims), slot.gpu, slot.threads)

    tasks = {index: (start(slot), 0) for index, slot in enumerate(places)}
    try:
        while tasks:
            for index, (task, claimed) in list(tasks.items()):
                if task.done():
                    del tasks[index]
                    now_claimed = len(list(claims.iterdir()))
                    # A task that took nothing before it died would only die again.
                    if claimed < now_claimed < len(shards):
                        tasks[index] = (start(places[index]), now_claimed)
            poll()
            time.sleep(_POLL_SECONDS)
    finally:
        _end([task for task, _ in tasks.values()])
        shutil.rmtree(claims, ignore_errors=True)


def _end(tasks: list[Any]) -> None:
    """Ask tasks to end, and wait until they have."""
    for task in tasks:
        task.cancel()
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(not task.done() for task in tasks) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
