"""Whether a shard is done: its receipt is valid and matches its file. Nothing else decides, and no scheduler."""

from __future__ import annotations

import contextlib
import shutil

from vnp.errors import DamagedShardError, storage_error
from vnp.files.durable import remove_temporaries
from vnp.runs.done.receipts import Receipt, file_sha256
from vnp.runs.paths import shard_name
from vnp.runs.request import Run


def sealed(run: Run, number: int, *, full: bool = False) -> Receipt | None:
    """The receipt of a shard that is done, or None.

    Args:
        run: the run.
        number: of the shard.
        full: compare the file's SHA-256 as well, not only its size.

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
    try:
        receipt = Receipt.read(run.paths.receipt(number))
    except OSError as error:
        raise storage_error(error, f"reading {run.paths.receipt(number)}") from error
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
