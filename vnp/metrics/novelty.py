"""How far rows are from what a classifier was trained on.

The distance is the relative one of Mahalanobis (Ren et al. 2021, arXiv:2106.09022): to the nearest of some classes,
less that to all rows as one class. The classes are organism groups, or clusters of the training rows of either label
(k-means), with one covariance for all. In the coordinates in which that covariance is the unit matrix and the one of
all rows is diagonal, both distances agree in all directions but those in which the classes' means differ: only these
are kept.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int64
from threadpoolctl import ThreadpoolController

from vnp.metrics.presets import length_edges

CLUSTERS = 12
"""Classes of a label, at most."""
_ROWS_A_CLUSTER = 50
_SHRINKAGE = 1e-3
_LENGTHS = (300, 500, 1_000, 3_000, 10_000)
_FEWEST = 100
_AT_ONCE = 1_024
_WIDEST = 6e4
_LEAST_SPREAD = 1e-12
_ARRAYS = ("center", "basis", "means", "background", "quantiles")


@cache
def _libraries() -> ThreadpoolController:
    """The libraries of this process that multiply in threads of their own."""
    return ThreadpoolController()


@dataclass(frozen=True, slots=True, eq=False)
class Novelty:
    """What training looked like, in k classes of rows of so many numbers, and how far held-out records are from it."""

    center: Float32[np.ndarray, "width"]  # mean of all rows
    basis: Float32[np.ndarray, "width d"]  # to coordinates in which the classes' covariance is the unit matrix
    means: Float32[np.ndarray, "k d"]  # of the classes, there
    background: Float32[np.ndarray, "d"]  # what one over the variance of all rows is, there
    lengths: tuple[int, ...] = ()  # bases at which the next line of quantiles begins
    quantiles: Float32[np.ndarray, "l 101"] = field(
        default_factory=lambda: np.zeros((0, 101), np.float32)
    )  # of held-out records

    def distance(self, rows: Float[np.ndarray, "n width"]) -> Float16[np.ndarray, "n"]:
        """The relative distance of each row; a row's does not depend on the others, to the last bit."""
        found = np.empty(len(rows), np.float16)
        batch = np.zeros((_AT_ONCE, len(self.center)), np.float32)
        squares = (self.means**2).sum(axis=1)
        # Of products so small, threads wait for each other fifteen times as long as one takes.
        with _libraries().limit(limits=1, user_api="blas"):
            for low in range(0, len(rows), _AT_ONCE):
                some = rows[low : low + _AT_ONCE]
                batch[: len(some)] = some
                at = (batch - self.center) @ self.basis
                nearest = (squares - 2 * at @ self.means.T).min(axis=1) + (at**2 * (1 - self.background)).sum(axis=1)
                found[low : low + len(some)] = np.clip(nearest[: len(some)], -_WIDEST, _WIDEST)
        return found

    def percentile(self, distance: Float[np.ndarray, "n"], length: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
        """Share of held-out records of like length that are nearer, in per cent; NaN where there is no distance.

        ``distance`` is the mean over the rows of each record, ``length`` its bases.
        """
        found = np.full(len(distance), np.nan, np.float32)
        line = np.searchsorted(self.lengths, length, side="right")
        for at, quantiles in enumerate(self.quantiles):
            some = (line == at) & np.isfinite(distance)
            found[some] = np.interp(distance[some], quantiles, np.arange(101.0))
        return found

    def measured(self, distance: Float[np.ndarray, "n"], length: Int64[np.ndarray, "n"]) -> Novelty:
        """The same with the distances of held-out records, by length where there are a hundred of like length."""
        edges = length_edges(length, _LENGTHS, _FEWEST)
        line = np.searchsorted(edges, length, side="right")
        quantiles = [np.quantile(distance[line == at], np.linspace(0, 1, 101)) for at in range(len(edges) + 1)]
        return replace(self, lengths=tuple(edges), quantiles=np.array(quantiles, np.float32))

    def to_json(self) -> dict[str, Any]:
        """As what JSON holds: arrays as base64 of float32, and their widths."""
        arrays = {name: base64.b64encode(getattr(self, name).astype("<f4").tobytes()).decode() for name in _ARRAYS}
        return {**arrays, "lengths": list(self.lengths), "width": len(self.center), "directions": self.basis.shape[1]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Novelty:
        """Read what ``to_json`` gave; ValueError where it is no such thing."""
        try:
            width, directions = int(stored["width"]), int(stored["directions"])
            shapes = ((width,), (width, directions), (-1, directions), (directions,), (-1, 101))
            arrays = [
                np.frombuffer(base64.b64decode(stored[name], validate=True), "<f4").astype(np.float32).reshape(shape)
                for name, shape in zip(_ARRAYS, shapes, strict=True)
            ]
            lengths = tuple(map(int, stored["lengths"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not what training looked like: {error}") from error
        rising = (np.diff(arrays[-1], axis=1) >= 0).all() and (np.diff(lengths) > 0).all()
        if not all(np.isfinite(array).all() for array in arrays) or not rising or len(arrays[-1]) != len(lengths) + 1:
            raise ValueError("what training looked like has numbers that cannot be")
        center, basis, means, background, quantiles = arrays
        return cls(center, basis, means, background, lengths, quantiles)


def fit_novelty(
    rows: Float[np.ndarray, "n width"], viral: Bool[np.ndarray, "n"], group: Int64[np.ndarray, "n"] | None = None
) -> Novelty | None:
    """Find the directions in which classes of training rows differ; None where there are too few rows.

    Some ten thousand rows are enough. The organism group of each is its class; without it, clusters of either label
    are.
    """
    values = np.asarray(rows, np.float64)
    if len(rows) < 2 * _ROWS_A_CLUSTER or not values.std(axis=0).any():
        return None
    named = _clusters(np.asarray(rows, np.float32), viral) if group is None else group
    classes = np.unique(named, return_inverse=True)[1]
    count = int(classes.max()) + 1
    if count < 2:
        return None
    sizes = np.bincount(classes, minlength=count)
    means = np.stack([values[classes == one].mean(axis=0) for one in range(count)])
    center = values.mean(axis=0)
    inside = values - means[classes]
    within = inside.T @ inside / len(values)
    within += np.eye(values.shape[1]) * max(_SHRINKAGE * float(np.trace(within)) / values.shape[1], 1e-9)
    # The means lie in as many directions as there are classes less one: all that is needed is as small as that.
    apart = (means - center) * np.sqrt(sizes / len(values))[:, None]
    towards = np.linalg.solve(within, apart.T)
    spread, turned = np.linalg.eigh(apart @ towards)
    kept = slice(len(spread) - min(count - 1, values.shape[1]), None)
    if not spread[kept].min() > _LEAST_SPREAD:
        return None
    basis = towards @ turned[:, kept] / np.sqrt(spread[kept])
    return Novelty(
        center.astype(np.float32),
        basis.astype(np.float32),
        ((means - center) @ basis).astype(np.float32),
        (1 / (1 + spread[kept])).astype(np.float32),
    )


def _clusters(rows: Float32[np.ndarray, "n width"], viral: Bool[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The class of each row: clusters of either label."""
    from sklearn.cluster import KMeans

    found = np.full(len(rows), -1, np.int64)
    begun = 0
    for label in (False, True):
        some = np.flatnonzero(viral == label)
        count = min(CLUSTERS, max(1, len(some) // _ROWS_A_CLUSTER)) if len(some) else 0
        if count:
            scaled = rows[some] / np.maximum(rows.std(axis=0), 1e-6)
            found[some] = begun + KMeans(count, n_init=1, random_state=0).fit_predict(scaled)
        begun += count
    return found


def mean_distances(
    distance: Float16[np.ndarray, "n"], owner: Int64[np.ndarray, "n"], count: int
) -> Float64[np.ndarray, "count"]:
    """The mean of the rows of each of so many owners; NaN where there is none."""
    rows = np.bincount(owner, minlength=count)
    summed = np.bincount(owner, weights=distance.astype(np.float64), minlength=count)
    found: Float64[np.ndarray, "count"] = np.divide(summed, rows, out=np.full(count, np.nan), where=rows > 0)
    return found
