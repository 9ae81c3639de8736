"""Shards as processes on this machine."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs._cli.progress import Progress
from jobs._cluster.executor import Job
from jobs._cluster.inline import Inline
from jobs._cluster.profile import Profile
from jobs._cluster.task import FAILED, STOPPED, early_task, killed_by, noted, share_task
from jobs._cluster.worker import environment, task_words
from vnp.errors import StorageError, VnpError, machine_error, storage_error
from vnp.files.machine import processor_name
from vnp.files.records import to_json
from vnp.runs.done.receipts import SPLIT, note_death, read_attempts
from vnp.runs.done.status import last_words, run_status
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import Request, Run, RunPaths

if TYPE_CHECKING:
    from vnp.encoders.measured import TunedBudget

_CORES_A_TASK = 8
# One process reads, cuts and copies windows at half the speed at which a GPU goes through them.
_TASKS_A_GPU_WINDOWS = 3
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
# Bytes of input from which on tasks are started while they are planned, which takes a second for some of that.
_EARLY_BYTES = 1 << 26
_OWN_WAY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one task at a time: the GPU that it sees, empty for none, and threads of its tensor libraries."""

    gpu: str
    threads: int
    why: str = ""  # so many threads, and so many tasks


def slots(request: Request) -> list[Slot]:
    """One slot for each visible GPU, several where a network reads windows; without GPUs one for each group of cores.

    Encoders without weights get one for each core.
    """
    cores = len(os.sched_getaffinity(0))
    if not request.needs_weights:
        return [Slot("", 1)] * cores
    gpus = [] if request.device == "cpu" else visible_gpus()
    if gpus:
        share = _TASKS_A_GPU_WINDOWS if request.reads_windows else 1
        # More threads only wait for each other.
        threads = min(_CORES_A_TASK, max(1, cores // (len(gpus) * share)))
        return [Slot(gpu, threads) for gpu in gpus] * share
    found = _tuned(request)
    groups = max(1, cores // (_CORES_A_TASK if found is None else found.threads or 1))
    how = "as where nothing was measured" if found is None else f"measured on {found.measured[:10]}"
    return [Slot("", cores // groups, f"{groups} x {cores // groups} threads, {how}")] * groups


def _tuned(request: Request) -> TunedBudget | None:
    """What was measured on this processor of the run's encoder that costs most."""
    # Here, because a host without numpy imports this module.
    from vnp.encoders.measured import read_tuned_threads

    choice = request.protein or request.dna
    return read_tuned_threads(processor_name(), choice.name, choice.precision)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` takes them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


class Local(Inline):
    """Shards are made by processes of this machine, which ``submit`` waits for; the rest this process does itself."""

    name = "local"

    def __init__(self, profile: Profile | None = None) -> None:
        super().__init__(profile)
        self._early: list[_Early] = []

    @contextmanager
    def expecting(self, options: RunOptions, root: Path, tasks: int | None) -> Iterator[None]:
        """Start tasks that load their encoders while a large input is planned; they end where it cannot be."""
        if options.needs_weights and sum(file.path.stat().st_size for file in options.files) >= _EARLY_BYTES:
            # What cannot be is said by the planning.
            with suppress(VnpError, OSError):
                self._early = _start_early(options, root, tasks)
        try:
            yield
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """End tasks that were started early and are not wanted."""
        for one in self._early:
            one.process.kill()
        for one in self._early:
            one.process.communicate()
        self._early = []

    def make(self, run: Run, job: Job) -> None:
        """Make shards, with progress from their files."""
        state = run_status(run)
        with Progress("embedding", state.rows_planned, "rows") as progress:

            def poll() -> bool:
                # A look that fails must not end tasks that work; what is wrong shows in the end.
                with suppress(StorageError):
                    found = run_status(run)
                    counts = found.counts
                    progress.to(found.rows_embedded, f", {counts.get('done', 0)} of {len(found.shards)} shards")
                    return "running" in counts
                return False

            try:
                _run_tasks(run, job, poll, self._early)
            finally:
                self._let_go()
            poll()


@dataclass(frozen=True, slots=True)
class _Task:
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True, slots=True)
class _Early:
    """A task that was started before its run was planned, and waits to be told what to make."""

    slot: Slot
    process: subprocess.Popen[bytes]

    def begin(self, told: Mapping[str, Any]) -> bool:
        """Let it make shards; false where it has ended."""
        if self.process.poll() is not None or self.process.stdin is None:
            return False
        try:
            with self.process.stdin as words:
                words.write(f"{json.dumps(told)}\n".encode())
        except BrokenPipeError:
            return False
        return True


def _start_early(options: RunOptions, root: Path, tasks: int | None) -> list[_Early]:
    from vnp.runs.planning.start import draft

    wanted, request = draft(options), str(RunPaths(root).request)
    return [
        _Early(
            slot,
            subprocess.Popen(
                [sys.executable, *task_words(early_task, [request, to_json(wanted), slot.gpu, slot.threads])],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ),
        )
        for slot in places_of(slots(wanted), tasks)[: options.shards]
    ]


def _run_tasks(run: Run, job: Job, poll: Callable[[], bool], early: list[_Early]) -> None:
    """Make shards, at most one a slot at a time; returns when no task is left.

    A task takes shard after shard until none is left, so that encoders are loaded once. One that dies while it makes
    one is replaced. Where it was not said how many tasks take part, those of other commands are waited for.

    ``poll`` is called a few times a second and tells whether any task works on the run. Tasks that were started
    ``early`` are taken from there, where they suit.

    Raises:
        KeyboardInterrupt: after the tasks have been ended.
        StorageError: tasks cannot be started, say because the disk is full; those that were have been ended.
    """
    shards = job.shards or ()
    places = places_of(slots(run.request), job.tasks)[: len(shards)]
    run.paths.make()
    submission = secrets.token_hex(4)
    names = (f"local-{os.getpid()}-{int(time.time())}-{number}" for number in itertools.count())

    def start(index: int) -> _Task:
        slot, name = places[index], next(names)
        out, log = run.paths.logs / f"{name}.out", run.paths.logs / f"{name}.err"
        # New ones: where others may write, what stands there could lead to another file.
        with _writing_logs(run), out.open("xb") as said, log.open("xb") as errors:
            named = {"VNP_JOB": name, "VNP_LOG": str(log), SPLIT: slot.why}
            told = {"numbers": [index], "submission": submission, "out": str(out), "environment": named}
            for ready in [one for one in early if one.slot == slot]:
                early.remove(ready)
                if ready.begin(told):
                    return _Task(ready.process, log)
            words = task_words(share_task, [str(run.paths.request), [index], submission, slot.gpu, slot.threads])
            process = subprocess.Popen(
                [sys.executable, *words],
                env={**environment(), **named},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=errors,
            )
        return _Task(process, log)

    tasks: dict[int, _Task] = {}
    with noted(signal.SIGINT, signal.SIGTERM) as interrupted:
        try:
            while not tasks:
                for index in range(len(places)):
                    tasks[index] = start(index)
                while tasks:
                    for index, task in list(tasks.items()):
                        if task.process.poll() is None:
                            continue
                        del tasks[index]
                        if _died_at_work(run, task, shards) and not interrupted():
                            tasks[index] = start(index)
                    _look(poll, interrupted)
                if job.tasks is not None or not _look(poll, interrupted):
                    break
                while _look(poll, interrupted):
                    pass
        finally:
            _end(list(tasks.values()))


def places_of(found: list[Slot], tasks: int | None) -> list[Slot]:
    """A slot for each of so many tasks; those that share one have its threads in parts."""
    share = -(-(tasks or 1) // len(found))
    places = [replace(slot, threads=max(1, slot.threads // share)) for slot in found] * share
    return places[:tasks]


def _look(poll: Callable[[], bool], interrupted: Callable[[], bool]) -> bool:
    if interrupted():
        raise KeyboardInterrupt
    found = poll()
    time.sleep(_POLL_SECONDS)
    return found


def _died_at_work(run: Run, task: _Task, shards: Sequence[int]) -> bool:
    """Note in the shards that a task left how it died, where it could not do so itself; whether it made one."""
    code, pid = task.process.returncode, task.process.pid
    if code in (0, STOPPED):
        return False
    how = killed_by(-code) if code < 0 else f"{last_words(str(task.log)) or 'it said nothing'} (exit code {code})"
    how += ": by somebody, or by the system because memory ran out" if code == -signal.SIGKILL else ""
    attempts = {number: [one for _, one in read_attempts(run.paths.blocks(number))] for number in shards}
    mine = [number for number, found in attempts.items() if any(one.here() and one.pid == pid for one in found)]
    # It may never have come to take one: the next one shows it.
    new = (number for number, found in attempts.items() if not found and not run.paths.receipt(number).exists())
    for number in mine or itertools.islice(new, 1):
        with suppress(OSError):
            note_death(run, number, pid, str(task.log), how)
    # One that failed for a reason that it knew, or took nothing before it died, would only do so again.
    return bool(mine) and code != FAILED


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
        deadline = time.monotonic() + seconds
        while any(task.process.poll() is None for task in tasks) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
