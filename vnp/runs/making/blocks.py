"""Blocks, the pieces of an unfinished shard, and what becomes of them: the shard file, and the receipt that it is done.

A block is written once and never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.errors import ChangedInputError, FeatureError, RunError
from vnp.features.layout import PROJECTION
from vnp.features.merge import Merged, merge
from vnp.features.scores import SCHEMA as SCORES
from vnp.features.scores import Scores, add_scores, join_into, join_scores, write_scores
from vnp.features.table import CONTENT, content_digest, require_schema, write_table
from vnp.files.durable import creating, replacing
from vnp.files.hashing import file_sha256
from vnp.files.records import from_json, parse_json, require_regular
from vnp.runs.done.receipts import Attempt, Receipt, job_id, now, sealed, sums, told
from vnp.runs.request import PlannedInput, Run, RunPaths, Shard, shard_name, versions
from vnp.runs.units import Prepared
from vnp.sequences.opening import BLOCK, KnownBlocks

_ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """How a shard is cut into blocks: by units alone, so that every task cuts it the same way."""

    run: str  # digest of the run's request
    shard: Shard
    block_units: int  # most units of a block

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.shard.blocks(self.block_units)

    @property
    def sizes(self) -> list[int]:
        """Units of each block: as many as of any other, or one less.

        The next shard is made ready while the last block is embedded, so that one must not be short.
        """
        each, more = divmod(self.shard.units, self.count)
        return [each + (block < more) for block in range(self.count)]

    def paths(self, paths: RunPaths) -> list[Path]:
        """The block files in order."""
        return [paths.block(self.shard.number, block) for block in range(self.count)]

    def attributes(self, block: int) -> dict[str, str | int]:
        """What a block file says of itself."""
        place = {"shard": self.shard.number, "block": block, "units": self.sizes[block]}
        return {"kind": "block", "run": self.run, **place}


@dataclass(frozen=True, slots=True)
class Account:
    """How a block came about."""

    encoders: dict[str, dict[str, Any]]  # identities of the encoders, precision included
    device: str  # name of the GPU, or ``cpu``
    kernels: dict[str, str]  # the attention kernel of each encoder
    tokens: dict[str, int]  # tokens that each encoder read
    seconds: dict[str, float]  # time of each phase
    events: list[str]  # what happened on the way
    # the first block of bytes of each input that was read for it, and the one after the last
    read: Mapping[str, Sequence[int]] = field(default_factory=dict)
    cached: Mapping[str, int] = field(default_factory=dict)  # rows of each encoder that a cache had
    threads: int = 1  # of the tensor library
    split: str = ""  # how this machine's cores are shared out to tasks and why; "" where its parent did not say


def write_block(
    path: Path,
    plan: BlockPlan,
    block: int,
    prepared: Prepared,
    arrays: Mapping[str, np.ndarray],
    account: Account,
    scores: Scores | None = None,
) -> None:
    """Write one block durably; where another task has written it first, that one stays.

    There are no ``arrays`` where only scores are kept.

    Raises:
        FeatureError: a value is not finite.
        FileNotFoundError: the shard's folder is gone: another task has sealed the shard.
        StorageError: the disk is full or cannot be written.
    """
    facts = prepared.facts
    about: dict[str, Any] = {
        "records": prepared.records,
        "skipped": prepared.skipped,
        "attributes": {**plan.attributes(block), _ACCOUNT: json.dumps(asdict(account), sort_keys=True)},
    }
    with contextlib.suppress(FileExistsError), creating(path) as temporary:
        if scores is None or facts is None:
            write_table(temporary, rows=prepared.rows, arrays=arrays, **about)
        elif arrays:
            more = partial(add_scores, scores=scores, facts=facts)
            write_table(temporary, rows=prepared.rows, arrays=arrays, more=more, **about)
        else:
            write_scores(temporary, scores=scores, facts=facts, **about)


def read_block(path: Path, plan: BlockPlan, block: int) -> Account | None:
    """How a block came about, if it is there, whole, and of this run; what is not is deleted."""
    if not path.exists():
        return None
    try:
        require_regular(path)
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs.get("schema") != SCORES:
                require_schema(file, path)
            if file.attrs.get(CONTENT) != content_digest(file):
                raise FeatureError(f"{path} is damaged")
            if any(file.attrs.get(key) != value for key, value in plan.attributes(block).items()):
                raise FeatureError(f"{path} belongs to another run")
            return from_json(Account, parse_json(file.attrs[_ACCOUNT]))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, FeatureError):
        path.unlink(missing_ok=True)
        return None


def same_encoders(accounts: Sequence[Account | None]) -> bool:
    """Whether all blocks are there and of the same encoders, in the same precision."""
    return all(account is not None and account.encoders == accounts[0].encoders for account in accounts)  # type: ignore[union-attr]


class LeftToOtherError(Exception):
    """Another task has sealed the shard."""


def leave_if_sealed(run: Run, number: int) -> None:
    """Go on only with a shard that nobody has sealed; else ``LeftToOtherError``."""
    if sealed(run, number) is not None:
        raise LeftToOtherError


def seal_shard(
    run: Run, plan: BlockPlan, current: Attempt, seconds: Mapping[str, float], known: Mapping[int, KnownBlocks]
) -> int:
    """Seal blocks into the shard file, and write its receipt.

    All of the plan's blocks are there. ``current`` is the attempt that seals, ``seconds`` what it spent on each phase,
    and ``known`` what the bytes of its inputs must be.

    Returns:
        Rows of the shard.

    Raises:
        LeftToOtherError: another task was faster.
        FileNotFoundError: a block is gone or damaged.
        RunError: blocks of other encoders stand beside these, or somebody changes them.
        ChangedInputError: there are more or fewer rows than the plan counted.
    """
    started = time.perf_counter()
    shard, number, paths = plan.shard, plan.shard.number, plan.paths(run.paths)
    go_on = f"then go on with: {run.rerun_command}"
    stamps = _stamps(paths)
    read = [read_block(path, plan, block) for block, path in enumerate(paths)]
    accounts = [account for account in read if account is not None]
    if len(accounts) < plan.count:
        raise FileNotFoundError(f"a block of {shard_name(number)} is gone or damaged")
    if not same_encoders(accounts):
        raise RunError(
            f"two tasks made blocks of {shard_name(number)} with encoders in different precision: end one of them, "
            f"{go_on}"
        )
    with replacing(run.paths.shard(number)) as temporary:
        changed = f"another task changed blocks of {shard_name(number)} while they were sealed"
        try:
            merged = _join(run, number, paths, temporary)
        except FeatureError as error:
            # Of two tasks' blocks the checksums do not fit together either.
            raise error if _stamps(paths) == stamps else RunError(f"{changed}: end one of the two, {go_on}") from error
        if _stamps(paths) != stamps:
            raise RunError(f"{changed}: end one of the two, {go_on}")
        # Of records that are settled there are none.
        if merged.rows != shard.rows and not (run.request.settles and merged.rows < shard.rows):
            raise ChangedInputError(
                f"{shard_name(number)} has {merged.rows:,} rows, the plan counted {shard.rows:,}: "
                f"{run.request.inputs[shard.start.input].path} or an input after it changed while it was read. "
                "Extract the run anew with --force"
            )
        size, sha256 = temporary.stat().st_size, file_sha256(temporary)
        leave_if_sealed(run, number)
    spent = {**seconds, "seal": time.perf_counter() - started, **sums([account.seconds for account in accounts])}
    receipt = Receipt(
        run=run.request.digest,
        shard=number,
        file=run.paths.shard(number).name,
        size=size,
        sha256=sha256,
        rows=merged.rows,
        records=merged.records,
        units=shard.units,
        skipped=merged.skipped,
        ids_sha256=merged.ids_sha256,
        start=asdict(shard.start),
        widths=merged.widths,
        dtype=run.request.store,
        projections={name: PROJECTION for name in merged.widths if name == "dna_projected"},
        encoders=accounts[0].encoders,
        attempt=current.number,
        host=socket.gethostname(),
        job=job_id(),
        devices=sorted({account.device for account in accounts}),
        kernels=accounts[-1].kernels,
        seconds={name: round(value, 3) for name, value in spent.items()},
        tokens={name: int(value) for name, value in sums([account.tokens for account in accounts]).items()},
        events=[event for account in accounts for event in account.events],
        started=current.started,
        finished=now(),
        versions=versions(),
        content=merged.content,
        attempts=told(run.paths.blocks(number), current),
        cached={name: int(value) for name, value in sums([account.cached for account in accounts]).items()},
        threads=accounts[-1].threads,
        split=accounts[-1].split,
        inputs=_inputs([account.read for account in accounts], run.request.inputs, known),
    )
    try:
        receipt.write(run.paths.receipt(number))
    except FileExistsError:
        raise LeftToOtherError from None
    shutil.rmtree(run.paths.blocks(number), ignore_errors=True)
    return merged.rows


def _join(run: Run, number: int, paths: Sequence[Path], temporary: Path) -> Merged:
    """Join blocks to a shard file."""
    attributes: dict[str, str | int] = {"kind": "shard", "run": run.request.digest, "shard": number}
    if not run.request.keeps_rows:
        joined = join_scores(paths, temporary, attributes)
        widths = {"scores": joined.width}
        # What the native network scores beside the rows, no plan has counted.
        rows = joined.rows if run.request.beside is None else joined.frames
        return Merged(rows, joined.records, joined.skipped, joined.keys_sha256, [], widths, "")
    with h5py.File(paths[0], "r", locking=False) as block:
        arrays = {name: (name,) for name in ("dna", "dna_projected", "protein") if name in block}
    if run.request.classifier is None:
        return merge(paths, temporary, arrays=arrays, attributes=attributes)
    more = partial(join_into, sources=paths)
    return merge(paths, temporary, arrays=arrays, attributes=attributes, more=more)


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """What tells one block file from another in its place; a block itself never changes."""
    return [(stat.st_ino, stat.st_mtime_ns) for stat in (path.stat() for path in paths)]


def _inputs(
    parts: Sequence[Mapping[str, Sequence[int]]], inputs: Sequence[PlannedInput], known: Mapping[int, KnownBlocks]
) -> dict[str, dict[str, Any]]:
    """What was read of each input, over all blocks, for the receipt."""
    found = {}
    for index in dict.fromkeys(chain.from_iterable(parts)):
        low = min(part[index][0] for part in parts if index in part)
        high = max(part[index][1] for part in parts if index in part)
        digests = known[int(index)].digests[low:high].astype("<u8").tobytes()
        end = min(high * BLOCK, inputs[int(index)].size)
        found[index] = {"first": low * BLOCK, "end": end, "sha256": hashlib.sha256(digests).hexdigest()}
    return found
