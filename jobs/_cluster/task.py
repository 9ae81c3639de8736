"""What runs in a task: one importable function and a path. Everything else it finds on the disk."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from jobs._cli.ending import event_line, raise_outside_imports, tell
from jobs._cluster.executor import log_path
from vnp.errors import UsageError, VnpError, machine_error
from vnp.files.machine import asked, process_began
from vnp.files.records import from_json, parse_json, read_record
from vnp.prediction.options import OutputPaths, PredictOptions
from vnp.runs.done.receipts import job_id
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import Request, Run, RunPaths

if TYPE_CHECKING:
    from vnp.runs.making.encoders import RunEncoders
    from vnp.runs.making.leases import Leases
    from vnp.runs.making.pipeline import Outcome

_OF_GRACE = 0.75
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
FAILED = 1
"""Exit code of a task that trying again does not help."""
CRASHED = 70
"""Exit code of a task that ended by a fault that another node may not have (EX_SOFTWARE)."""
STOPPED = 75
"""Exit code of a task that was asked to stop (EX_TEMPFAIL): its blocks are safe and the next one goes on."""


def run_task(request: str, shards: Sequence[int]) -> str:
    """Make shards, one after the other, in a process of its own.

    Returns:
        A line that says what was made. Ends the process with ``FAILED``, ``CRASHED`` or ``STOPPED`` otherwise; where
        there are several shards, one that cannot be made does not keep the others from being made.
    """
    with stop_signals() as stop, _exit_codes(), first_interrupt_only():
        run = Run.open(Path(request).parent)
        # An array is submitted before the plan is made where that is a job too; it can have too many elements.
        return _said(*make(run, [number for number in shards if number < run.request.shards], stop, print_blocks))


def early_task(request: str, draft: dict[str, Any], gpu: str, threads: int) -> str:
    """As ``share_task``, of a run that is still being planned: what can be loaded is, then standard input has the rest.

    Args:
        request: path of the run's ``run.json``, which need not be there yet.
        draft: what is known of it.
        gpu: as in ``share_task``.
        threads: as in ``share_task``.

    Returns:
        As ``share_task``. Where standard input ends first, nothing is to be made.
    """
    _use(gpu, threads)
    load = None
    # What is wrong will be so again when the run is planned, and then it is said.
    with suppress(Exception):
        import vnp.prediction.classifiers  # noqa: F401
        from vnp.runs.making.encoders import load_ahead

        load = load_ahead(from_json(Request, draft))
    words = sys.stdin.readline()
    if not words:
        return "there was nothing to do"
    told = parse_json(words)
    os.environ.update(told["environment"])
    for stream, number, path in ((sys.stdout, 1, told["out"]), (sys.stderr, 2, os.environ["VNP_LOG"])):
        stream.flush()
        with Path(path).open("ab") as file:
            os.dup2(file.fileno(), number)
    tell(f"Started on {socket.gethostname()} while the run was planned, job {job_id()}")
    return share_task(request, told["numbers"], told["submission"], load=load)


def share_task(
    request: str,
    numbers: Sequence[int],
    submission: str,
    gpu: str | None = None,
    threads: int | None = None,
    load: Callable[[Run], RunEncoders] | None = None,
) -> str:
    """Make shards that nobody works on, one after the other, until none is left or the time is nearly up.

    Args:
        request: path of the run's ``run.json``.
        numbers: the task's own, among those that were started with it.
        submission: what these have in common.
        gpu: the GPU to use, as in ``CUDA_VISIBLE_DEVICES``; None leaves that as it is.
        threads: threads for tensor libraries; None leaves that to them.
        load: gives the encoders, where they are loaded already.

    Returns:
        A line that says what was made, as ``run_task``. Ends the process with ``STOPPED`` where shards are left open.
    """
    _use(gpu, threads)
    with stop_signals() as stop, _exit_codes(), first_interrupt_only():
        run = Run.open(Path(request).parent)
        leases = leases_of(run, submission, stop, *numbers)
        return _said(*make(run, leases, stop, print_blocks, leases, load), more=leases.open_left)


def _use(gpu: str | None, threads: int | None) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads is not None:
        os.environ.update(dict.fromkeys(_THREADS, str(threads)))


def leases_of(run: Run, submission: str, stop: Callable[[], bool], task: int = 0) -> Leases:
    """What takes shards for this process, until it will be told that its time is up if its script says when."""
    from vnp.runs.making.leases import Leases

    given = asked(begun := process_began())
    until = begun + given["seconds"] - given.get("grace", 0.0) if "seconds" in given else None
    return Leases(run, submission, task, log=log_path(), stop=stop, until=until)


def _said(outcomes: list[Outcome], failed: list[tuple[int, VnpError]], *, more: bool = False) -> str:
    for number, error in failed:
        print(f"error: shard {number}: {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(FAILED)
    if more or any(outcome.state == "stopped" for outcome in outcomes):
        sys.exit(STOPPED)
    return f"{len(outcomes)} shards, {sum(outcome.rows for outcome in outcomes):,} rows"


def make(
    run: Run,
    shards: Iterable[int],
    stop: Callable[[], bool],
    block_done: Callable[[int, int, int], None],
    leases: Leases | None = None,
    load: Callable[[Run], RunEncoders] | None = None,
) -> tuple[list[Outcome], list[tuple[int, VnpError]]]:
    """Make shards in this process; those of a prediction with the scores of its classifier."""
    from vnp.runs.making.pipeline import make_shards

    scoring = None
    if run.request.classifier is not None:
        from vnp.prediction.classifiers import scoring_of

        scoring = scoring_of(run.request)
    ready = None if load is None else partial(load, run)
    return make_shards(
        run, shards, stop=stop, block_done=block_done, log=log_path(), load=ready, scoring=scoring, leases=leases
    )


def plan_task(request: str) -> str:
    """Plan a run from the wishes beside its ``run.json``-to-be."""
    with end_when_told(), _exit_codes():
        from jobs._cluster.planning import make_plan

        root = Path(request).parent
        options = read_record(RunPaths(root).options, RunOptions, seal="digest", remedy="extract again")
        if options is None:
            raise UsageError(f"{RunPaths(root).options} is missing: extract again")
        run, _, _ = make_plan(options, root, None)
        return f"{run.request.shards} shards, {run.request.totals.rows:,} rows"


def reduce_task(request: str, layout: str) -> str:
    """Merge a run, or say what is missing of it and end with 3."""
    with end_when_told(), _exit_codes():
        from vnp.runs.done.reduce import reduce_run

        reduced = reduce_run(Run.open(Path(request).parent), layout)
        return f"{reduced.path}: {reduced.rows:,} rows of {reduced.layout.width}"


def predict_task(request: str) -> str:
    """Call the records of a run whose shards are done, as the settings beside its ``run.json`` say."""
    with end_when_told(), _exit_codes():
        from vnp.prediction.predict import predict

        root = Path(request).parent
        settings = PredictOptions.read(OutputPaths(root).settings)
        if settings is None:
            raise UsageError(f"{root} has no predict.json: nobody asked for a prediction here")
        run = Run.open(root)
        found = predict(run, settings, root, device=run.request.device)
        counts = found.summary["counts"]
        return f"{counts['viral']:,} of {counts['records']:,} records are called viral: {found.paths.report}"


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End the process with a code that the batch script understands; the log has the message."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except Exception as error:
        found = error if isinstance(error, VnpError) else machine_error(error)
        if found is None:
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            sys.exit(CRASHED)
        print(f"error: {found}", file=sys.stderr, flush=True)
        sys.exit(found.exit_code)


def print_blocks(shard: int, done: int, blocks: int) -> None:
    """Say how far a shard is."""
    tell(f"shard {shard}: {done} of {blocks} blocks")


def killed_by(number: int) -> str:
    """How a process ended that a signal ended: ``killed by SIGKILL``."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"killed by {name}"


