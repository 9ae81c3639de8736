"""Blocks: the pieces of an unfinished shard. Each is written once and never changed, so a killed task loses one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.errors import FeatureError
from vnp.features.table import CONTENT, content_digest, require_schema, write_table
from vnp.files.durable import creating
from vnp.runs.making.rows import Prepared
from vnp.runs.request import RunPaths, Shard

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
