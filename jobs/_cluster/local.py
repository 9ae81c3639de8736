"""Shards as processes on this machine, through submitit's local executor."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs._cli.progress import Progress
from jobs._cluster.inline import Inline
from jobs._cluster.task import noted, run_task
from vnp.errors import StorageError, storage_error
from vnp.runs.done.status import run_status
from vnp.runs.request import Request, Run

_YEAR_MINUTES = 525_600
_CORES_A_TASK = 8
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_OWN_WAY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one task at a time: the GPU that it sees, empty for none, and threads of its tensor libraries."""

    gpu: str
    threads: int


def slots(request: Request) -> list[Slot]:
    """One slot for each visible GPU; without GPUs, or for encoders that need none, one for each group of cores."""
    cores = len(os.sched_getaffinity(0))
    if not request.needs_weights:
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


class Local(Inline):
    """Shards are made by processes of this machine, which ``submit`` waits for; the rest this process does itself."""

    name = "local"

    def make(self, run: Run, shards: Sequence[int]) -> None:
        """Make shards, with progress from their files."""
        state = run_status(run)
        with Progress("embedding", state.rows_planned, "rows") as progress:

            def poll() -> None:
                # A look that fails must not end tasks that work; what is wrong shows in the end.
                with suppress(StorageError):
                    found = run_status(run).shards
                    rows = sum(one.shard.rows * one.blocks[0] / max(one.blocks[1], 1) for one in found)
                    done = sum(one.state == "done" for one in found)
                    progress.to(rows, f", {done} of {len(found)} shards")

            _run_tasks(run, shards, poll)
            poll()


def _run_tasks(run: Run, shards: Sequence[int], poll: Callable[[], None]) -> None:
    """Make shards, at most one a slot at a time; returns when no task is left.

    A task takes shard after shard until none is left, so that encoders are loaded once. One that dies is replaced,
    and the shard that it died of is left to ``rerun``. ``poll`` is called a few times a second.

    Raises:
        KeyboardInterrupt: after the tasks have been ended.
        StorageError: tasks cannot be started, say because the disk is full; those that were have been ended.
    """
    # Here, because it takes long to load, and to name this place does not need it.
    import submitit

    places = slots(run.request)[: len(shards)]
    run.paths.make()
    with _writing_logs(run):
        claims = Path(tempfile.mkdtemp(prefix="claims-", dir=run.paths.logs))
        executor = submitit.LocalExecutor(folder=run.paths.logs)
    executor.update_parameters(timeout_min=_YEAR_MINUTES)

    def start(slot: Slot) -> Any:
        with _writing_logs(run), _stderr_in(run.paths.logs / "local.err"):
            return executor.submit(run_task, str(run.paths.request), list(shards), str(claims), slot.gpu, slot.threads)

    tasks: dict[int, tuple[Any, int]] = {}
    with noted(signal.SIGINT, signal.SIGTERM) as interrupted:
        try:
            for index, slot in enumerate(places):
                tasks[index] = (start(slot), 0)
            while tasks:
                for index, (task, claimed) in list(tasks.items()):
                    if task.done():
                        del tasks[index]
                        now_claimed = len(list(claims.iterdir()))
                        # A task that took nothing before it died would only die again.
                        if claimed < now_claimed < len(shards) and not interrupted():
                            tasks[index] = (start(places[index]), now_claimed)
                if interrupted():
                    raise KeyboardInterrupt
                poll()
                time.sleep(_POLL_SECONDS)
        finally:
            _end([task for task, _ in tasks.values()])
            shutil.rmtree(claims, ignore_errors=True)


@contextmanager
def _writing_logs(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, f"writing below {run.paths.logs}") from error


@contextmanager
def _stderr_in(path: Path) -> Iterator[None]:
    """Let processes that are started here write their stderr to a file.

    Between us and each task stands a process of submitit's, which prints a traceback when it is asked to end.
    """
    kept = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _end(tasks: list[Any]) -> None:
    """Ask tasks to end, and wait until they have."""
    for task in tasks:
        if not task.done():
            # The process between passes it on, and the task ends after its block.
            os.kill(int(task.job_id), signal.SIGTERM)
    if _ended(tasks, _OWN_WAY_SECONDS):
        return
    for task in tasks:
        if not task.done():
            task.cancel()
    _ended(tasks, _GRACE_SECONDS)


def _ended(tasks: list[Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not all(task.done() for task in tasks):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
