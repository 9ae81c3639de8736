"""A whole run: made-up reads to give it, and what it tells of its own speed, from its receipts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage

import numpy as np
from jaxtyping import UInt8

from vnp.errors import RunError, UsageError
from vnp.files.durable import replacing
from vnp.runs.done.history import moment
from vnp.runs.done.receipts import Receipt, sums
from vnp.runs.request import RunPaths
from vnp.sequences.record import COMPLEMENT
from vnp.speed.workloads import sample_genomes

_BLOCK_BASES = 7_500_000
_WRITERS = 8
_BASES = np.frombuffer(b"ACGT", np.uint8)
_COMPLEMENT = np.frombuffer(COMPLEMENT, np.uint8)


@dataclass(frozen=True)
class RunFigures:
    """One run of extract, from its start to its last sealed shard."""

    gpus: int  # that it was given; 0 for a CPU
    tasks: int  # processes that made shards
    shards: int  # of the run
    rows: int  # embedded
    tokens: dict[str, int]  # read by each encoder
    devices: tuple[str, ...]  # names of GPUs, or ``cpu``
    wall: float  # seconds from starting the command to its end
    planning: float  # seconds until the plan was written
    starting: float  # seconds from the plan to the first task's work: its process and its imports
    loading: float  # seconds that a task took to load both encoders, weights and compilation included; the longest
    # seconds that reading the weights took in the slowest task, or None where receipts do not say
    weights: float | None
    first_batch: float  # seconds from the plan until the first task had its encoders
    embedding: dict[str, float]  # seconds of calls to each encoder, over all tasks
    sealing: float  # seconds that sealing took the shard that was sealed last, when no GPU has work any more
    working: float  # seconds from the encoders being loaded to the last receipt, summed over tasks
    gpu_busy: float | None  # share of ``working`` in which the GPU had work, or None where receipts do not say
    least_busy: float | None  # the same of the task whose GPU was least busy
    processors: float | None  # seconds of processor time of the command and all of its processes, if it was measured
    memory: int | None  # bytes of host memory, at most, of the largest process, likewise
    written: int  # bytes of the sealed shards
    rows_per_second: float  # rows over wall
    tokens_per_second: float  # tokens of all encoders over wall
    working_rows_per_second: float  # rows over the time from the first loaded encoder to the last receipt
    events: tuple[str, ...]  # what happened on the way, such as a halved token budget


@dataclass(frozen=True)
class Task:
    """The receipts of one process: when its work began, when its encoders were there, and when it ended."""

    begun: float
    load: float
    ended: float
    receipts: tuple[Receipt, ...]

    @property
    def loaded(self) -> float:
        """When its encoders were there."""
        return self.begun + self.load

    @property
    def working(self) -> float:
        """Seconds from there to its last receipt."""
        return max(1e-9, self.ended - self.loaded)


def read_figures(root: Path, *, gpus: int, begun: float, ended: float, used: struct_rusage | None = None) -> RunFigures:
    """Read a finished run.

    It was begun and ended at times as ``time.time`` has them; ``used`` is what the system says that the command used,
    its ended processes included.

    Raises:
        RunError: shards are missing.
        DamagedShardError: a receipt is damaged.
    """
    paths = RunPaths(root)
    receipts = read_receipts(root)
    if not receipts:
        raise RunError(f"{root} has no receipts: nothing was made; its logs are in {paths.logs}")
    tasks = tasks_of(receipts)
    planned = paths.request.stat().st_mtime
    first = min(tasks, key=lambda task: task.loaded)
    rows = sum(each.rows for each in receipts)
    tokens = sums([each.tokens for each in receipts])
    wall = ended - begun
    span = max(1e-9, max(task.ended for task in tasks) - first.loaded)
    # Receipts of earlier versions do not say how long the GPU had work.
    telling = [task for task in tasks if all("gpu" in each.seconds for each in task.receipts)]
    busy = [sum(each.seconds["gpu"] for each in task.receipts) for task in telling]
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
        embedding=sums([{name: each.seconds.get(name, 0.0) for name in ("dna", "protein")} for each in receipts]),
        sealing=max(receipts, key=lambda each: each.finished).seconds.get("seal", 0.0),
        working=sum(task.working for task in tasks),
        gpu_busy=sum(busy) / sum(task.working for task in tasks) if len(busy) == len(tasks) else None,
        least_busy=min(seconds / task.working for seconds, task in zip(busy, tasks, strict=True))
        if len(busy) == len(tasks)
        else None,
        processors=used and used.ru_utime + used.ru_stime,
        memory=used and used.ru_maxrss * 1024,
        written=sum(each.size for each in receipts),
        rows_per_second=rows / wall,
        tokens_per_second=sum(tokens.values()) / wall,
        working_rows_per_second=rows / span,
        events=tuple(event for each in receipts for event in each.events),
    )


def read_receipts(root: Path) -> list[Receipt]:
    """The receipts of a run, in the order of its shards; DamagedShardError where one is damaged."""
    return [each for each in map(Receipt.read, sorted(RunPaths(root).receipts.glob("*.json"))) if each is not None]


def tasks_of(receipts: Sequence[Receipt]) -> list[Task]:
    """The processes that made shards."""
    by_job: dict[tuple[str, str | None], list[Receipt]] = {}
    for each in receipts:
        by_job.setdefault((each.host, each.job), []).append(each)
    return [
        Task(
            begun=min(moment(each.started) for each in group),
            load=sum(each.seconds.get("load", 0.0) for each in group),
            ended=max(moment(each.finished) for each in group),
            receipts=tuple(group),
        )
        for group in by_job.values()
    ]


def _weights(task: Task) -> float | None:
    found = [each.seconds["weights"] for each in task.receipts if "weights" in each.seconds]
    return sum(found) if found else None


def write_reads(path: Path, count: int, *, length: int = 150, substitutions: float = 0.01, seed: int = 0) -> None:
    """Write so many reads as FASTA; the same seed gives the same bytes.

    Every place of the bundled genomes is as likely as any other, and so is each strand; a share of the bases is
    replaced by another one.

    Raises:
        UsageError: no genome is that long.
        StorageError: the disk is full or cannot be written.
    """
    genomes = [np.frombuffer(each, np.uint8) for each in sample_genomes() if len(each) >= length]
    if not genomes:
        raise UsageError(f"no genome of the bundled sample has {length:,} bases")
    text = np.concatenate(genomes)
    room = np.array([len(each) - length + 1 for each in genomes])
    firsts = np.cumsum([0, *map(len, genomes)])[:-1]
    block = max(1, _BLOCK_BASES // length)

    def some(begun: int) -> bytes:
        rng = np.random.default_rng([seed, begun])
        places = rng.integers(0, int(room.sum()), min(block, count - begun))
        owner = np.searchsorted(np.cumsum(room), places, side="right")
        start = firsts[owner] + places - (np.cumsum(room) - room)[owner]
        reads = text[start[:, None] + np.arange(length)]
        turned = rng.random(len(reads)) < 0.5
        reads[turned] = _COMPLEMENT[reads[turned, ::-1]]
        _mutate(reads, substitutions, rng)
        return b"".join(b">read%d\n%s\n" % (begun + number, row.tobytes()) for number, row in enumerate(reads))

    starts = range(0, count, block)
    with replacing(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(_WRITERS) as pool:
        for first in range(0, len(starts), _WRITERS):
            file.writelines(pool.map(some, starts[first : first + _WRITERS]))


def _mutate(reads: UInt8[np.ndarray, "reads length"], share: float, rng: np.random.Generator) -> None:
    rows, columns = np.nonzero(rng.random(reads.shape, dtype=np.float32) < share)
    # The next, second or third base after the one that is there, so that it is always another one.
    codes = np.searchsorted(_BASES, reads[rows, columns]) + rng.integers(1, 4, len(rows))
    reads[rows, columns] = _BASES[codes % 4]
