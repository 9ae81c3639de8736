"""The pipeline of a task: shard after shard from its input to its receipt, with a GPU that never waits for the disk.

    reading thread          main thread            writing thread       sealing thread
    a shard is begun;   ->  a block is         ->  its rows are     ->  a shard's blocks become its file,
    a block is read,        embedded               written              its receipt is last
    translated, tokenised

Each stage has one thing in hand: while a block is embedded, the next one is read and the last one written. The reading
goes on across shards: while the last block of one is embedded the next one is begun, and while that is embedded the
last one is sealed. The encoders are loaded in the main thread, where Ctrl-C can end it, while the first block is read.
So a GPU is busy for 97 % of the time from a FASTA file of a million reads to sealed shards. Its work is queued by the
main thread, some batches ahead, so the threads beside it have to give way soon: every ``_SWITCH_SECONDS``.

Blocks come first, then they are sealed into the shard's file, and its receipt is last. A killed task loses no more than
the blocks in hand; one that starts on a shard with blocks goes on after them. An error ends its own shard and no other.
Two tasks on one shard cannot harm each other: the first to finish a block wins, both use it, and sealing the same
blocks gives the same bytes.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vnp.errors import RunError, UsageError, VnpError, storage_error
from vnp.features.scores import Scores
from vnp.runs.done.receipts import Announced, discard, sealed
from vnp.runs.making.blocks import (
    Account,
    BlockPlan,
    LeftToOtherError,
    leave_if_sealed,
    read_block,
    same_encoders,
    seal_shard,
    write_block,
)
from vnp.runs.making.encoders import Embedding, RunEncoders, settle, share_kernels, to_store
from vnp.runs.planning.plan import Selection, check_inputs, inputs_of, read_needed, read_plan
from vnp.runs.request import PlannedInput, Run, shard_name
from vnp.runs.units import Prepared, Settled, UnitBatch, prepare, read_blocks
from vnp.sequences.opening import KnownBlocks

if TYPE_CHECKING:
    from vnp.runs.making.leases import Leases

_SWITCH_SECONDS = 0.0005


class Scoring(Protocol):
    """What gives the rows of a block their scores, as they are embedded."""

    def settle(self, units: Sequence[UnitBatch], inputs: Sequence[PlannedInput]) -> Settled | None:
        """Find the records of a block that need not be embedded; None where all are."""

    def score(self, prepared: Prepared, arrays: Mapping[str, np.ndarray]) -> Scores:
        """Score a block.

        ``arrays`` are the rows by the name of the part, as they would be stored.

        Raises:
            VnpError: they cannot be scored.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work on a shard ended."""

    shard: int
    # ``done``; ``already`` (there was a receipt before work began); ``left`` (another task finished the shard
    # meanwhile); ``stopped`` (asked to stop; the finished blocks are safe)
    state: str
    rows: int  # rows of the shard, 0 where it was not sealed


def make_shards(
    run: Run,
    shards: Iterable[int],
    *,
    stop: Callable[[], bool] = lambda: False,
    block_done: Callable[[int, int, int], None] = lambda _shard, _done, _all: None,
    log: str | None = None,
    load: Callable[[], RunEncoders] | None = None,
    scoring: Callable[[RunEncoders], Scoring] | None = None,
    leases: Leases | None = None,
) -> tuple[list[Outcome], list[tuple[int, VnpError]]]:
    """Make shards in this process, or find that they are made.

    Args:
        shards: their numbers; the next one is asked for, in another thread, when it is begun.
        stop: asked after every block whether to end; what is whole is sealed then, and what was begun is put aside.
        block_done: told the shard, its finished blocks and its blocks in all.
        load: gives the encoders, once, if there is something to embed.
        scoring: gives what scores rows, where the run has a classifier; called when the encoders are there.
        leases: what ``shards`` is, where other tasks share them.

    Returns:
        How each ended, and what went wrong with those that could not be made; what is finished of them stays.

    Raises:
        RunError: the plan is damaged, or other code planned it.
        StorageError: a folder of the run is gone and cannot be made again.
    """
    run.require_code()
    run.paths.make()
    if run.request.needs_weights:
        sys.setswitchinterval(_SWITCH_SECONDS)
    pipeline = _Pipeline(run, iter(shards), stop, block_done, log, load or (lambda: _load(run)), scoring, leases)
    pipeline.work()
    return sorted(pipeline.outcomes, key=lambda one: one.shard), sorted(pipeline.failed, key=lambda one: one[0])


def _load(run: Run) -> RunEncoders:
    if run.request.needs_weights:
        share_kernels(run.paths)
    return RunEncoders.load(run.request, settle(run))


class _Shard:
    """One shard on its way."""

    def __init__(self, run: Run, plan: BlockPlan) -> None:
        self.number = plan.shard.number
        self.plan = plan
        self.paths = plan.paths(run.paths)
        self.announced: Announced | None = None
        self.chosen: Mapping[int, Selection] = {}
        self.known: Mapping[int, KnownBlocks] = {}
        self.seconds = {"load": 0.0, "weights": 0.0, "read": 0.0, "write": 0.0}
        self.have = 0  # blocks that are safe on the disk
        self.writing: Future[None] | None = None
        self.over = False  # nothing is read or embedded of it any more


@dataclass(frozen=True, slots=True)
class _Block:
    """A block to embed: its number, its columns, its tokens, and what embeds them."""

    number: int
    prepared: Prepared
    work: Mapping[str, Any]
    encoders: RunEncoders
    read: dict[str, tuple[int, int]]  # the blocks of each input that were read for it and for those before it


@dataclass(frozen=True, slots=True)
class _Step:
    """What the reading thread hands over."""

    shard: _Shard  # of which shard
    block: _Block | None = None  # to be embedded
    last: bool = False  # nothing comes of the shard after this
    needs_encoders: bool = False  # they are to be loaded
    error: Exception | None = None  # why the shard cannot be read


@dataclass(eq=False)
class _Pipeline:
    """The stages in the order of their methods, and what flows between them."""

    run: Run
    numbers: Iterator[int]
    stop: Callable[[], bool]
    block_done: Callable[[int, int, int], None]
    log: str | None
    load: Callable[[], RunEncoders]
    scoring: Callable[[RunEncoders], Scoring] | None = None
    leases: Leases | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    failed: list[tuple[int, VnpError]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shards = read_plan(self.run.paths.plan, self.run.request.plan_sha256)
        self._ending = False
        self._scores: Scoring | None = None
        self._begun: list[_Shard] = []
        self._sealing: Future[None] | None = None
        self._writer, self._sealer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._start_reading()

    def work(self) -> None:
        """Embed what is read, in this thread, until nothing is left or the task is asked to stop."""
        try:
            while (step := self._take()) is not None:
                shard = step.shard
                if shard.over:
                    continue
                with self._noting(shard):
                    if step.error is not None:
                        raise step.error
                    if step.needs_encoders:
                        self._load_for(shard)
                        continue
                    if step.block is not None:
                        self._embed(shard, step.block)
                if step.last:
                    self._seal(shard)
                if self.stop():
                    break
        finally:
            self._ending = True
            if self.leases is not None:
                self.leases.close()
            # An interruption may have come before they were loaded, and the thread that reads waits for them.
            self._loaded.cancel()
            self._reader.shutdown(cancel_futures=True)
            try:
                # What was begun, and nobody goes on with: it is put aside, or sealed if it is whole.
                for shard in list(self._begun):
                    self._seal(shard)
                self._wait_for_seal()
            finally:
                self._writer.shutdown()
                self._sealer.shutdown()
                if self._loaded.done() and not self._loaded.cancelled():
                    self._loaded.result().close()

    def _start_reading(self) -> None:
        self._loaded: Future[RunEncoders] = Future()
        self._reader = ThreadPoolExecutor(1)
        self._steps = self._read(self._loaded)
        self._ahead: Future[_Step | None] | None = None

    def _take(self) -> _Step | None:
        """The next step; the reading thread begins on the one after it."""
        ahead = self._ahead or self._reader.submit(next, self._steps, None)
        found = ahead.result()
        self._ahead = self._reader.submit(next, self._steps, None)
        return found

    def _read(self, loaded: Future[RunEncoders]) -> Iterator[_Step]:
        """Read shard after shard, in the reading thread."""
        for number in self.numbers:
            if self._ending:
                return
            if not 0 <= number < len(self._shards):
                there = f"{self.run.paths.root} has the shards 0 to {len(self._shards) - 1}, not {number}"
                self.failed.append((number, UsageError(there)))
                continue
            request = self.run.request
            shard = _Shard(self.run, BlockPlan(request.digest, self._shards[number], request.block_units))
            try:
                if self._begin(shard):
                    yield from self._read_blocks(shard, loaded)
            except Exception as error:
                yield _Step(shard, error=error)

    def _begin(self, shard: _Shard) -> bool:
        """Announce the work on a shard; False if it is done already."""
        run, number = self.run, shard.number
        shard.announced = None if self.leases is None else self.leases.announced(number)
        done = sealed(run, number)
        if done is not None:
            if shard.announced is not None:
                shard.announced.end()
            self.outcomes.append(Outcome(number, "already", done.rows))
            return False
        discard(run, number)
        if shard.announced is None:
            shard.announced = Announced(run.paths.blocks(number), self.log)
        self._begun.append(shard)
        shard.chosen, shard.known = read_needed(run, self._shards, number)
        check_inputs(inputs_of(run.request, self._shards, number))
        return True

    def _read_blocks(self, shard: _Shard, loaded: Future[RunEncoders]) -> Iterator[_Step]:
        """Read, translate and tokenise the blocks that are missing; those that are there are passed over."""
        request, plan = self.run.request, shard.plan
        accounts = [read_block(path, plan, block) for block, path in enumerate(shard.paths)]
        if same_encoders(accounts):
            yield _Step(shard, last=True)
            return
        if not loaded.done():
            yield _Step(shard, needs_encoders=True)
        if any(accounts):
            _drop_others(shard, accounts, loaded.result())
        shard.have = sum(account is not None for account in accounts)
        final = max(block for block, account in enumerate(accounts) if account is None)
        started, last = time.perf_counter(), False
        blocks = read_blocks(request.inputs, request.chunk, plan.shard.start, plan.sizes, shard.known)
        for block, units in enumerate(islice(blocks, final + 1)):
            if shard.over or self._ending:
                return
            if accounts[block] is None:
                settled = None
                if request.settles:
                    loaded.result()
                    assert self._scores is not None
                    settled = self._scores.settle(units, request.inputs)
                prepared = prepare(
                    units, request.inputs, shard.chosen, request.shortest, request.beside, settled,
                    facts=request.classifier is not None,
                )  # fmt: skip
                shard.seconds["read"] += time.perf_counter() - started
                encoders = loaded.result()
                started, last = time.perf_counter(), block == final
                work = encoders.prepare(prepared.dna, prepared.protein)
                shard.seconds["read"] += time.perf_counter() - started
                read = {str(index): known.read for index, known in shard.known.items() if known.read is not None}
                yield _Step(shard, _Block(block, prepared, work, encoders, read), last)
                started = time.perf_counter()
        if not last:
            # The input is shorter than it was.
            yield _Step(shard, last=True)

    def _load_for(self, shard: _Shard) -> None:
        """Load the encoders, while the first block of a shard is read."""
        try:
            encoders = self.load()
            self._scores = None if self.scoring is None else self.scoring(encoders)
        except BaseException:
            # Nobody waits for the thread that reads meanwhile, nor does it for what is not to come.
            self._loaded.cancel()
            self._reader.shutdown(wait=False, cancel_futures=True)
            self._start_reading()
            raise
        shard.seconds["load"], shard.seconds["weights"] = encoders.seconds, encoders.weights_seconds
        self._loaded.set_result(encoders)

    def _embed(self, shard: _Shard, block: _Block) -> None:
        """Embed a block, and leave it to be written when the one before it is safe."""
        if shard.writing is None:
            self._tell(shard)
        leave_if_sealed(self.run, shard.number)
        # Another task may have finished this block since.
        embedding = None if shard.paths[block.number].exists() else block.encoders.embed(block.work)
        self._settle(shard)
        shard.writing = self._writer.submit(self._write, shard, block, embedding)

    def _write(self, shard: _Shard, block: _Block, embedding: Embedding | None) -> None:
        """Write a block, in the writing thread."""
        if embedding is None:
            return
        found, account = embedding.result()
        account = replace(account, read=block.read)
        assert shard.announced is not None
        shard.announced.embedded(account.device, sum(account.tokens.values()), account.seconds["gpu"])
        started = time.perf_counter()
        arrays = to_store(found, self.run.request.store)
        scores = None
        if self._scores is not None:
            # Of the rows as they would be stored, so that it makes no difference whether they are.
            scores = self._scores.score(block.prepared, arrays)
            arrays = arrays if self.run.request.keeps_rows else {}
            account.seconds["score"] = round(time.perf_counter() - started, 4)
            started = time.perf_counter()
        write_block(shard.paths[block.number], shard.plan, block.number, block.prepared, arrays, account, scores)
        shard.seconds["write"] += time.perf_counter() - started

    def _settle(self, shard: _Shard) -> None:
        """Wait until the block that is being written is safe, and tell so."""
        writing, shard.writing = shard.writing, None
        if writing is not None:
            writing.result()
            shard.have += 1
            self._tell(shard)

    def _tell(self, shard: _Shard) -> None:
        self.block_done(shard.number, shard.have, shard.plan.count)

    def _seal(self, shard: _Shard) -> None:
        """Leave a shard to be sealed, one at a time: blocks of more shards are not piled up on the disk."""
        if not shard.over:
            self._wait_for_seal()
            shard.over = True
            self._begun.remove(shard)
            self._sealing = self._sealer.submit(self._finish, shard)

    def _wait_for_seal(self) -> None:
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def _finish(self, shard: _Shard) -> None:
        """Seal a shard whose blocks are all there and put another one aside, in the sealing thread."""
        with self._noting(shard):
            assert shard.announced is not None
            self._settle(shard)
            if all(path.exists() for path in shard.paths):
                rows = seal_shard(self.run, shard.plan, shard.announced.so_far(), shard.seconds, shard.known)
                shard.announced.end()
                self.outcomes.append(Outcome(shard.number, "done", rows))
            else:
                leave_if_sealed(self.run, shard.number)
                shard.announced.end("stopped")
                self.outcomes.append(Outcome(shard.number, "stopped", 0))

    @contextmanager
    def _noting(self, shard: _Shard) -> Iterator[None]:
        """Let what goes wrong in any stage end its shard, and no other; what is no fault of a shard is passed on."""
        try:
            yield
        except BaseException as error:
            if shard.writing is not None:
                wait([shard.writing])
            shard.over = True
            if shard in self._begun:
                self._begun.remove(shard)
            if shard.announced is not None:
                shard.announced.fail(error)
            if isinstance(error, (LeftToOtherError, FileNotFoundError)):
                with self._noting(shard):
                    self._leave(shard, error)
            elif isinstance(error, VnpError):
                self.failed.append((shard.number, error))
            elif isinstance(error, OSError):
                what = f"making {shard_name(shard.number)} of {self.run.paths.root}"
                self.failed.append((shard.number, storage_error(error, what)))
            else:
                raise

    def _leave(self, shard: _Shard, error: Exception) -> None:
        """Leave a shard whose files are gone to the task that has sealed it."""
        receipt = sealed(self.run, shard.number)
        if receipt is None:
            raise RunError(
                f"{shard_name(shard.number)}: files vanished or were damaged while it was made ({error}). "
                f"Go on with: {self.run.rerun_command}"
            ) from error
        shutil.rmtree(self.run.paths.blocks(shard.number), ignore_errors=True)
        self.outcomes.append(Outcome(shard.number, "left", receipt.rows))


def _drop_others(shard: _Shard, accounts: list[Account | None], encoders: RunEncoders) -> None:
    """Delete blocks of an earlier attempt whose encoders ran otherwise, say in another precision."""
    for block, account in enumerate(accounts):
        if account is not None and account.encoders != encoders.identities():
            shard.paths[block].unlink(missing_ok=True)
            accounts[block] = None