@contextmanager
def noted(*numbers: signal.Signals, text: str = "") -> Iterator[Callable[[], bool]]:
    """Note signals, and say ``text``, instead of acting wherever they come: Python drops what a clean-up raises.

    Yields:
        A function that says whether one has come.
    """
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        if number == signal.SIGUSR2 and (grace := asked(0).get("grace")):
            # A block may take longer than there is time. Left to the scheduler, the end would be that of the batch
            # script too, which then could not queue the task again.
            signal.alarm(max(1, int(grace * _OF_GRACE)))
        if text:
            _write(number, text)

    with _handlers(numbers, note):
        yield lambda: bool(seen)


def stop_signals() -> AbstractContextManager[Callable[[], bool]]:
    """Note USR2 and TERM instead of dying of them; gives a function that says whether one has come."""
    return noted(signal.SIGUSR2, signal.SIGTERM, text="ending after this block")


@contextmanager
def end_when_told() -> Iterator[None]:
    """End at USR2 or TERM with ``STOPPED``, as a task that was asked to stop and begins again."""

    def end(number: int, frame: FrameType | None) -> None:
        _write(number, "ended before it was done; if that was the time limit, raise it")
        raise_outside_imports(SystemExit(STOPPED), frame)

    with _handlers((signal.SIGUSR2, signal.SIGTERM), end):
        yield


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Let Ctrl-C end the work at once, and further ones pass by, which would keep it from ending what it started."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        _write(number, "ending now")
        raise_outside_imports(KeyboardInterrupt(), frame)

    before = signal.signal(signal.SIGINT, end)
    yield
    # Only where it ended well: after an interruption the process is left in peace until it is gone.
    signal.signal(signal.SIGINT, before)


@contextmanager
def interrupt_when_told() -> Iterator[None]:
    """Let TERM raise KeyboardInterrupt, as Ctrl-C does."""

    def end(_number: int, frame: FrameType | None) -> None:
        raise_outside_imports(KeyboardInterrupt(), frame)

    with _handlers((signal.SIGTERM,), end):
        yield


@contextmanager
def _handlers(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _write(number: int, text: str) -> None:
    # Not print: a signal may come in the middle of another one.
    os.write(2, f"{event_line(f'{signal.Signals(number).name}: {text}')}\n".encode())
