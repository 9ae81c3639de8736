"""Where training takes its rows from: memory of the device that trains, or the disk where they do not fit.

Either way an epoch sees the same rows in the same order, so that what is learnt does not depend on the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64

from vnp.errors import FeatureError
from vnp.features.read import Features
from vnp.files.memory import available_memory

Memory = Literal["auto", "resident", "stream"]
_POOL_BYTES = 256 << 20
_MARGIN = 1 << 30
_SHARE = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Rows on the device, and the order in which to take them.

    Args:
        features: float16 or float32, one row of the network's input each.
        labels: class of each row, int64.
        order: rows of the pool, one batch after the other.
    """

    features: Float[torch.Tensor, "m width"]
    labels: torch.Tensor
    order: torch.Tensor


class RowStore:
    """All rows of a file of features with their labels.

    Args:
        features: the numbers, in memory or mapped from the disk.
        label: 1 viral, 0 host.
        device: where batches are wanted.
        resident: whether to keep all of it in that device's memory.
    """

    def __init__(
        self, features: Float[np.ndarray, "n width"], label: Int8[np.ndarray, "n"], device: torch.device, resident: bool
    ) -> None:
        self.device = device
        self.resident = resident
        self.width = features.shape[1]
        self.label = label
        self._classes = torch.from_numpy(label.astype(np.int64))
        self._values = features
        self._all: torch.Tensor | None = None
        if resident:
            self._all = torch.from_numpy(features).to(device)
            self._classes = self._classes.to(device)

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Int64[np.ndarray, "m"]) -> Float[torch.Tensor, "m width"]:
        """Some rows, on the device, as they are stored."""
        if self._all is not None:
            return self._all.index_select(0, torch.from_numpy(rows).to(self.device))
        return torch.from_numpy(self._read(rows)).to(self.device)

    def _read(self, rows: Int64[np.ndarray, "m"]) -> Float[np.ndarray, "m width"]:
        """Some rows from the disk, taken in ascending order and returned as asked."""
        order = np.argsort(rows, kind="stable")
        values = np.empty((len(rows), self.width), self._values.dtype)
        values[order] = self._values[rows[order]]
        return values

    def pools(self, order: Int64[np.ndarray, "m"], batch: int, pool_bytes: int = _POOL_BYTES) -> Iterator[Pool]:
        """Rows in a given order, in pools that hold whole batches; one pool if all is in memory.

        Args:
            order: rows, one batch after the other.
            batch: rows of a batch.
            pool_bytes: how much to read from the disk at a time; the next pool is read meanwhile.
        """
        if self._all is not None:
            yield Pool(self._all, self._classes, torch.from_numpy(order).to(self.device))
            return
        rows = max(1, pool_bytes // (self.width * self._values.dtype.itemsize * batch)) * batch
        parts = [order[low : low + rows] for low in range(0, len(order), rows)]
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self._read, parts[0])
            for number, part in enumerate(parts):
                values = torch.from_numpy(waiting.result()).to(self.device)
                if number + 1 < len(parts):
                    waiting = reader.submit(self._read, parts[number + 1])
                labels = self._classes[torch.from_numpy(part)].to(self.device)
                yield Pool(values, labels, torch.arange(len(part), device=self.device))


def open_rows(
    features: Features,
    label: Int8[np.ndarray, "n"],
    device: torch.device,
    memory: Memory = "auto",
    progress: Callable[[int], None] = lambda _rows: None,
) -> RowStore:
    """Make rows ready for training, each checked once.

    Args:
        features: merged features.
        label: 1 viral, 0 host, for every row.
        device: that trains.
        memory: ``resident`` keeps all rows in the device's memory, ``stream`` reads them from the disk every epoch,
            ``auto`` does what fits.
        progress: told how many rows were read since the last call.

    Raises:
        FeatureError: the file is damaged or holds NaN or infinity, or does not fit.
    """
    mapped = features.mapped()
    free = _free(device)
    resident = memory == "resident" or (memory == "auto" and (free is None or mapped.nbytes < free * _SHARE))
    values = np.empty(mapped.shape, mapped.dtype) if resident else mapped
    try:
        for first, window in features.stored_windows():
            if resident:
                values[first : first + len(window)] = window
            progress(len(window))
        return RowStore(values, label, device, resident)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise FeatureError(
            f"{mapped.nbytes / 1e9:.1f} GB of features do not fit in memory; use --memory stream", path=features.path
        ) from error


def _free(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device, less a margin."""
    host = available_memory()
    if device.type != "cuda":
        return host
    on_device = torch.cuda.mem_get_info(device)[0] - _MARGIN
    return on_device if host is None else min(on_device, host)
