"""One task: a shard from its input to its receipt.

Blocks come first, each safe on the disk before the next is begun; then they are sealed into the shard file; the
receipt is last. A task that starts on a shard with blocks goes on after them. Two tasks on one shard cannot harm each
other: the first to finish a block wins, both use it, and sealing the same blocks gives the same bytes.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py

from vnp._durable import replacing
from vnp.errors import ChangedInputError, RunError, UsageError, storage_error
from vnp.features.merge import Merged, merge
from vnp.runs._steps import Ahead, PutAsideError, Steps
from vnp.runs.attempts import Attempt, attempt, job_id, now, stopped
from vnp.runs.blocks import Account, BlockPlan, read_block, same_encoders, write_block
from vnp.runs.front import Prepared, prepare
from vnp.runs.inputs import check_inputs, inputs_of
from vnp.runs.pair import PROJECTIONS, Embedding, EncoderPair, to_store
from vnp.runs.paths import shard_name
from vnp.runs.plan import read_chosen, read_plan
from vnp.runs.receipts import Receipt, file_sha256
from vnp.runs.request import Run
from vnp.runs.seals import discard, sealed
from vnp.runs.selection import Selection
from vnp.runs.units import read_blocks
from vnp.runs.versions import versions

_Ready = tuple[int, Prepared, Mapping[str, Any], EncoderPair]
"""A block to embed: its number, its columns, its tokens, and what embeds them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended.

    Args:
        shard: its number.
        state: ``done``; ``already`` (there was a receipt before work began); ``left`` (another task finished the
            shard meanwhile); ``stopped`` (asked to stop; the finished blocks are safe).
        rows: rows of the shard, 0 where it was not sealed.
    """

    shard: int
    state: str
    rows: int


@dataclass(slots=True)
class Watch:
    """What a task tells and asks the outside.

    Args:
        stop: asked after every block whether to end.
        block_done: told the shard, blocks done and blocks in all.
        log: path of the task's log, for status.
        all_read: told, in another thread, when the last block has been read and is about to be embedded.
    """

    stop: Callable[[], bool] = lambda: False
    block_done: Callable[[int, int, int], None] = lambda _shard, _done, _all: None
    log: str | None = None
    all_read: Callable[[], None] = lambda: None


class _LeftToOtherError(Exception):
    """Another task has sealed the shard."""


def extract_shard(run: Run, number: int, encoders: Callable[[], EncoderPair], watch: Watch | None = None) -> Outcome:
    """Make one shard, or find that it is made.

    Args:
        run: a planned run.
        number: of the shard.
        encoders: gives the encoders; called only if there is something to embed.
        watch: what to tell and ask the outside.

    Raises:
        VnpError: the shard cannot be made; what is finished of it stays.
    """
    return shard_steps(run, number, encoders, watch).finish()


def shard_steps(
    run: Run, number: int, encoders: Callable[[], EncoderPair], watch: Watch | None = None
) -> Steps[Outcome]:
    """Do what ``extract_shard`` does in three steps, which different threads may take.

    Returns:
        The steps. The first begins to read, the second embeds, the third seals: so that one shard can be begun, and
        another one sealed, while the GPU is busy with a third. Any of them may raise ``VnpError``. A shard that was
        begun can be put aside.
    """
    return Steps(_make(run, number, encoders, watch or Watch()))


def _make(run: Run, number: int, encoders: Callable[[], EncoderPair], watch: Watch) -> Generator[None, None, Outcome]:
    shards = read_plan(run.paths.plan, run.request.plan_sha256)
    if not 0 <= number < len(shards):
        raise UsageError(f"{run.paths.root} has the shards 0 to {len(shards) - 1}, not {number}")
    done = sealed(run, number)
    if done is not None:
        return Outcome(number, "already", done.rows)
    discard(run, number)
    plan = BlockPlan(run.request.digest, shards[number], run.request.block_units)
    chosen = read_chosen(run.paths.plan, run.request.plan_sha256, run.request.inputs, shards, number)
    try:
        with attempt(run.paths.blocks(number), watch.log) as current:
            check_inputs(inputs_of(run.request, shards, number))
            task = _Task(run, plan, chosen, watch, current)
            with task.reading(encoders) as blocks:
                try:
                    yield
                except PutAsideError:
                    return task.finish()
                task.embed(blocks)
            yield
            return task.finish()
    except (_LeftToOtherError, FileNotFoundError) as error:
        receipt = sealed(run, number)
        if receipt is None:
            raise RunError(
                f"{shard_name(number)}: files vanished or were damaged while it was made ({error}). "
                f"Go on with: python -m jobs.rerun {run.paths.root}"
            ) from error
        shutil.rmtree(run.paths.blocks(number), ignore_errors=True)
        return Outcome(number, "left", receipt.rows)
    except OSError as error:
        raise storage_error(error, f"making {shard_name(number)} of {run.paths.root}") from error


class _Task:
    """The work of one attempt."""

    def __init__(
        self, run: Run, plan: BlockPlan, chosen: Mapping[int, Selection], watch: Watch, current: Attempt
    ) -> None:
        self._run = run
        self._plan = plan
        self._chosen = chosen
        self._watch = watch
        self._attempt = current
        self._paths = plan.paths(run.paths)
        self._seconds = {"load": 0.0, "read": 0.0, "write": 0.0}
        self._have = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def reading(self, encoders: Callable[[], EncoderPair]) -> Ahead[_Ready]:
        """Read, translate and tokenise the blocks that are missing, one ahead of those that are taken."""
        accounts = self._accounts()
        self._have = sum(account is not None for account in accounts)
        if all(account is not None for account in accounts) and same_encoders(accounts):
            return Ahead(iter(()))
        pair = encoders()
        self._seconds["load"] = pair.seconds
        self._drop_others(accounts, pair)
        self._have = sum(account is not None for account in accounts)
        return Ahead(self._prepare_missing(accounts, pair))

    def finish(self) -> Outcome:
        """Seal the shard if its blocks are all there."""
        try:
            self._settle()
        finally:
            self._writer.shutdown()
        if not all(path.exists() for path in self._paths):
            self._leave_if_sealed()
            stopped(self._run.paths.blocks(self._plan.shard.number), self._attempt)
            return Outcome(self._plan.shard.number, "stopped", 0)
        return self._seal()

    def _accounts(self) -> list[Account | None]:
        return [read_block(path, self._plan, block) for block, path in enumerate(self._paths)]

    def _drop_others(self, accounts: list[Account | None], pair: EncoderPair) -> None:
        """Delete blocks of an earlier attempt whose encoders ran otherwise, say in another precision."""
        for block, account in enumerate(accounts):
            if account is not None and account.encoders != pair.identities():
                self._paths[block].unlink(missing_ok=True)
                accounts[block] = None

    def embed(self, blocks: Iterable[_Ready]) -> None:
        """Embed block after block: one is read and one is written while one is embedded."""
        if self._have == self._plan.count:
            return
        self._tell()
        try:
            for block, prepared, work, pair in blocks:
                self._leave_if_sealed()
                # Another task may have finished this block since.
                embedding = None if self._paths[block].exists() else pair.embed(work)
                self._settle()
                self._writing = self._writer.submit(self._write, block, prepared, embedding)
                if self._watch.stop():
                    break
        except BaseException:
            self._writer.shutdown()
            raise

    def _settle(self) -> None:
        """Wait until the block that is being written is safe, and tell so."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
            self._have += 1
            self._tell()

    def _tell(self) -> None:
        self._watch.block_done(self._plan.shard.number, self._have, self._plan.count)

    def _write(self, block: int, prepared: Prepared, embedding: Embedding | None) -> None:
        if embedding is None:
            return
        found, account = embedding.result()
        started = time.perf_counter()
        arrays = to_store(found, self._run.request.store)
        write_block(self._paths[block], self._plan, block, prepared, arrays, account)
        self._seconds["write"] += time.perf_counter() - started

    def _prepare_missing(self, accounts: list[Account | None], pair: EncoderPair) -> Iterator[_Ready]:
        """Read on to the last missing block; blocks that are there are passed over without translating."""
        request, shard = self._run.request, self._plan.shard
        missing = [block for block, account in enumerate(accounts) if account is None]
        if not missing:
            return
        blocks = read_blocks(request.inputs, request.chunk, shard.start, shard.units, self._plan.block_units)
        started = time.perf_counter()
        for block, units in enumerate(islice(blocks, missing[-1] + 1)):
            if accounts[block] is None:
                prepared = prepare(units, request.inputs, self._chosen)
                work = pair.prepare(prepared.dna, prepared.protein)
                self._seconds["read"] += time.perf_counter() - started
                yield block, prepared, work, pair
                started = time.perf_counter()
        self._watch.all_read()

    def _leave_if_sealed(self) -> None:
        if sealed(self._run, self._plan.shard.number) is not None:
            raise _LeftToOtherError

    def _seal(self) -> Outcome:
        started = time.perf_counter()
        run, shard = self._run, self._plan.shard
        stamps = self._stamps()
        accounts = [account for account in self._accounts() if account is not None]
        if len(accounts) < self._plan.count:
            raise FileNotFoundError(f"a block of {shard_name(shard.number)} is gone or damaged")
        if not same_encoders(accounts):
            raise RunError(
                f"two tasks made blocks of {shard_name(shard.number)} with encoders in different precision: "
                f"end one of them, then go on with: python -m jobs.rerun {run.paths.root}"
            )
        with replacing(run.paths.shard(shard.number)) as temporary:
            merged = merge(
                self._paths,
                temporary,
                arrays=_arrays(self._paths[0]),
                attributes={"kind": "shard", "run": run.request.digest, "shard": shard.number},
            )
            if self._stamps() != stamps:
                raise RunError(
                    f"another task changed blocks of {shard_name(shard.number)} while they were sealed: "
                    f"end one of the two, then go on with: python -m jobs.rerun {run.paths.root}"
                )
            self._require_planned(merged)
            size, sha256 = temporary.stat().st_size, file_sha256(temporary)
            self._leave_if_sealed()
        self._seconds["seal"] = time.perf_counter() - started
        receipt = self._receipt(merged, accounts, size, sha256)
        try:
            receipt.write(run.paths.receipt(shard.number))
        except FileExistsError:
            raise _LeftToOtherError from None
        shutil.rmtree(run.paths.blocks(shard.number), ignore_errors=True)
        return Outcome(shard.number, "done", merged.rows)

    def _stamps(self) -> list[tuple[int, int]]:
        """What tells one block file from another in its place; a block itself never changes."""
        return [(stat.st_ino, stat.st_mtime_ns) for stat in (path.stat() for path in self._paths)]

    def _require_planned(self, merged: Merged) -> None:
        shard = self._plan.shard
        if merged.rows != shard.rows:
            files = [entry.path for entry in self._run.request.inputs[shard.start.input :]]
            raise ChangedInputError(
                f"{shard_name(shard.number)} has {merged.rows:,} open frames, the plan counted {shard.rows:,}: "
                f"{files[0]} or an input after it changed while it was read. Extract the run anew with --force"
            )

    def _receipt(self, merged: Merged, accounts: list[Account], size: int, sha256: str) -> Receipt:
        shard = self._plan.shard
        seconds = {**self._seconds, **_sums(account.seconds for account in accounts)}
        return Receipt(
            run=self._run.request.digest,
            shard=shard.number,
            file=self._run.paths.shard(shard.number).name,
            size=size,
            sha256=sha256,
            rows=merged.rows,
            records=merged.records,
            units=shard.units,
            skipped=merged.skipped,
            ids_sha256=merged.ids_sha256,
            start=asdict(shard.start),
            widths=merged.widths,
            dtype=self._run.request.store,
            projections={name: PROJECTIONS[name] for name in merged.widths if name in PROJECTIONS},
            encoders=accounts[0].encoders,
            attempt=self._attempt.number,
            host=socket.gethostname(),
            job=job_id(),
            devices=sorted({account.device for account in accounts}),
            kernels=accounts[-1].kernels,
            seconds={name: round(value, 3) for name, value in seconds.items()},
            tokens={name: int(value) for name, value in _sums(account.tokens for account in accounts).items()},
            events=[event for account in accounts for event in account.events],
            started=self._attempt.started,
            finished=now(),
            versions=versions(),
        )


def _arrays(block: Path) -> dict[str, tuple[str, ...]]:
    """A shard holds the same arrays as its blocks."""
    with h5py.File(block, "r", locking=False) as file:
        return {name: (name,) for name in ("dna", "dna_projected", "protein") if name in file}


def _sums(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals
