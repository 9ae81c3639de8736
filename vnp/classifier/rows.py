"""The rows that training takes: of the features that were asked for, all labelled, from memory or from the disk.

They lie in the memory of the device that trains, or on the disk where they do not fit.
Either way an epoch sees the same rows in the same order, so that what is learnt does not depend on the memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64, UInt32

from vnp.classifier.model import CLASSES
from vnp.encoders.spec import NO_ENCODER, spec
from vnp.errors import FeatureError, LayoutError
from vnp.features.layout import make_layout
from vnp.features.read import Features
from vnp.files.hashing import crc32
from vnp.files.machine import available_memory

Memory = Literal["auto", "resident", "stream"]
_POOL_BYTES = 256 << 20
_MARGIN = 1 << 30
_SHARE = 0.7
_NAMED_RECORDS = 3


@dataclass(frozen=True, slots=True)
class RequiredFeatures:
    """What features should be; None leaves it to the file."""

    layout: str | None = None  # ``1664`` or ``full``
    dna: str | None = None  # name of the DNA encoder
    protein: str | None = None  # name of the protein encoder; ``none`` for rows of chunks
    chunk: int | None = None  # bases of a chunk

    def require(self, features: Features) -> None:
        """Make sure that features are what was asked."""
        if self.protein == NO_ENCODER and features.layout.rows != "chunks":
            raise FeatureError("has rows of frames, and --protein none asks for rows of chunks", path=features.path)
        names = {"dna": self.dna, "protein": None if self.protein == NO_ENCODER else self.protein}
        native: dict[str, tuple[str, int]] = {}
        for part in features.layout.parts:
            name = names[part.name]
            found = features.provenance.get("encoders", {}).get(part.name, {}).get("name", part.encoder)
            if found != part.encoder:
                raise FeatureError(
                    f"the {part.name} columns are of {part.encoder} by the layout and of {found} by the provenance: "
                    "merge the run anew with: python -m jobs.reduce RUN --force",
                    path=features.path,
                )
            if name is not None and name != part.encoder:
                raise FeatureError(
                    f"the {part.name} encoders differ.\n  asked for: {name} ({spec(name, part.name).width} numbers)\n"
                    f"  {features.path}: {part.encoder} ({part.native} numbers)\n"
                    f"Leave out --{part.name}, or extract with it"
                )
            native[part.name] = (part.encoder, part.native)
        for name in ("dna", "protein"):
            if names[name] is not None and name not in native:
                raise FeatureError(f"has no {name} columns, {names[name]} was asked for", path=features.path)
        if self.layout is not None:
            if len(native) < 2 and features.layout.rows == "frames":
                raise LayoutError(f"the layout {self.layout} was asked for; {features.path} has {features.layout}")
            required = make_layout(self.layout, dna=native["dna"], protein=native.get("protein"))
            required.require(features.layout, here="asked for", there=str(features.path))
        if self.chunk is not None and self.chunk != features.chunk:
            raise FeatureError(
                f"the chunks differ: {self.chunk} bases were asked for, {features.path} has {features.chunk}. "
                f"Leave out --chunk, or extract with --chunk {self.chunk}"
            )


def labels_of(features: Features) -> Int8[np.ndarray, "n"]:
    """The label of every row, all of them there and of both classes."""
    label = features.labels()
    if not len(label):
        raise FeatureError("has no rows: there is nothing to train on", path=features.path)
    unlabelled = np.flatnonzero((label != 0) & (label != 1))
    if len(unlabelled):
        records = _records_of(features, unlabelled)
        raise FeatureError(
            f"{len(unlabelled):,} of {len(label):,} rows have no label, those of {records}. Training needs viral or "
            "host for all: extract with a samplesheet that has the column label",
            path=features.path,
        )
    if len(np.unique(label)) < 2:
        raise FeatureError(
            f"all {len(label):,} rows are {CLASSES[int(label[0])]}; a classifier needs both classes. Extract with a "
            "samplesheet that labels some inputs viral and some host",
            path=features.path,
        )
    return label


def data_digest(features: Features, label: Int8[np.ndarray, "n"]) -> str:
    """SHA-256 of what a training sees: the rows' ids, labels and groups, and where their numbers come from."""
    digest = hashlib.sha256(features.layout.to_json().encode())
    shards = json.dumps(features.provenance.get("shards", {}), sort_keys=True)
    digest.update(f"{features.chunk} {features.run} {shards} {features.rows}".encode())
    digest.update(label.tobytes())
    for column in ("ids", "group"):
        for texts in features.text_windows(column):
            digest.update("\n".join(texts).encode())
    return digest.hexdigest()


