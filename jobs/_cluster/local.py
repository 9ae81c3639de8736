"""Shards as processes on this machine."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jobs._cli.progress import Progress
from jobs._cluster.inline import Inline
from jobs._cluster.task import STOPPED, claimant, claimed, noted, run_task
from jobs._cluster.worker import environment, task_words
from vnp.errors import StorageError, machine_error, storage_error
from vnp.runs.done.receipts import note_death
from vnp.runs.done.status import last_words, run_status
from vnp.runs.request import Request, Run

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


@dataclass(frozen=True, slots=True)
class _Task:
    process: subprocess.Popen[bytes]
    log: Path
    claimed: int  # how many shards were claimed when it was started


def _run_tasks(run: Run, shards: Sequence[int], poll: Callable[[], None]) -> None:
    """Make shards, at most one a slot at a time; returns when no task is left.

    A task takes shard after shard until none is left, so that encoders are loaded once. One that dies is replaced,
    and the shard that it died of is left to ``rerun``. ``poll`` is called a few times a second.

    Raises:
        KeyboardInterrupt: after the tasks have been ended.
        StorageError: tasks cannot be started, say because the disk is full; those that were have been ended.
    """
    places = slots(run.request)[: len(shards)]
    run.paths.make()
    with _writing_logs(run):
        claims = Path(tempfile.mkdtemp(prefix="claims-", dir=run.paths.logs))
    names = (f"local-{os.getpid()}-{int(time.time())}-{number}" for number in itertools.count())

    def start(slot: Slot, claimed: int = 0) -> _Task:
        words = task_words(run_task, [str(run.paths.request), list(shards), str(claims), slot.gpu, slot.threads])
        name = next(names)
        out, log = run.paths.logs / f"{name}.out", run.paths.logs / f"{name}.err"
        # New ones: where others may write, what stands there could lead to another file.
        with _writing_logs(run), out.open("xb") as said, log.open("xb") as errors:
            process = subprocess.Popen(
                [sys.executable, *words],
                env={**environment(), "VNP_JOB": name, "VNP_LOG": str(log)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=errors,
            )
        return _Task(process, log, claimed)

    tasks: dict[int, _Task] = {}
    with noted(signal.SIGINT, signal.SIGTERM) as interrupted:
        try:
            for index, slot in enumerate(places):
                tasks[index] = start(slot)
            while tasks:
                for index, task in list(tasks.items()):
                    if task.process.poll() is None:
                        continue
                    del tasks[index]
                    now_claimed = len(list(claims.iterdir()))
                    _note_end(run, task, claims, shards)
                    # A task that took nothing before it died would only die again.
                    if task.claimed < now_claimed < len(shards) and task.process.returncode and not interrupted():
                        tasks[index] = start(places[index], now_claimed)
                if interrupted():
                    raise KeyboardInterrupt
                poll()
                time.sleep(_POLL_SECONDS)
        finally:
            _end(list(tasks.values()))
            shutil.rmtree(claims, ignore_errors=True)


def _note_end(run: Run, task: _Task, claims: Path, shards: Sequence[int]) -> None:
    """Note in the shards that a task left how it died, where it could not do so itself."""
    code, pid = task.process.returncode, task.process.pid
    if code in (0, STOPPED):
        return
    how = _killed_by(-code) if code < 0 else f"{last_words(str(task.log)) or 'it said nothing'} (exit code {code})"
    with suppress(OSError):
        mine = [number for number in shards if claimant(claims, number) == pid]
        if not mine:
            # It never came to take one: the next one shows it.
            mine = list(itertools.islice(claimed(claims, shards), 1))
        for number in mine:
            note_death(run, number, pid, str(task.log), how)


def _killed_by(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ": by somebody, or by the system because memory ran out" if number == signal.SIGKILL else ""
    return f"killed by {name}{hint}"


@contextmanager
def _writing_logs(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        doing = f"starting a task, with its log below {run.paths.logs}"
        raise machine_error(error) or storage_error(error, doing) from error


def _end(tasks: list[_Task]) -> None:
    """Ask tasks to end, and wait until they have."""
    for ask, seconds in (
        # After its block; now; at once, which loses no more than the block.
        (signal.SIGTERM, _OWN_WAY_SECONDS), (signal.SIGINT, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS),
    ):  # fmt: skip
        for task in tasks:
            task.process.send_signal(ask)
        if _ended(tasks, seconds):
            return


def _ended(tasks: list[_Task], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(task.process.poll() is None for task in tasks):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
