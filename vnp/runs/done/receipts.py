"""What tasks write down of their shards: receipts, which prove, and attempts, which tell.

A shard is done by its receipt; nothing else decides, and no scheduler. A receipt is written last, once, after its shard
file is safe on the disk, and carries a digest of its content, so that any damaged bit shows. An attempt decides
nothing: it lets status tell a running task from a dead one. It is a small file beside the shard's blocks, made when a
task starts, touched while it lives, and completed with how it ended where it could still say so.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from vnp.errors import DamagedShardError, FeatureError, IncompleteRunError, StorageError, one_line, storage_error
from vnp.files.claims import BEAT_SECONDS, SILENT_SECONDS
from vnp.files.durable import here, process_start
from vnp.files.hashing import file_sha256
from vnp.files.machine import asked, peak_gpu_memory, peak_memory, process_began
from vnp.files.records import from_json, read_json, read_record, to_json, write_record
from vnp.runs.request import Run, Shard, shard_name

SCHEMA = "vnp-receipt/1"
SPLIT = "VNP_SPLIT"
"""Variable of a task: how the cores of its machine are shared out to tasks, and why, in words."""
NAMED = 12
"""Shards that a message names; of more it says that there are."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one sealed shard is and how it came about."""

    run: str  # digest of the run's request
    shard: int
    file: str  # name of the shard file
    size: int  # its bytes
    sha256: str
    rows: int
    records: int  # input records it speaks of
    units: int  # chunks it covers
    skipped: dict[str, int]  # entries without a row by reason
    ids_sha256: str  # of the ids, a line feed after each
    start: dict[str, int]  # place of its first unit
    widths: dict[str, int]  # columns of each number array
    dtype: str  # of the numbers
    projections: dict[str, str]  # name of the projection of each array that is one
    encoders: dict[str, dict[str, Any]]  # identities of the encoders as they ran, precision included
    attempt: int  # which attempt finished it, 1-based
    host: str
    job: str | None  # Slurm or local job id, if any
    devices: list[str]  # names of the GPUs that its blocks were embedded on, or ``cpu``
    kernels: dict[str, str]  # the attention kernel of each encoder
    # time of each phase, summed over its blocks whichever attempt made them, and of sealing; those of ``weights`` and
    # ``gpu`` are part of others
    seconds: dict[str, float]
    tokens: dict[str, int]  # tokens that each encoder read
    events: list[str]  # what happened on the way, such as a halved token budget
    started: str  # UTC, ISO 8601
    finished: str  # UTC, ISO 8601
    versions: dict[str, str]  # of vnp and the libraries
    # what was read of each input, by its place among them: from which byte on, to which, and the SHA-256 of the digests
    # of these blocks (``vnp.sequences.opening.block_digest``, 8 bytes each, little-endian), which the plan has too
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    # the digest of its arrays' checksums that the file carries; "" in a file of scores, and of an earlier version
    content: str = ""
    threads: int = 0  # of the tensor library in the task that made its last block; 0 in an earlier version
    # how that machine's cores were shared out to tasks and why; "" where a scheduler did, and in an earlier version
    split: str = ""
    cached: dict[str, int] = field(default_factory=dict)  # rows of each encoder that a cache had; none without one
    # the attempts on it, oldest first, of which the last one sealed it; none in a receipt of an earlier version
    attempts: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the receipt durably; the first writer wins.

        Raises:
            FileExistsError: there is one.
            StorageError: the disk is full or cannot be written.
        """
        write_record(path, self, schema=SCHEMA, seal="digest", exclusive=True)

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """Read a receipt, if there is one.

        Raises:
            DamagedShardError: the file is not a receipt as it was written.
            StorageError: it cannot be read, which says nothing about what is in it.
        """
        try:
            stored = read_record(path, dict, seal="digest", error=DamagedShardError, remedy="make the shard again")
        except DamagedShardError as error:
            if isinstance(error.__cause__, OSError):
                raise storage_error(error.__cause__, f"reading {path}") from error
            raise
        if stored is None:
            return None
        if stored.pop("schema", None) != SCHEMA:
            raise DamagedShardError(f"{path} is of another version of vnp")
        # What is sealed is as it was written: to look at each field again would take status a fifth more.
        return cls(**stored)


def sealed(run: Run, number: int, *, full: bool = False) -> Receipt | None:
    """The receipt of a shard that is done, or None; ``full`` compares the file's SHA-256 as well, not only its size.

    Raises:
        StorageError: the receipt or the file cannot be looked at, so nobody knows.
    """
    try:
        return require_sealed(run, number, full=full)
    except DamagedShardError:
        return None


def require_sealed(run: Run, number: int, *, full: bool = False) -> Receipt | None:
    """The receipt of a shard, or None if it has none.

    Raises:
        DamagedShardError: the receipt is damaged or of another run, or the file is not the one it speaks of.
        StorageError: one of the two cannot be looked at, which says nothing about what is in it.
    """
    receipt = Receipt.read(run.paths.receipt(number))
    if receipt is None:
        return None
    if receipt.run != run.request.digest or receipt.shard != number:
        raise DamagedShardError(f"the receipt of {shard_name(number)} belongs to another run or shard")
    path = run.paths.shard(number)
    try:
        size = path.stat().st_size
        if size != receipt.size:
            raise DamagedShardError(f"{path} has {size:,} bytes, its receipt says {receipt.size:,}")
        if full and file_sha256(path) != receipt.sha256:
            raise DamagedShardError(f"{path} is not the file that its receipt names: its bytes have changed")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedShardError(f"{path} has a receipt but cannot be read: {error.strerror}") from error
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    return receipt


def require_all_sealed(run: Run, shards: Sequence[Shard]) -> list[Receipt]:
    """The receipts of all shards; what is wrong is said of all of them at once.

    Raises:
        IncompleteRunError: shards are missing.
        DamagedShardError: receipts or files are damaged.
    """
    receipts: list[Receipt] = []
    missing: list[str] = []
    damaged: list[str] = []
    for shard in shards:
        try:
            receipt = require_sealed(run, shard.number)
        except DamagedShardError as error:
            damaged.append(f"{shard_name(shard.number)}: {error}")
            continue
        if receipt is None:
            missing.append(shard_name(shard.number))
        else:
            receipts.append(receipt)
    if damaged:
        raise DamagedShardError("\n".join([*damaged[:NAMED], make_with(run, len(damaged))]))
    if missing:
        names = ", ".join(missing[:NAMED]) + (" …" if len(missing) > NAMED else "")
        raise IncompleteRunError(
            f"{len(missing)} of {len(shards)} shards are missing: {names}\n{make_with(run, len(missing))}"
        )
    return receipts


def require_same_encoders(run: Run, receipts: Sequence[Receipt]) -> None:
    """Make sure that all shards are of the same encoders, in the same precision; else ``FeatureError``."""
    leader = receipts[0]
    for receipt in receipts:
        for molecule, identity in receipt.encoders.items():
            first = leader.encoders[molecule]
            key = next((key for key in first if identity.get(key) != first[key]), None)
            if key is not None:
                raise FeatureError(
                    f"{shard_name(receipt.shard)} was embedded by {identity['name']} with {key} {identity.get(key)!r}, "
                    f"{shard_name(leader.shard)} by {first['name']} with {key} {first[key]!r}: their numbers cannot be "
                    f"mixed.\n{made_again(run, receipt)}"
                )


def make_with(run: Run, count: int) -> str:
    """How so many shards that are missing are made, for the end of a message."""
    return f"Make {'it' if count == 1 else 'them'} with: {run.rerun_command}"


def made_again(run: Run, receipt: Receipt) -> str:
    """How a shard that does not fit the others is made again, for the end of a message."""
    return (
        f"Delete {run.paths.receipt(receipt.shard)} and make the shard again on the same kind of machine with: "
        f"{run.rerun_command}"
    )


def discard(run: Run, number: int) -> None:
    """Remove a damaged receipt and the shard file that it spoke of, so that the shard can be made anew.

    Raises:
        StorageError: they cannot be looked at, and are left alone, or they cannot be removed.
    """
    try:
        require_sealed(run, number)
    except DamagedShardError:
        for path in (run.paths.receipt(number), run.paths.shard(number)):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise storage_error(error, f"removing {path}") from error


def withdraw(run: Run, number: int) -> None:
    """Put a receipt aside whose shard proved damaged, so that the shard counts as missing from now on.

    Raises:
        DamagedShardError: the receipt must stay, since its folder cannot be written.
    """
    receipt = run.paths.receipt(number)
    try:
        receipt.rename(receipt.with_suffix(".withdrawn"))
    except FileNotFoundError:
        # Another reduce was first.
        return
    except OSError as error:
        raise DamagedShardError(
            f"{run.paths.shard(number)} is damaged, but its receipt still counts, since it cannot be put aside "
            f"({storage_error(error, str(receipt))}): mend that, then reduce again"
        ) from error


@dataclass(frozen=True, slots=True)
class Attempt:
    """One task's work on one shard."""

    number: int  # 1-based
    host: str  # name of the machine
    pid: int  # process id there
    boot: str  # identifies the process beyond its id: its start time in clock ticks since boot
    job: str | None  # Slurm or local job id, if any
    log: str | None  # path of its log, if known
    started: str  # UTC, ISO 8601
    ended: str | None = None  # UTC, ISO 8601, or None while it runs or if it was killed
    # ``running``, ``stopped`` (asked to stop, its blocks are safe), ``failed``, or ``left`` (another task had finished
    # the shard); in a receipt also ``done``, and ``vanished`` of one that was killed without a word
    outcome: str = "running"
    error: str | None = None  # last line of what went wrong
    # what follows is missing in attempts of earlier versions
    node: str = ""  # the machine's name with the scheduler
    # what the task was given, as far as its script says: ``mem`` (bytes), ``cpus``, ``gpus``, ``grace`` (seconds before
    # its end at which it is told), ``seconds`` (from its begin to its end)
    asked: dict[str, float] = field(default_factory=dict)
    begun: str = ""  # when its process began, UTC, ISO 8601
    had: int = 0  # blocks of the shard that were there when it started
    # what it did until it ended, or until its last sign of life
    blocks: int = 0  # that it embedded
    tokens: int = 0  # that its encoders read
    busy: float = 0.0  # seconds for which its GPU had work
    gpu: str = ""  # name of its GPU, or ``cpu``; empty before the first block
    # of its whole process, which may make more shards: seconds of all cores, most bytes in memory and on the GPU, and
    # bytes that the GPU has
    cpu: float = 0.0
    memory: int | None = None
    gpu_memory: int | None = None
    gpu_size: int | None = None
    submission: str = ""  # of tasks that share the shards: what they were started by together
    space: str = ""  # what the process id belongs to (``vnp.files.durable.here``)

    def here(self) -> bool:
        """Whether its process was, or is, one of this machine."""
        return self.space == here() if self.space else self.host == socket.gethostname()

    def gone(self) -> bool:
        """Whether its process was one of this machine and is no more."""
        return self.here() and process_start(self.pid) != self.boot

    def alive(self, path: Path) -> bool:
        """Whether the task still runs: by its process on this machine, by its last sign of life elsewhere."""
        if self.outcome != "running":
            return False
        if self.here():
            return not self.gone()
        try:
            return time.time() - path.stat().st_mtime < SILENT_SECONDS
        except OSError:
            return False


