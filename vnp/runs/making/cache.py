"""Rows of sequences that were embedded before, kept between shards and runs: a bounded folder that many tasks share.

Rows lie in segments, files of some thousand, below a folder for each encoder as it computes: its identity, the
processor or GPU, and the versions of torch and of vnp's code. So a row is given again only where it would be computed
to the same numbers. A segment is written under a temporary name and renamed, and never changed: writers need no lock,
which shared file systems keep badly. Its table of digests has a CRC-32, and so has every row. What is damaged is passed
over and embedded anew. When the folder is larger than it may be, the segments that were used least recently go.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt64

from vnp.encoders.registry import Encoder, Launched, identity
from vnp.errors import UsageError
from vnp.files.claims import make_folder
from vnp.files.durable import remove_temporaries, temporary_name
from vnp.files.hashing import code_digest, crc32, json_sha256

log = logging.getLogger(__name__)

SUFFIX = ".rows"
_MAGIC = b"VNPROWS1"
_SEGMENT_BYTES = 32 << 20
_HEAD = len(_MAGIC) + 12
_FRESH_SECONDS = 600  # a segment that was used is marked so no more often than this
_SPARED = 0.9  # of the size that the folder may have, where it was larger


_INDEX = np.dtype([("digest", "<u8", 2), ("segment", "<i4"), ("place", "<i4")])
"""Which row lies in which segment, and where in it; rising by the first half of digests."""


class RowCache:
    """The rows of one encoder in a folder; threads may share it.

    The ``folder`` is that of all encoders, made if it is not there, and holds ``most_bytes``. ``of`` is what makes rows
    the same, as JSON; they have ``width`` numbers.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, of: Mapping[str, object], width: int, most_bytes: int) -> None:
        self.folder = folder / json_sha256(of)[:32]
        self._root, self._width, self._most = folder, width, most_bytes
        make_folder(self.folder)
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._segments: list[Path] = []
        self._rows_at: list[int] = []  # byte at which the rows of each begin
        self._broken = False
        self._held: list[tuple[UInt64[np.ndarray, "m 2"], Float32[np.ndarray, "m width"]]] = []
        self._held_bytes = 0
        self._used: dict[int, float] = {}
        self._index = np.zeros(0, _INDEX)
        self._learn()

    def _learn(self) -> None:
        """Take in the rows of segments that are not known yet, of this task or of others."""
        known = set(self._segments)
        there = [path for path in sorted(self.folder.glob(f"*{SUFFIX}")) if path not in known]
        more = np.concatenate([np.zeros(0, _INDEX), *map(self._rows_of, there)])
        more = more[np.argsort(more["digest"][:, 0], kind="stable")]
        places = np.searchsorted(self._index["digest"][:, 0], more["digest"][:, 0])
        self._index = np.insert(self._index, places, more)

    def _rows_of(self, path: Path) -> np.ndarray:
        """Which rows a segment has; one that is damaged is removed."""
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
                count, width, crc = np.frombuffer(head[len(_MAGIC) :], "<u4").tolist()
                tables = file.read(20 * count)
                whole = _HEAD + count * (20 + 4 * width) == path.stat().st_size
            if not whole or head[: len(_MAGIC)] != _MAGIC or width != self._width or crc32(tables) != crc:
                raise ValueError("its sums do not fit")
        except (OSError, ValueError) as error:
            log.warning("%s is passed over: %s", path, error)
            if isinstance(error, ValueError):
                with suppress(OSError):
                    path.unlink()
            return np.zeros(0, _INDEX)
        found = np.empty(count, _INDEX)
        found["digest"] = np.frombuffer(tables, "<u8", 2 * count).reshape(count, 2)
        found["segment"], found["place"] = len(self._segments), np.arange(count)
        self._segments.append(path)
        self._rows_at.append(_HEAD + 20 * count)
        return found

    def find(self, digests: UInt64[np.ndarray, "n 2"]) -> tuple[Bool[np.ndarray, "n"], Float32[np.ndarray, "k width"]]:
        """Which rows there are, and these, in the order in which they are asked for."""
        index = self._index
        rows = np.empty((len(digests), self._width), np.float32)
        if not len(index):
            return np.zeros(len(digests), bool), rows[:0]
        at = np.searchsorted(index["digest"][:, 0], digests[:, 0])
        known = index[np.minimum(at, len(index) - 1)]
        found: Bool[np.ndarray, "n"] = (known["digest"] == digests).all(axis=1)
        for number in np.unique(known["segment"][found]).tolist():
            asked = np.flatnonzero(found & (known["segment"] == number))
            whole = self._read(number, known["place"][asked], rows, asked)
            found[asked[~whole]] = False
        return found, rows[found]

    def _read(
        self, segment: int, place: Int32[np.ndarray, "k"], rows: Float32[np.ndarray, "n width"],
        into: Int64[np.ndarray, "k"],
    ) -> Bool[np.ndarray, "k"]:  # fmt: skip
        """Read rows of a segment; which of them are as they were written."""
        path, first = self._segments[segment], self._rows_at[segment]
        size = 4 * self._width
        whole = np.zeros(len(place), bool)
        try:
            with path.open("rb") as file:
                count = (first - _HEAD) // 20
                sums = np.frombuffer(os.pread(file.fileno(), 4 * count, _HEAD + 16 * count), "<u4")
                for number, (row, at) in enumerate(zip(place.tolist(), into.tolist(), strict=True)):
                    data = os.pread(file.fileno(), size, first + row * size)
                    whole[number] = len(data) == size and crc32(data) == sums[row]
                    if whole[number]:
                        rows[at] = np.frombuffer(data, "<f4")
            if time.monotonic() - self._used.get(segment, -_FRESH_SECONDS) >= _FRESH_SECONDS:
                self._used[segment] = time.monotonic()
                os.utime(path)
        except (OSError, ValueError, IndexError) as error:
            # Another task has made room, or the disk fails: it is embedded anew.
            log.info("%s cannot be read: %s", path, error)
        if not whole.all() and path.exists():
            log.warning("%s has %d damaged rows, which are embedded anew", path, int((~whole).sum()))
            with suppress(OSError):
                path.unlink()
        return whole

    def add(self, digests: UInt64[np.ndarray, "m 2"], rows: Float32[np.ndarray, "m width"]) -> None:
        """Keep rows; they are written by another thread, a segment at a time."""
        if self._broken or not len(rows):
            return
        with self._lock:
            self._held.append((digests, rows))
            self._held_bytes += rows.nbytes
            full = self._held_bytes >= _SEGMENT_BYTES
        if full:
            self._write_held()

    def close(self) -> None:
        """Write what is still held."""
        self._write_held()
        self._writer.shutdown()

    def _write_held(self) -> None:
        with self._lock:
            held, self._held, self._held_bytes = self._held, [], 0
        # One at a time: where the disk is slower than the encoder, that waits and memory does not fill.
        if self._writing is not None:
            self._writing.result()
        if held:
            self._writing = self._writer.submit(self._write, held)

    def _write(self, held: list[tuple[UInt64[np.ndarray, "m 2"], Float32[np.ndarray, "m width"]]]) -> None:
        digests = np.ascontiguousarray(np.concatenate([part for part, _ in held]), "<u8")
        rows = np.ascontiguousarray(np.concatenate([part for _, part in held]), "<f4")
        sums = np.array([crc32(row) for row in rows], "<u4")
        tables = digests.tobytes() + sums.tobytes()
        path = self.folder / f"{secrets.token_hex(8)}{SUFFIX}"
        temporary = temporary_name(path)
        try:
            with temporary.open("xb") as file:
                file.write(_MAGIC + np.array([len(rows), self._width, crc32(tables)], "<u4").tobytes() + tables)
                file.write(rows.data)
            temporary.rename(path)
            self._make_room()
        except OSError as error:
            # A cache that cannot be written costs time, nothing else.
            log.warning("nothing more is kept in %s: %s", self._root, error)
            self._broken = True
            with suppress(OSError):
                temporary.unlink()
            return
        self._learn()

    def _make_room(self) -> None:
        """Delete what was used least recently, of any encoder, where all of it is more than there may be."""
        there = []
        for path in self._root.glob(f"*/*{SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                there.append((status.st_mtime_ns, status.st_size, path))
        size = sum(one for _, one, _ in there)
        if size <= self._most:
            return
        for _, bytes_of, path in sorted(there):
            with suppress(FileNotFoundError):
                path.unlink()
            size -= bytes_of
            if size <= self._most * _SPARED:
                break
        remove_temporaries(self.folder)


def digests_of(sequences: Sequence[str]) -> UInt64[np.ndarray, "n 2"]:
    """128 bits of BLAKE2b of each sequence."""
    joined = b"".join([hashlib.blake2b(one.encode(), digest_size=16).digest() for one in sequences])
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Sequences of which some rows are there."""

    found: Bool[np.ndarray, "n"]
    rows: Float32[np.ndarray, "k width"]  # of those that are there
    digests: UInt64[np.ndarray, "n 2"]
    others: Any  # what the encoder prepared of the others


@dataclass(slots=True, eq=False)
class _Launched:
    """Rows of which some are on their way."""

    work: _Work
    others: Launched
    cache: RowCache

    @property
    def gpu_seconds(self) -> float:
        """As of the encoder."""
        return self.others.gpu_seconds

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Wait for the rows, in input order."""
        work, made = self.work, self.others.result()
        if not work.found.any():
            everything = made
        else:
            everything = np.empty((len(work.found), work.rows.shape[1]), np.float32)
            everything[work.found], everything[~work.found] = work.rows, made
        # NaN is for the encoder to refuse, and never kept.
        digests, first = np.unique(work.digests[~work.found], axis=0, return_index=True)
        fine = np.isfinite(made[first]).all(axis=1)
        self.cache.add(digests[fine], made[first[fine]])
        return everything


class CachedEncoder:
    """An encoder with weights that asks a cache first."""

    def __init__(self, encoder: Encoder, cache: RowCache) -> None:
        self._encoder, self.cache = encoder, cache
        self.spec, self.width, self.precision = encoder.spec, encoder.width, encoder.precision
        self.kernel, self.events = encoder.kernel, encoder.events
        self.device = getattr(encoder, "device", "cpu")
        self.weights_seconds = getattr(encoder, "weights_seconds", 0.0)
        self.tokens_read = encoder.tokens_read
        self.rows_found = 0
        """Rows that were there, since it was made."""

    @property
    def token_budget(self) -> int | None:
        """Tokens in a batch."""
        return self._encoder.token_budget

    def embed(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """Turn sequences into rows, in input order."""
        return self.launch(self.prepare(sequences)).result()

    def prepare(self, sequences: Sequence[str]) -> _Work:
        """Look up rows, and prepare the other sequences."""
        digests = digests_of(sequences)
        found, rows = self.cache.find(digests)
        others = [one for one, there in zip(sequences, found.tolist(), strict=True) if not there]
        return _Work(found, rows, digests, self._encoder.prepare(others))

    def launch(self, work: _Work) -> _Launched:
        """Begin with the sequences that are not there."""
        self.rows_found += int(work.found.sum())
        launched = self._encoder.launch(work.others)
        self.tokens_read = self._encoder.tokens_read
        return _Launched(work, launched, self.cache)


def cached(encoder: Encoder, folder: Path, most_bytes: int) -> Encoder:
    """An encoder that asks a folder first; one without weights as it is, for its rows cost less than looking.

    Raises:
        StorageError: the folder cannot be made.
        UsageError: it is a file.
    """
    if not encoder.spec.needs_weights:
        return encoder
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--cache {folder} is a file: name a folder")
    import torch

    from vnp.encoders.device import device_name

    device = torch.device(str(getattr(encoder, "device", "cpu")))
    of = {"encoder": identity(encoder), "on": device_name(device), "torch": torch.__version__, "code": code_digest()}
    return CachedEncoder(encoder, RowCache(folder, of, encoder.width, most_bytes))
