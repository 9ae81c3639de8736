"""Shard files compared with their receipts, in threads beside the merging."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from vnp.errors import storage_error
from vnp.runs.done.receipts import Receipt, file_sha256
from vnp.runs.request import Run

# Hashing takes longer than copying, so a few files are hashed at a time.
_MOST_THREADS = 4


class FileHashes:
    """Hashes shard files, a few ahead of the one that is asked for.

    Args:
        run: the run.
        receipts: of its shards, in the order in which they will be asked for.
    """

    def __init__(self, run: Run, receipts: Sequence[Receipt]) -> None:
        self._run = run
        self._receipts = receipts
        self._ahead = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        self._found: list[Future[str]] = []

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(self._ahead)
        self._start(self._ahead)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def match(self, index: int) -> bool:
        """Whether the file of the receipt at ``index`` is there and is the one that the receipt names.

        Raises:
            StorageError: it cannot be read, which says nothing about what is in it.
        """
        self._start(index + 1 + self._ahead)
        try:
            return self._found[index].result() == self._receipts[index].sha256
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            path = self._run.paths.shard(self._receipts[index].shard)
            raise storage_error(error, f"reading {path}") from error

    def _start(self, until: int) -> None:
        for receipt in self._receipts[len(self._found) : until]:
            self._found.append(self._threads.submit(file_sha256, self._run.paths.shard(receipt.shard)))
