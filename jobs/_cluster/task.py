"""What runs in a task: one importable function and a path. Everything else it finds on the disk."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from jobs._cli.signals import end_when_told, first_interrupt_only, stop_signals
from vnp.errors import UsageError, VnpError

if TYPE_CHECKING:
    from vnp.runs.making.encoders import RunEncoders
    from vnp.runs.making.steps import Steps
    from vnp.runs.making.work import Outcome, Watch
    from vnp.runs.request import Run

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_SWITCH_SECONDS = 0.0005
FAILED = 1
"""Exit code of a task that trying again does not help."""
CRASHED = 70
"""Exit code of a task that ended by a fault that another node may not have (EX_SOFTWARE)."""
STOPPED = 75
"""Exit code of a task that was asked to stop (EX_TEMPFAIL): its blocks are safe and the next one goes on."""


def run_task(
    request: str, shards: Sequence[int], claims: str | None = None, gpu: str | None = None, threads: int | None = None
) -> str:
    """Make shards, one after the other, in a process of its own.

    Args:
        request: path of the run's ``run.json``.
        shards: numbers of shards to make, or to choose from where there are claims.
        claims: folder in which tasks that share a list claim shards, or None: all are this task's.
        gpu: the GPU to use, as in ``CUDA_VISIBLE_DEVICES``; None leaves that as it is.
        threads: threads for tensor libraries; None leaves that to them.

    Returns:
        A line that says what was made. Ends the process with ``FAILED``, ``CRASHED`` or ``STOPPED`` otherwise; where
        there are several shards, one that cannot be made does not keep the others from being made.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads is not None:
        os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    with stop_signals() as stop, _exit_codes(), first_interrupt_only():
        from vnp.runs.request import Run

        run = Run.open(Path(request).parent)
        # An array is submitted before the plan is made where that is a job too; it can have too many elements.
        known = [number for number in shards if number < run.request.shards]
        chosen = iter(known) if claims is None else _claimed(Path(claims), known)
        outcomes, failed = make_shards(run, chosen, stop=stop)
        for number, error in failed:
            print(f"error: shard {number}: {error}", file=sys.stderr, flush=True)
        if failed:
            sys.exit(FAILED)
        if any(outcome.state == "stopped" for outcome in outcomes):
            sys.exit(STOPPED)
        return f"{len(outcomes)} shards, {sum(outcome.rows for outcome in outcomes):,} rows"


def plan_task(request: str) -> str:
    """Plan a run from the wishes beside its ``run.json``-to-be."""
    with end_when_told(STOPPED), _exit_codes():
        from vnp.runs.planning.options import RunOptions
        from vnp.runs.planning.start import start_run
        from vnp.runs.request import RunPaths

        root = Path(request).parent
        run, _ = start_run(RunOptions.read(RunPaths(root).options), root)
        return f"{run.request.shards} shards, {run.request.totals.rows:,} rows"


def reduce_task(request: str, layout: str) -> str:
    """Merge a run, or say what is missing of it and end with 3."""
    with end_when_told(STOPPED), _exit_codes():
        from vnp.runs.done.reduce import reduce_run
        from vnp.runs.request import Run

        reduced = reduce_run(Run.open(Path(request).parent), layout)
        return f"{reduced.path}: {reduced.rows:,} rows of {reduced.layout.width}"


def predict_task(request: str) -> str:
    """Call the records of a merged run as the settings beside its ``run.json`` say."""
    with _exit_codes():
        from vnp.features.read import open_features
        from vnp.prediction.options import OutputPaths, PredictOptions
        from vnp.prediction.predict import predict
        from vnp.runs.request import Run

        root = Path(request).parent
        settings = PredictOptions.read(OutputPaths(root).settings)
        if settings is None:
            raise UsageError(f"{root} has no predict.json: nobody asked for a prediction here")
        device = Run.open(root).request.device
        found = predict(open_features(root), settings, root, device=device)
        counts = found.summary["counts"]
        return f"{counts['viral']:,} of {counts['records']:,} records are called viral: {found.paths.report}"


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End the process with a code that the batch script understands; the log has the message."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except VnpError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(CRASHED)


