"""One task: a shard from its input to its receipt.

Blocks come first, each safe on the disk before the next is begun; then they are sealed into the shard file; the
receipt is last. A task that starts on a shard with blocks goes on after them. Two tasks on one shard cannot harm each
other: the first to finish a block wins, both use it, and sealing the same blocks gives the same bytes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from shlex import quote
from typing import Any

from vnp.errors import RunError, UsageError, storage_error
from vnp.runs.done.receipts import discard, sealed
from vnp.runs.making.attempts import Attempt, attempt, stopped
from vnp.runs.making.blocks import Account, BlockPlan, read_block, same_encoders, write_block
from vnp.runs.making.encoders import Embedding, RunEncoders, to_store
from vnp.runs.making.rows import Prepared, prepare
from vnp.runs.making.sealing import LeftToOtherError, leave_if_sealed, seal_shard
from vnp.runs.making.steps import Ahead, PutAsideError, Steps
from vnp.runs.planning.plan import Selection, check_inputs, inputs_of, read_chosen, read_plan
from vnp.runs.request import Run, shard_name
from vnp.runs.units import read_blocks

_Ready = tuple[int, Prepared, Mapping[str, Any], RunEncoders]
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


def extract_shard(run: Run, number: int, encoders: Callable[[], RunEncoders], watch: Watch | None = None) -> Outcome:
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
    run: Run, number: int, encoders: Callable[[], RunEncoders], watch: Watch | None = None
) -> Steps[Outcome]:
    """Do what ``extract_shard`` does in three steps, which different threads may take.

    Returns:
        The steps. The first begins to read, the second embeds, the third seals: so that one shard can be begun, and
        another one sealed, while the GPU is busy with a third. Any of them may raise ``VnpError``. A shard that was
        begun can be put aside.
    """
    return Steps(_make(run, number, encoders, watch or Watch()))


def _make(run: Run, number: int, encoders: Callable[[], RunEncoders], watch: Watch) -> Generator[None, None, Outcome]:
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
    except (LeftToOtherError, FileNotFoundError) as error:
        receipt = sealed(run, number)
        if receipt is None:
            raise RunError(
                f"{shard_name(number)}: files vanished or were damaged while it was made ({error}). "
                f"Go on with: python -m jobs.rerun {quote(str(run.paths.root))}"
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
        self._seconds = {"load": 0.0, "weights": 0.0, "read": 0.0, "write": 0.0}
        self._have = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def reading(self, encoders: Callable[[], RunEncoders]) -> Ahead[_Ready]:
        """Read, translate and tokenise the blocks that are missing, one ahead of those that are taken.

        Encoders are loaded meanwhile, unless blocks that are there have to be compared with them.
        """
        accounts = self._accounts()
        self._have = sum(account is not None for account in accounts)
        if all(account is not None for account in accounts) and same_encoders(accounts):
            return Ahead(iter(()))
        loaded: Future[RunEncoders] = Future()
        if not self._have:
            blocks = self._prepare_missing(accounts, loaded)
            return Ahead(blocks, beside=lambda: self._load(encoders, loaded), give_up=loaded.cancel)
        self._load(encoders, loaded)
        self._drop_others(accounts, loaded.result())
        self._have = sum(account is not None for account in accounts)
        return Ahead(self._prepare_missing(accounts, loaded))

    def _load(self, encoders: Callable[[], RunEncoders], loaded: Future[RunEncoders]) -> None:
        pair = encoders()
        self._seconds["load"], self._seconds["weights"] = pair.seconds, pair.weights_seconds
        loaded.set_result(pair)

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

    def _drop_others(self, accounts: list[Account | None], pair: RunEncoders) -> None:
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

    def _prepare_missing(self, accounts: list[Account | None], loaded: Future[RunEncoders]) -> Iterator[_Ready]:
        """Read on to the last missing block; blocks that are there are passed over without translating."""
        request, shard = self._run.request, self._plan.shard
        missing = [block for block, account in enumerate(accounts) if account is None]
        if not missing:
            return
        blocks = read_blocks(request.inputs, request.chunk, shard.start, self._plan.sizes)
        started = time.perf_counter()
        for block, units in enumerate(islice(blocks, missing[-1] + 1)):
            if accounts[block] is None:
                prepared = prepare(units, request.inputs, self._chosen)
                self._seconds["read"] += time.perf_counter() - started
                pair = loaded.result()
                started = time.perf_counter()
                work = pair.prepare(prepared.dna, prepared.protein)
                self._seconds["read"] += time.perf_counter() - started
                yield block, prepared, work, pair
                started = time.perf_counter()
        self._watch.all_read()

    def _leave_if_sealed(self) -> None:
        leave_if_sealed(self._run, self._plan.shard.number)

    def _seal(self) -> Outcome:
        rows = seal_shard(self._run, self._plan, self._attempt, self._seconds)
        return Outcome(self._plan.shard.number, "done", rows)