def _records_of(features: Features, rows: Int64[np.ndarray, "m"]) -> str:
    """The names of the records that rows are of, the first few."""
    ordinals = np.unique(np.concatenate([*features.number_windows("record")])[rows])
    records = features.records()
    names = [records.name[place].decode() for place in np.searchsorted(records.ordinal, ordinals[:_NAMED_RECORDS])]
    more = len(ordinals) - len(names)
    return ", ".join(names) + (f" and {more:,} more records" if more > 0 else "")


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Rows on the device, and the order in which to take them."""

    features: Float[torch.Tensor, "m width"]  # float16 or float32, one row of the network's input each
    labels: torch.Tensor  # class of each row, int64
    order: torch.Tensor  # rows of the pool, one batch after the other


class RowStore:
    """All rows of a file of features with their labels."""

    def __init__(
        self,
        features: Float[np.ndarray, "n width"],
        label: Int8[np.ndarray, "n"],
        device: torch.device,
        resident: bool,
        sums: UInt32[np.ndarray, "n"] | None = None,
        source: Path | None = None,
    ) -> None:
        """Take rows that are in memory, or mapped, to read them where they are wanted.

        Args:
            features: in memory, or mapped.
            label: 1 viral, 0 host.
            device: that trains.
            resident: keep all in the device's memory.
            sums: CRC-32 of each row, which is compared whenever it is read from the disk.
            source: the file that they are read from, for the message.
        """
        self.device = device
        self.resident = resident
        self._sums, self._source = sums, source
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
        # Every epoch reads them anew, hours after they were compared with what reduce wrote.
        if self._sums is not None and (wrong := np.flatnonzero(row_sums(values) != self._sums[rows])).size:
            raise FeatureError(
                f"row {rows[wrong[0]]:,} has changed since the training began. Give the same command again: it goes "
                "on, or says what is damaged",
                path=self._source,
            )
        return values

    def pools(self, order: Int64[np.ndarray, "m"], batch: int, pool_bytes: int = _POOL_BYTES) -> Iterator[Pool]:
        """Rows in a given order, in pools that hold whole batches; one pool if all is in memory."""
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


def row_sums(values: Float[np.ndarray, "n width"]) -> UInt32[np.ndarray, "n"]:
    """CRC-32 of each row."""
    content = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    size = values.shape[1] * values.itemsize
    return np.fromiter((crc32(content[low : low + size]) for low in range(0, len(content), size)), np.uint32)


def open_rows(
    features: Features,
    label: Int8[np.ndarray, "n"],
    device: torch.device,
    memory: Memory = "auto",
    progress: Callable[[int], None] = lambda _rows: None,
) -> RowStore:
    """Make rows of merged features ready for training, each checked once.

    ``resident`` keeps all in the device's memory, ``stream`` reads them from the disk every epoch, ``auto`` does what
    fits. ``progress`` is told how many rows were read since the last call.

    Raises:
        FeatureError: the file is damaged or holds NaN or infinity, or does not fit.
    """
    mapped = features.mapped()
    free = _free(device)
    resident = memory == "resident" or (memory == "auto" and (free is None or mapped.nbytes < free * _SHARE))
    try:
        values = np.empty(mapped.shape, mapped.dtype) if resident else mapped
        sums = None if resident else np.empty(len(mapped), np.uint32)
        for first, window in features.stored_windows():
            if sums is None:
                values[first : first + len(window)] = window
            else:
                sums[first : first + len(window)] = row_sums(window)
            progress(len(window))
        return RowStore(values, label, device, resident, sums, features.path)
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