def now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return _stamp(time.time())


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def sums(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of each entry, such as the seconds of each phase."""
    return {name: sum(part.get(name, 0) for part in parts) for name in dict.fromkeys(chain.from_iterable(parts))}


def block_count(folder: Path) -> int:
    """How many blocks are there."""
    return sum(1 for _ in folder.glob("block-*.h5"))


def job_id() -> str | None:
    """The id of the job that this process runs in, as ``squeue`` shows it, or the name of a task of this machine."""
    environment = os.environ
    if name := environment.get("VNP_JOB"):
        return name
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '0')}"
    return environment.get("SLURM_JOB_ID")


class Announced:
    """An attempt of this process: announced by its file, kept alive, and completed with how it ended.

    The shard's ``folder`` of blocks is made if it is missing. ``only`` is the number that it must have
    (``FileExistsError`` if it is taken); None takes the next one that is free.
    """

    def __init__(self, folder: Path, log: str | None, only: int | None = None, submission: str = "") -> None:
        own, begun = os.getpid(), process_began()
        start = Attempt(0, socket.gethostname(), own, process_start(own), job_id(), log, now())
        node = os.environ.get("SLURMD_NODENAME") or start.host
        start = replace(start, node=node, asked=asked(begun), begun=_stamp(begun), had=block_count(folder))
        self._path, self.attempt = _announce(folder, replace(start, submission=submission, space=here()), only)
        self._over = threading.Event()
        self.ended = self._over.is_set  # whether this process is done with the shard
        self._beat = threading.Thread(target=self._keep_alive, daemon=True)
        self._beat.start()

    def _keep_alive(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError, StorageError):
                os.utime(self._path)
                write_record(self._path, self.so_far())

    def embedded(self, gpu: str, tokens: int, busy: float) -> None:
        """Note that a block was embedded on a GPU (or ``cpu``), which had work for ``busy`` seconds."""
        before = self.attempt
        self.attempt = replace(
            before, gpu=gpu, blocks=before.blocks + 1, tokens=before.tokens + tokens, busy=round(before.busy + busy, 3)
        )

    def so_far(self) -> Attempt:
        """The attempt with what it has done and used by now."""
        used, size = peak_gpu_memory()
        cpu = round(time.process_time(), 2)
        return replace(self.attempt, cpu=cpu, memory=peak_memory(), gpu_memory=used, gpu_size=size)

    def end(self, outcome: str | None = None, error: str | None = None) -> None:
        """End it, and note how; the first word counts, and of a shard that is done there is nothing to say."""
        if self._over.is_set():
            return
        self._over.set()
        self._beat.join()
        # The folder is gone where another task sealed the shard; a full disk must not hide the first error.
        with contextlib.suppress(Exception):
            if outcome is not None and self._path.exists():
                write_record(self._path, replace(self.so_far(), ended=now(), outcome=outcome, error=error))

    def fail(self, error: BaseException) -> None:
        """Note an error; an interruption is a stop, for nothing is wrong with the shard."""
        if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            self.end("stopped")
            return
        self.end("failed", one_line(error))


def _announce(folder: Path, attempt: Attempt, only: int | None = None) -> tuple[Path, Attempt]:
    """Write an attempt under the next free number, or the only one that it may have."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("attempt-*.json"))) + 1 if only is None else only
    while True:
        path, numbered = folder / f"attempt-{number:05d}.json", replace(attempt, number=number)
        try:
            write_record(path, numbered, exclusive=True)
        except FileExistsError:
            if only is not None:
                raise
            number += 1
            continue
        return path, numbered


def note_death(run: Run, number: int, pid: int, log: str, error: str) -> None:
    """Note how a process of this machine ended that can no longer do so itself.

    ``number`` is a shard that it had in hand, or that it was started for.
    """
    if run.paths.receipt(number).exists():
        return
    folder = run.paths.blocks(number)
    mine = [(path, one) for path, one in read_attempts(folder) if one.here() and one.pid == pid]
    with contextlib.suppress(StorageError):
        for path, attempt in mine:
            if attempt.outcome == "running":
                write_record(path, replace(attempt, ended=now(), outcome="failed", error=error))
        if not mine:
            start = Attempt(0, socket.gethostname(), pid, "", Path(log).stem, log, now())
            _announce(folder, replace(start, ended=now(), outcome="failed", error=error))


def told(folder: Path, current: Attempt) -> list[dict[str, Any]]:
    """The attempts on a shard for its receipt, the one that seals it last; what vanished ends with its last sign."""
    others = [(path, one) for path, one in read_attempts(folder) if one.number != current.number]
    found = [one if one.outcome != "running" else ended_with_last_sign(path, one) for path, one in others]
    return [to_json(one) for one in [*found, replace(current, ended=now(), outcome="done")]]


def ended_with_last_sign(path: Path, attempt: Attempt) -> Attempt:
    """An attempt that did not say how it ended: ``left`` if it is still alive, else ``vanished``."""
    try:
        seen = _stamp(path.stat().st_mtime)
    except OSError:
        seen = attempt.started
    return replace(attempt, ended=seen, outcome="left" if attempt.alive(path) else "vanished")


def read_attempts(folder: Path) -> list[tuple[Path, Attempt]]:
    """The attempts on a shard, oldest first; unreadable ones are left out."""
    found = []
    for path in sorted(folder.glob("attempt-*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append((path, from_json(Attempt, read_json(path))))
    return found