def make_shards(
    run: Run,
    shards: Iterator[int],
    block_done: Callable[[int, int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[list[Outcome], list[tuple[int, VnpError]]]:
    """Make shards in this process; the encoders are loaded once.

    Args:
        run: a planned run.
        shards: their numbers.
        block_done: told the shard, its finished blocks and its blocks in all.
        stop: says whether to end after this block; None listens for signals here.

    Returns:
        How each ended, and what went wrong with those that could not be made. A task that is asked to stop (by
        USR2 or TERM) ends after the current block.

    Raises:
        StorageError: a folder of the run is gone and cannot be made again.
    """
    from vnp.runs.making.work import Watch

    run.paths.make()
    with stop_signals() if stop is None else nullcontext(stop) as asked, _Line(run, shards) as line:
        watch = Watch(asked, block_done or _print_blocks, _log_path(), all_read=line.begin_next)
        while (found := line.next(watch)) is not None:
            line.embed(*found)
            if asked():
                break
    return line.outcomes, sorted(line.failed, key=lambda one: one[0])


class _Line:
    """Shards on their way: while one is embedded, the next one is begun and the last one sealed."""

    def __init__(self, run: Run, shards: Iterator[int]) -> None:
        self.outcomes: list[Outcome] = []
        self.failed: list[tuple[int, VnpError]] = []
        self._run = run
        self._shards = shards
        self._load = _once(run)
        self._watch: Watch | None = None
        self._beginning: Future[tuple[int, Steps[Outcome]] | None] | None = None
        self._sealing: tuple[int, Future[Outcome]] | None = None

    def __enter__(self) -> Self:
        self._beginner, self._sealer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Nobody waits for the next one any more: the task was asked to stop, or something went wrong.
            begun = None if self._beginning is None else self._beginning.result()
            if begun is not None:
                self._keep(begun[0], begun[1].put_aside)
            self._settle()
        finally:
            self._beginner.shutdown()
            self._sealer.shutdown()

    def next(self, watch: Watch) -> tuple[int, Steps[Outcome]] | None:
        """The next shard, begun; None if there is none left."""
        self._watch = watch
        beginning, self._beginning = self._beginning, None
        # The first one is begun here, for it loads the encoders.
        return self._begin() if beginning is None else beginning.result()

    def begin_next(self) -> None:
        """Begin the next shard in a thread."""
        self._beginning = self._beginner.submit(self._begin)

    def embed(self, number: int, steps: Steps[Outcome]) -> None:
        """Embed a shard that was begun, and leave it to be sealed."""
        try:
            steps.advance()
        except VnpError as error:
            self.failed.append((number, error))
            return
        # One at a time: blocks of more shards are not piled up on the disk.
        self._settle()
        self._sealing = number, self._sealer.submit(steps.finish)

    def _begin(self) -> tuple[int, Steps[Outcome]] | None:
        from vnp.runs.making.work import shard_steps

        for number in self._shards:
            steps = shard_steps(self._run, number, self._load, self._watch)
            try:
                steps.advance()
            except VnpError as error:
                self.failed.append((number, error))
                continue
            return number, steps
        return None

    def _settle(self) -> None:
        if self._sealing is not None:
            (number, future), self._sealing = self._sealing, None
            self._keep(number, future.result)

    def _keep(self, number: int, finish: Callable[[], Outcome]) -> None:
        try:
            self.outcomes.append(finish())
        except VnpError as error:
            self.failed.append((number, error))


def _once(run: Run) -> Callable[[], RunEncoders]:
    loaded: list[RunEncoders] = []

    def load() -> RunEncoders:
        from vnp.runs.making.encoders import RunEncoders, share_kernels

        if not loaded:
            if run.request.needs_weights:
                share_kernels(run.paths)
                # A GPU's work is queued from here: threads that read and write have to give way soon.
                sys.setswitchinterval(_SWITCH_SECONDS)
            loaded.append(RunEncoders.load(run.request))
            return loaded[0]
        return replace(loaded[0], seconds=0.0, weights_seconds=0.0)

    return load


def _claimed(folder: Path, shards: Sequence[int]) -> Iterator[int]:
    """The shards that this task is first to claim."""
    for number in shards:
        try:
            (folder / f"{number:05d}").touch(exist_ok=False)
        except FileExistsError:
            continue
        yield number


def _print_blocks(shard: int, done: int, blocks: int) -> None:
    print(f"shard {shard}: {done} of {blocks} blocks", flush=True)


def _log_path() -> str | None:
    """The file that this process's errors go to, where submitit or the batch script for hand use started it."""
    if not os.environ.get("SUBMITIT_FOLDER"):
        log = os.environ.get("VNP_LOG")
        return None if log is None else str(Path(log).absolute())
    import submitit

    return str(submitit.JobEnvironment().paths.stderr)
