"""Whether a shard is done: its receipt is valid and matches its file. Nothing else decides, and no scheduler."""

from __future__ import annotations

import contextlib
import shutil

from vnp._durable import remove_temporaries
from vnp.errors import DamagedShardError
from vnp.runs.paths import shard_name
from vnp.runs.receipts import Receipt, file_sha256
from vnp.runs.request import Run


def sealed(run: Run, number: int, *, full: bool = False) -> Receipt | None:
    """The receipt of a shard that is done, or None.

    Args:
        run: the run.
        number: of the shard.
        full: compare the file's SHA-256 as well, not only its size.
    """
    try:
        return require_sealed(run, number, full=full)
    except DamagedShardError:
        return None


def require_sealed(run: Run, number: int, *, full: bool = False) -> Receipt | None:
    """The receipt of a shard, or None if it has none.

    Raises:
        DamagedShardError: the receipt is damaged or of another run, or the file is not the one it speaks of.
    """
    receipt = Receipt.read(run.paths.receipt(number))
    if receipt is None:
        return None
    if receipt.run != run.request.digest or receipt.shard != number:
        raise DamagedShardError(f"the receipt of {shard_name(number)} belongs to another run or shard")
    path = run.paths.shard(number)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DamagedShardError(f"{path} has a receipt but cannot be read: {error.strerror}") from error
    if size != receipt.size:
        raise DamagedShardError(f"{path} has {size:,} bytes, its receipt says {receipt.size:,}")
    if full and file_sha256(path) != receipt.sha256:
        raise DamagedShardError(f"{path} is not the file that its receipt names: its bytes have changed")
    return receipt


def discard(run: Run, number: int) -> None:
    """Remove a damaged receipt and the shard file that it spoke of, so that the shard can be made anew."""
    if run.paths.receipt(number).exists() and sealed(run, number) is None:
        run.paths.receipt(number).unlink(missing_ok=True)
        run.paths.shard(number).unlink(missing_ok=True)


def withdraw(run: Run, number: int) -> None:
    """Put a receipt aside whose shard proved damaged, so that the shard counts as missing from now on."""
    receipt = run.paths.receipt(number)
    receipt.rename(receipt.with_suffix(".withdrawn"))


def tidy(run: Run) -> None:
    """Remove what tasks that were killed left of a run whose shards are all done.

    A task that still works on one of them finds its files gone, sees the receipt, and leaves.
    """
    # What cannot be removed does no harm.
    with contextlib.suppress(OSError):
        for folder in (run.paths.root, run.paths.shards, run.paths.receipts):
            remove_temporaries(folder)
        for folder in run.paths.parts.glob("shard-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for receipt in run.paths.receipts.glob("*.withdrawn"):
            receipt.unlink(missing_ok=True)
