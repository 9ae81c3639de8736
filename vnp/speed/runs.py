"""What a finished run tells of its own speed, from its receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vnp.errors import RunError
from vnp.runs.done.receipts import Receipt
from vnp.runs.request import RunPaths


@dataclass(frozen=True)
class RunFigures:
    """One run of extract, from its start to its last sealed shard.

    Attributes:
        gpus: that it was given; 0 for a CPU.
        tasks: processes that made shards.
        shards: of the run.
        rows: embedded.
        tokens: read by each encoder.
        devices: names of GPUs, or ``cpu``.
        wall: seconds from starting the command to its end.
        planning: seconds until the plan was written.
        starting: seconds from the plan to the first task's work: its process and its imports.
        loading: seconds that a task took to load both encoders, weights and compilation included; the longest.
        weights: seconds that reading the weights took in the slowest task, or None where receipts do not say.
        first_batch: seconds from the plan until the first task had its encoders.
        embedding: seconds of calls to each encoder, over all tasks.
        sealing: seconds that sealing took the shard that was sealed last, when no GPU has work any more.
        working: seconds from the encoders being loaded to the last receipt, summed over tasks.
        gpu_busy: share of ``working`` in which the GPU had work, or None where receipts do not say.
        rows_per_second: rows over wall.
        tokens_per_second: tokens of all encoders over wall.
        working_rows_per_second: rows over the time from the first loaded encoder to the last receipt.
        events: what happened on the way, such as a halved token budget.
    """

    gpus: int
    tasks: int
    shards: int
    rows: int
    tokens: dict[str, int]
    devices: tuple[str, ...]
    wall: float
    planning: float
    starting: float
    loading: float
    weights: float | None
    first_batch: float
    embedding: dict[str, float]
    sealing: float
    working: float
    gpu_busy: float | None
    rows_per_second: float
    tokens_per_second: float
    working_rows_per_second: float
    events: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """The receipts of one process: when its work began, when its encoders were there, and when it ended."""

    begun: float
    load: float
    ended: float
    receipts: tuple[Receipt, ...]

    @property
    def loaded(self) -> float:
        return self.begun + self.load

    @property
    def working(self) -> float:
        return max(1e-9, self.ended - self.loaded)


def read_figures(root: Path, *, gpus: int, begun: float, ended: float) -> RunFigures:
    """Read a finished run.

    Args:
        root: the run directory.
        gpus: that the command was given.
        begun: when the command was started, as ``time.time`` has it.
        ended: when it ended.

    Raises:
        RunError: shards are missing.
        DamagedShardError: a receipt is damaged.
    """
    paths = RunPaths(root)
    receipts = [each for each in map(Receipt.read, sorted(paths.receipts.glob("*.json"))) if each is not None]
    if not receipts:
        raise RunError(f"{root} has no receipts: nothing was made; its logs are in {paths.logs}")
    tasks = _tasks(receipts)
    planned = paths.request.stat().st_mtime
    first = min(tasks, key=lambda task: task.loaded)
    rows = sum(each.rows for each in receipts)
    tokens = _sums([each.tokens for each in receipts])
    wall = ended - begun
    span = max(1e-9, max(task.ended for task in tasks) - first.loaded)
    known = [each.seconds["gpu"] for each in receipts if "gpu" in each.seconds]
    reading = [task_weights for task in tasks if (task_weights := _weights(task)) is not None]
    return RunFigures(
        gpus=gpus,
        tasks=len(tasks),
        shards=len(receipts),
        rows=rows,
        tokens={name: int(value) for name, value in tokens.items()},
        devices=tuple(sorted({device for each in receipts for device in each.devices})),
        wall=wall,
        planning=planned - begun,
        starting=max(0.0, min(task.begun for task in tasks) - planned),
        loading=max(task.load for task in tasks),
        weights=max(reading, default=None),
        first_batch=max(0.0, first.loaded - planned),
        embedding=_sums([{name: each.seconds.get(name, 0.0) for name in ("dna", "protein")} for each in receipts]),
        sealing=max(receipts, key=lambda each: each.finished).seconds.get("seal", 0.0),
        working=sum(task.working for task in tasks),
        gpu_busy=sum(known) / sum(task.working for task in tasks) if len(known) == len(receipts) else None,
        rows_per_second=rows / wall,
        tokens_per_second=sum(tokens.values()) / wall,
        working_rows_per_second=rows / span,
        events=tuple(event for each in receipts for event in each.events),
    )


def _tasks(receipts: Sequence[Receipt]) -> list[_Task]:
    by_job: dict[tuple[str, str | None], list[Receipt]] = {}
    for each in receipts:
        by_job.setdefault((each.host, each.job), []).append(each)
    return [
        _Task(
            begun=min(_seconds(each.started) for each in group),
            load=sum(each.seconds.get("load", 0.0) for each in group),
            ended=max(_seconds(each.finished) for each in group),
            receipts=tuple(group),
        )
        for group in by_job.values()
    ]


def _weights(task: _Task) -> float | None:
    found = [each.seconds["weights"] for each in task.receipts if "weights" in each.seconds]
    return sum(found) if found else None


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _sums(parts: Sequence[dict[str, int]] | Sequence[dict[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals
