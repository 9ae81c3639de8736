"""Features as VirNucPro's ``.pt`` files, with the DNA half whole where merged features hold it projected.

VirNucPro gives a whole file one label, so there is one file a label. It keeps 10,000 rows in a file; so can this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import h5py
import numpy as np
from jaxtyping import Float32, Int64

from vnp.errors import DamagedShardError, FeatureError, RunError, UsageError
from vnp.features.hdf5 import as_bytes
from vnp.features.read import Features, Window
from vnp.features.table import checked, read_checksums, require_finite
from vnp.files.machine import available_memory
from vnp.runs.done.receipts import Receipt, require_sealed, sealed, withdraw
from vnp.runs.request import Run, RunPaths

NAMES = {1: "viral", 0: "host", -1: "unlabelled"}
OURS = re.compile(r"(viral|host|unlabelled)(_\d{5,})?_(merged|DNABERT_S|ESM)\.pt")
_ROWS_LIKE_VIRNUCPRO = 10_000
# A Python float and its place in a list, and its bytes in the pickle that torch builds in memory and then copies.
_LISTED_NUMBER = 32 + 2 * 10
_ID_BYTES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What goes into one file of each kind."""

    label: int | None  # of all its rows, None for no label
    name: str  # start of the files' names
    rows: Int64[np.ndarray, "n"]  # numbers of its rows, rising

    def path(self, folder: Path, kind: str) -> Path:
        """Its file of a kind: ``merged``, ``DNABERT_S`` or ``ESM``."""
        return folder / f"{self.name}_{kind}.pt"


def plan_pieces(features: Features, rows_per_file: int | None) -> list[Piece]:
    """Say which rows go into which file; ``rows_per_file`` None is one file a label."""
    labels = features.labels()
    pieces = []
    for label, name in NAMES.items():
        rows = np.flatnonzero(labels == label)
        for number, first in enumerate(range(0, len(rows), rows_per_file or max(1, len(labels))), start=1):
            numbered = name if rows_per_file is None else f"{name}_{number:05d}"
            pieces.append(Piece(None if label < 0 else label, numbered, rows[first:][:rows_per_file]))
    return pieces or [Piece(None, NAMES[-1], np.zeros(0, np.int64))]


