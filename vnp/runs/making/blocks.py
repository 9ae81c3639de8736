"""Blocks, the pieces of an unfinished shard, and what becomes of them: the shard file, and the receipt that it is done.

A block is written once and never changed.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.errors import ChangedInputError, FeatureError, RunError
from vnp.features.layout import PROJECTION
from vnp.features.merge import Merged, merge
from vnp.features.table import CONTENT, content_digest, require_schema, write_table
from vnp.files.durable import creating, replacing
from vnp.files.hashing import file_sha256
from vnp.runs.done.receipts import Receipt, sealed
from vnp.runs.making.attempts import Attempt, job_id, now
from vnp.runs.request import Run, RunPaths, Shard, shard_name, versions
from vnp.runs.units import Prepared

_ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """How a shard is cut into blocks: by units alone, so that every task cuts it the same way.

    Args:
        run: digest of the run's request.
        shard: the shard.
        block_units: most units of a block.
    """

    run: str
    shard: Shard
    block_units: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.shard.blocks(self.block_units)

    def units(self, block: int) -> int:
        """Units of one block: as many as of any other, or one less.

        The next shard is made ready while the last block is embedded, so that one must not be short.
        """
        count = self.count
        return self.shard.units // count + (block < self.shard.units % count)

    @property
    def sizes(self) -> list[int]:
        """Units of each block."""
        return [self.units(block) for block in range(self.count)]

    def paths(self, paths: RunPaths) -> list[Path]:
        """The block files in order."""
        return [paths.block(self.shard.number, block) for block in range(self.count)]

    def attributes(self, block: int) -> dict[str, str | int]:
        """What a block file says of itself."""
        return {
            "kind": "block",
            "run": self.run,
            "shard": self.shard.number,
            "block": block,
            "units": self.units(block),
        }


@dataclass(frozen=True, slots=True)
class Account:
    """How a block came about.

    Args:
        encoders: identities of both encoders, precision included.
        device: name of the GPU, or ``cpu``.
        kernels: the attention kernel of each encoder.
        tokens: tokens that each encoder read.
        seconds: time of each phase.
        events: what happened on the way.
    """

    encoders: dict[str, dict[str, Any]]
    device: str
    kernels: dict[str, str]
    tokens: dict[str, int]
    seconds: dict[str, float]
    events: list[str]


def write_block(
    path: Path,
    plan: BlockPlan,
    block: int,
    prepared: Prepared,
    arrays: Mapping[str, np.ndarray],
    account: Account,
) -> bool:
    """Write one block durably.

    Returns:
        False if another task had written it first; that one stays.

    Raises:
        FeatureError: a value is not finite.
        FileNotFoundError: the shard's folder is gone: another task has sealed the shard.
        StorageError: the disk is full or cannot be written.
    """
    try:
        with creating(path) as temporary:
            write_table(
                temporary,
                rows=prepared.rows,
                records=prepared.records,
                skipped=prepared.skipped,
                arrays=arrays,
                attributes={**plan.attributes(block), _ACCOUNT: json.dumps(asdict(account), sort_keys=True)},
            )
    except FileExistsError:
        return False
    return True


def read_block(path: Path, plan: BlockPlan, block: int) -> Account | None:
    """How a block came about, if it is there, whole, and of this run; what is not is deleted."""
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r", locking=False) as file:
            require_schema(file, path)
            if file.attrs.get(CONTENT) != content_digest(file):
                raise FeatureError(f"{path} is damaged")
            if any(file.attrs.get(key) != value for key, value in plan.attributes(block).items()):
                raise FeatureError(f"{path} belongs to another run")
            return Account(**json.loads(file.attrs[_ACCOUNT]))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, FeatureError):
        path.unlink(missing_ok=True)
        return None


def same_encoders(accounts: Sequence[Account | None]) -> bool:
    """Whether all blocks are there and of the same encoders, in the same precision."""
    return all(account is not None and account.encoders == accounts[0].encoders for account in accounts)  # type: ignore[union-attr]


class LeftToOtherError(Exception):
    """Another task has sealed the shard."""


def leave_if_sealed(run: Run, number: int) -> None:
    """Go on only with a shard that nobody has sealed.

    Raises:
        LeftToOtherError: another task has.
    """
    if sealed(run, number) is not None:
        raise LeftToOtherError


def seal_shard(run: Run, plan: BlockPlan, current: Attempt, seconds: Mapping[str, float]) -> int:
    """Seal blocks into the shard file, and write its receipt.

    Args:
        run: the run.
        plan: of the shard's blocks, all of which are there.
        current: the attempt that seals.
        seconds: what this attempt spent on each phase.

    Returns:
        Rows of the shard.

    Raises:
        LeftToOtherError: another task was faster.
        FileNotFoundError: a block is gone or damaged.
        RunError: blocks of other encoders stand beside these, or somebody changes them.
        ChangedInputError: there are more or fewer rows than the plan counted.
    """
    started = time.perf_counter()
    number, paths = plan.shard.number, plan.paths(run.paths)
    stamps = _stamps(paths)
    accounts = _accounts(run, plan, paths)
    with replacing(run.paths.shard(number)) as temporary:
        merged = merge(
            paths,
            temporary,
            arrays=_arrays(paths[0]),
            attributes={"kind": "shard", "run": run.request.digest, "shard": number},
        )
        if _stamps(paths) != stamps:
            raise RunError(
                f"another task changed blocks of {shard_name(number)} while they were sealed: "
                f"end one of the two, then go on with: python -m jobs.rerun {shlex.quote(str(run.paths.root))}"
            )
        _require_planned(run, plan, merged)
        size, sha256 = temporary.stat().st_size, file_sha256(temporary)
        leave_if_sealed(run, number)
    spent = {**seconds, "seal": time.perf_counter() - started}
    receipt = _receipt(run, plan, current, merged, accounts, spent, size, sha256)
    try:
        receipt.write(run.paths.receipt(number))
    except FileExistsError:
        raise LeftToOtherError from None
    shutil.rmtree(run.paths.blocks(number), ignore_errors=True)
    return merged.rows


def _accounts(run: Run, plan: BlockPlan, paths: Sequence[Path]) -> list[Account]:
    """How the blocks came about; all of them, with the same encoders."""
    read = [read_block(path, plan, block) for block, path in enumerate(paths)]
    accounts = [account for account in read if account is not None]
    if len(accounts) < plan.count:
        raise FileNotFoundError(f"a block of {shard_name(plan.shard.number)} is gone or damaged")
    if not same_encoders(accounts):
        raise RunError(
            f"two tasks made blocks of {shard_name(plan.shard.number)} with encoders in different precision: "
            f"end one of them, then go on with: python -m jobs.rerun {shlex.quote(str(run.paths.root))}"
        )
    return accounts


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """What tells one block file from another in its place; a block itself never changes."""
    return [(stat.st_ino, stat.st_mtime_ns) for stat in (path.stat() for path in paths)]


def _require_planned(run: Run, plan: BlockPlan, merged: Merged) -> None:
    shard = plan.shard
    if merged.rows != shard.rows:
        files = [entry.path for entry in run.request.inputs[shard.start.input :]]
        raise ChangedInputError(
            f"{shard_name(shard.number)} has {merged.rows:,} open frames, the plan counted {shard.rows:,}: "
            f"{files[0]} or an input after it changed while it was read. Extract the run anew with --force"
        )


def _receipt(
    run: Run,
    plan: BlockPlan,
    current: Attempt,
    merged: Merged,
    accounts: Sequence[Account],
    spent: Mapping[str, float],
    size: int,
    sha256: str,
) -> Receipt:
    shard = plan.shard
    seconds = {**spent, **_sums(account.seconds for account in accounts)}
    return Receipt(
        run=run.request.digest,
        shard=shard.number,
        file=run.paths.shard(shard.number).name,
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
        seconds={name: round(value, 3) for name, value in seconds.items()},
        tokens={name: int(value) for name, value in _sums(account.tokens for account in accounts).items()},
        events=[event for account in accounts for event in account.events],
        started=current.started,
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
