"""The whole embeddings of the DNA half, which merged features hold projected: they are in the run's shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import h5py
import numpy as np
from jaxtyping import Float32

from vnp.errors import DamagedShardError, FeatureError, RunError
from vnp.features._strings import as_bytes
from vnp.features.read import Features, Window
from vnp.features.table import require_finite
from vnp.runs.done.receipts import require_sealed
from vnp.runs.request import Run, RunPaths


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    first: int
    last: int


class Halves:
    """Both halves of merged features, as the encoders gave them.

    Args:
        features: merged features; where their DNA half is projected, the shards beside them are read.

    Raises:
        RunError: the shards are needed and are not there, damaged, or not those that were merged.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._projected = any(part.projection for part in features.layout.parts if part.name == "dna")
        self._shards = _find_shards(features) if self._projected else []

    @property
    def dna_width(self) -> int:
        """Numbers of the DNA encoder."""
        return next(part.native for part in self._features.layout.parts if part.name == "dna")

    def protein(self, window: Window) -> Float32[np.ndarray, "n width"]:
        """The protein half of some rows."""
        return window.values[:, self._features.layout.columns("protein")]

    def dna(self, window: Window) -> Float32[np.ndarray, "n width"]:
        """The DNA half of some rows.

        Raises:
            FeatureError: the shards do not hold the same rows.
        """
        if not self._projected:
            return window.values[:, self._features.layout.columns("dna")]
        values = np.empty((len(window), self.dna_width), np.float32)
        ids: list[bytes] = []
        for path, low, high in self._pieces(window.first, window.first + len(window)):
            at = len(ids)
            with h5py.File(path, "r", locking=False) as file:
                ids += as_bytes(file["ids"][low:high])
                values[at : at + high - low] = file["dna"][low:high]
        if ids != window.columns.ids:
            raise FeatureError(
                f"the shards beside {self._features.path} hold other rows than it. Merge them anew with: "
                f"python -m jobs.reduce {quote(str(self._features.path.parent))} --force"
            )
        require_finite(values, "dna", ids)
        return values

    def _pieces(self, first: int, last: int) -> Iterator[tuple[Path, int, int]]:
        for shard in self._shards:
            low, high = max(first, shard.first), min(last, shard.last)
            if low < high:
                yield shard.path, low - shard.first, high - shard.first


def _find_shards(features: Features) -> list[_Shard]:
    root = features.path.parent
    if not RunPaths(root).request.exists():
        raise RunError(
            f"{features.path} holds the DNA half projected, and the whole one is in the shards of its run, which are "
            "not beside it: give the run, or leave out --parts"
        )
    run = Run.open(root)
    merged = features.provenance.get("shards", {})
    shards: list[_Shard] = []
    at = 0
    for number in range(run.request.shards):
        try:
            receipt = require_sealed(run, number, full=True)
        except DamagedShardError as error:
            raise DamagedShardError(f"{error}. Make it again with: python -m jobs.rerun {quote(str(root))}") from error
        if receipt is None or receipt.sha256 != merged.get(str(number)) or features.run != run.request.digest:
            raise RunError(
                f"{features.path} was merged from other shards than those beside it now. Merge them anew with: "
                f"python -m jobs.reduce {quote(str(root))} --force"
            )
        shards.append(_Shard(run.paths.shard(number), at, at + receipt.rows))
        at += receipt.rows
    return shards