def require_memory(features: Features, pieces: list[Piece], *, parts: bool) -> None:
    """Make sure that the largest file fits in memory, where torch must hold it; UsageError says how it would."""
    available = available_memory()
    largest = max(len(piece.rows) for piece in pieces)
    dna = next(part.native for part in features.layout.parts if part.name == "dna")
    a_row = 4 * features.width + _ID_BYTES
    if parts:
        a_row += dna * (4 + _LISTED_NUMBER) + 4 * features.width
    needed = largest * a_row + (256 << 20)
    if available is not None and needed > available:
        smaller = min(_ROWS_LIKE_VIRNUCPRO, largest // 2)
        raise UsageError(
            f"a .pt file must fit in memory: {largest:,} rows need about {needed / 1e9:,.1f} GB, and "
            f"{available / 1e9:,.1f} GB are free. Make smaller files with --rows-per-file {max(1, smaller)}, or choose "
            "--format npz or parquet, which need little memory"
        )


def write_piece(
    features: Features, piece: Piece, folder: Path, whole: WholeDna | None, progress: Callable[[int], None]
) -> list[Path]:
    """Write the file of a piece; where the DNA half is given, that of either half too."""
    # Here, because this loads torch.
    from vnp.export import formats

    count = len(piece.rows)
    paths = [piece.path(folder, "merged")]
    values = np.empty((count, features.width), np.float32)
    dna = np.empty((count, whole.width) if whole else (0, 0), np.float32)
    ids: list[str] = []
    for window in _windows(features, piece.rows):
        here = slice(len(ids), len(ids) + len(window))
        values[here] = window.values
        if whole is not None:
            dna[here] = whole.rows(window)
        ids += [name.decode() for name in window.columns.ids]
        progress(len(window))
    formats.save(formats.merged_content(ids, values, piece.label), paths[0])
    if whole is not None:
        paths.append(piece.path(folder, "DNABERT_S"))
        formats.save(formats.dna_content(ids, dna), paths[-1])
        if features.layout.rows == "frames":
            paths.append(piece.path(folder, "ESM"))
            protein: Float32[np.ndarray, "n width"] = values[:, features.layout.columns("protein")]
            formats.save(formats.protein_content(ids, np.ascontiguousarray(protein)), paths[-1])
    return paths


def _windows(features: Features, rows: Int64[np.ndarray, "n"]) -> Iterator[Window]:
    """Windows of the rows, one run of consecutive rows after the other: labels belong to whole input files."""
    if not len(rows):
        return
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for run in np.split(rows, breaks):
        yield from features.windows(int(run[0]), int(run[-1]) + 1)


class WholeDna:
    """The DNA half of merged features as its encoder gave it.

    Where the DNA half of the merged features is projected, the shards beside them are read.

    Raises:
        RunError: the shards are needed and are not there, damaged, or not those that were merged.
    """

    def __init__(self, features: Features) -> None:
        part = next(part for part in features.layout.parts if part.name == "dna")
        self._features = features
        self._shards = _find_shards(features) if part.projection else None
        self.width = part.native

    def rows(self, window: Window) -> Float32[np.ndarray, "n width"]:
        """Those of a window; FeatureError where the shards do not hold the same rows."""
        if self._shards is None:
            return window.values[:, self._features.layout.columns("dna")]
        values = np.empty((len(window), self.width), np.float32)
        ids: list[bytes] = []
        for shard in self._shards:
            ends = (window.first - shard.first, window.first + len(window) - shard.first)
            low, high = (min(max(end, 0), shard.receipt.rows) for end in ends)
            if low < high:
                dna, names = shard.read(slice(low, high))
                values[len(ids) : len(ids) + high - low] = dna
                ids += names
        if ids != window.columns.ids:
            raise FeatureError(
                f"the shards beside {self._features.path} hold other rows than it. Merge them anew with: "
                f"python -m jobs.reduce {quote(str(self._features.path.parent))} --force"
            )
        require_finite(values, "dna", ids)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A shard that was merged."""

    run: Run
    receipt: Receipt
    first: int  # its first row among the merged ones
    sums: Mapping[str, Int64[np.ndarray, "k"]] | None  # its checksums; None in one of an earlier version

    @classmethod
    def open(cls, run: Run, receipt: Receipt, first: int) -> _Part:
        """Look whether its file is the one that its receipt names."""
        path = run.paths.shard(receipt.shard)
        with _damage(run, receipt.shard):
            if not receipt.content:
                require_sealed(run, receipt.shard, full=True)
            with h5py.File(path, "r", locking=False) as file:
                return cls(run, receipt, first, read_checksums(file, receipt.content))

    def read(self, rows: slice) -> tuple[np.ndarray, list[bytes]]:
        """Native DNA embeddings and ids of some of its rows."""
        path = self.run.paths.shard(self.receipt.shard)
        with _damage(self.run, self.receipt.shard), h5py.File(path, "r", locking=False) as file:
            read = checked(file, self.sums, path)
            return read("dna", rows), as_bytes(read("ids", rows))


@contextmanager
def _damage(run: Run, number: int) -> Iterator[None]:
    """Have a shard that proves damaged count as missing, as reduce does."""
    try:
        yield
    except (FeatureError, DamagedShardError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        if sealed(run, number, full=True) is not None:
            raise
        withdraw(run, number)
        raise DamagedShardError(
            f"{run.paths.shard(number)} is not the file that its receipt names ({error}). Make it again with: "
            f"{run.rerun_command}"
        ) from error


def _find_shards(features: Features) -> list[_Part]:
    """The run's shards."""
    root = features.path.parent
    if not RunPaths(root).request.exists():
        raise RunError(
            f"{features.path} holds the DNA half projected, and the whole one is in the shards of its run, which are "
            "not beside it: give the run, or leave out --parts"
        )
    run = Run.open(root)
    merged = features.provenance.get("shards", {})
    shards: list[_Part] = []
    at = 0
    for number in range(run.request.shards):
        with _damage(run, number):
            receipt = require_sealed(run, number)
        if receipt is None or receipt.sha256 != merged.get(str(number)) or features.run != run.request.digest:
            raise RunError(
                f"{features.path} was merged from other shards than those beside it now. Merge them anew with: "
                f"python -m jobs.reduce {quote(str(root))} --force"
            )
        shards.append(_Part.open(run, receipt, at))
        at += receipt.rows
    return shards
