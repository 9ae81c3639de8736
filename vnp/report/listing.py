"""Records as a page holds them: packed into a text that its script unpacks, searches and sorts.

A text is JSON, compressed with zlib, in base64. A page of very many records holds as many of them, the most telling
first, as go into its share of the page, and of all of them how many there are of each call, kind, reliability, length
and sample, so that what a filter finds is counted even where it cannot be listed.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8

from vnp.report.calls import CalledRecords
from vnp.report.pages import short

LENGTHS = (300, 500, 1_000, 3_000, 10_000, 30_000)
MOST_LISTED = 250_000
"""Records whose names are looked up; fewer are listed where they do not fit."""
LISTING_BYTES, TRACKS_BYTES = 2_100_000, 600_000
"""What the packed texts of a page may take."""
MOST_TRACKS = 1_000
NO_WINDOW = 255
_MOST_SAMPLES = 2_000
_MOST_REASONS = 50
_FIRST_LISTED = 20_000
_POINTS = 400
_MOST_REGIONS = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Records that a page may list, the most telling first."""

    place: Int64[np.ndarray, "m"]  # in the order of the input
    name: Sequence[str]
    reason: Sequence[str]  # why there is no call, or empty


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Which sample each of r records is of."""

    names: Sequence[str]
    code: Int32[np.ndarray, "r"]

    def most_frequent(self) -> Samples:
        """The same, of which the rarest are one where there are too many."""
        if len(self.names) <= _MOST_SAMPLES:
            return self
        count = np.bincount(self.code, minlength=len(self.names))
        kept = np.sort(np.argsort(-count, kind="stable")[:_MOST_SAMPLES])
        code = np.full(len(self.names), len(kept), np.int32)
        code[kept] = np.arange(len(kept))
        return Samples([*(self.names[at] for at in kept.tolist()), "(other samples)"], code[self.code])


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Probabilities of the windows of r records, one behind the other, in per cent, or ``NO_WINDOW``."""

    percent: UInt8[np.ndarray, "w"]
    windows: Int64[np.ndarray, "r"]  # how many are of each record

    def points(self, places: Sequence[int], most: int) -> list[list[int]]:
        """The windows of some records; where there are more than so many, the means of neighbours."""
        behind = np.cumsum(self.windows)
        return [_thinned(self.percent[behind[at] - self.windows[at] : behind[at]], most) for at in places]


def percent_of(probability: Float[np.ndarray, "n"]) -> UInt8[np.ndarray, "n"]:
    """Probabilities as ``Tracks`` has them."""
    whole: UInt8[np.ndarray, "n"] = np.rint(100 * probability).astype(np.uint8)
    return whole


def _thinned(percent: UInt8[np.ndarray, "n"], most: int) -> list[int]:
    if len(percent) <= most:
        return [-1 if one == NO_WINDOW else one for one in percent.tolist()]
    edges = np.arange(most + 1) * len(percent) // most
    known = percent != NO_WINDOW
    number = np.add.reduceat(known, edges[:-1], dtype=np.int64)
    summed = np.add.reduceat(np.where(known, percent, 0), edges[:-1], dtype=np.int64)
    found: list[int] = np.where(number > 0, np.rint(summed / np.maximum(number, 1)), -1).astype(int).tolist()
    return found


Regions = Mapping[int, Sequence[tuple[int, int]]]
"""Viral stretches, 0-based and end exclusive, by the place of their record."""


def length_names() -> list[str]:
    """What classes of lengths are called."""
    edges = [short(edge) for edge in LENGTHS]
    return [f"below {edges[0]}", *(f"{a} to {b}" for a, b in pairwise(edges)), f"from {edges[-1]}"]


def length_class(length: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The class of each length."""
    found: Int64[np.ndarray, "n"] = np.searchsorted(LENGTHS, length, side="right")
    return found


def pack(content: Any) -> str:
    """What the script of a page unpacks."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(zlib.compress(text.encode())).decode()


def pack_listing(
    records: CalledRecords, listed: Listed, kinds: Sequence[str], samples: Samples, limit: int = LISTING_BYTES
) -> tuple[str, int]:
    """As many records as fit into a text of ``limit`` bytes, and counts of all; how many are listed."""
    samples = samples.most_frequent()
    head = {
        "kinds": list(kinds),
        "samples": list(samples.names),
        "lengths": length_names(),
        "edges": LENGTHS,
        "counts": _counts(records, samples),
    }
    count, first = len(listed.place), _FIRST_LISTED
    while True:
        # The first few tell about how many fit.
        some = min(count, first)
        text = pack({**head, "rows": _columns(records, listed, samples, some)})
        if some == count and (len(text) <= limit or not count):
            return text, count
        count = min(count if some < count else int(0.95 * count), int(0.97 * some * limit / len(text)))
        first = count


def pack_tracks(
    listed: Listed, count: int, records: CalledRecords, tracks: Tracks, regions: Regions, limit: int = TRACKS_BYTES
) -> tuple[str, int]:
    """The windows of the first records that have several, as fine as fits, and the regions; how many have a track."""
    places = listed.place[:count]
    marked = np.isin(places, np.array(list(regions), np.int64))
    several = np.flatnonzero((tracks.windows[places] > 1) & (records.scored[places] > 0))
    # Those with regions first, so that none of them goes without.
    chosen = np.sort(several[np.argsort(~marked[several], kind="stable")][:MOST_TRACKS])
    shown: list[tuple[int, Sequence[tuple[int, int]]]] = []
    for row in np.flatnonzero(marked).tolist():
        shown.append((row, regions[int(places[row])]))
        if sum(len(spans) for _, spans in shown) >= _MOST_REGIONS:
            break
    most = _POINTS
    while True:
        content = {
            "rows": chosen.tolist(),
            "points": tracks.points(places[chosen].tolist(), most),
            "regions": shown,
            "most": most,
        }
        text = pack(content)
        if len(text) <= limit or most <= 1:
            return text, len(chosen)
        most = max(1, int(most * min(0.9, 0.95 * limit / len(text))))


def _counts(records: CalledRecords, samples: Samples) -> list[list[int]]:
    """Columns: call, kind, reliability, class of length, sample, and how many records there are of that."""
    codes = (records.call, records.kind, records.reliability, length_class(records.length), samples.code)
    sizes = (3, int(records.kind.max(initial=0)) + 2, 4, len(LENGTHS) + 1, len(samples.names) + 1)
    shifts = (1, 1, 1, 0, 0)
    shifted = tuple(code.astype(np.int64) + shift for code, shift in zip(codes, shifts, strict=True))
    found, count = np.unique(np.ravel_multi_index(shifted, sizes), return_counts=True)
    places = zip(np.unravel_index(found, sizes), shifts, strict=True)
    return [*((place - shift).tolist() for place, shift in places), count.tolist()]


def _columns(records: CalledRecords, listed: Listed, samples: Samples, count: int) -> dict[str, Any]:
    """Columns of the first so many records; what falls or rises with the rank is held by its steps."""
    place = listed.place[:count]
    reasons = [text for text, _ in Counter(text for text in listed.reason[:count] if text).most_common(_MOST_REASONS)]
    number = {text: at for at, text in enumerate(reasons)}
    return {
        "count": count,
        "name": "\n".join(listed.name[:count]),
        "length": records.length[place].tolist(),
        "call": records.call[place].tolist(),
        "kind": records.kind[place].tolist(),
        "reliability": records.reliability[place].tolist(),
        "sample": samples.code[place].tolist() if len(samples.names) > 1 else [],
        "probability": _steps(_scaled(records.probability[place], 10_000)),
        "fdr": _steps(_scaled(records.fdr[place], 10_000)),
        "agreement": _scaled(records.agreement[place], 100).tolist(),
        "novelty": _scaled(records.novelty[place], 1).tolist(),
        "reasons": reasons,
        "reason": [number.get(text, -1) for text in listed.reason[:count]] if reasons else [],
    }


def _scaled(values: Float[np.ndarray, "n"], scale: int) -> Int64[np.ndarray, "n"]:
    """Whole numbers, -1 where there is no value."""
    whole: Int64[np.ndarray, "n"] = np.rint(np.nan_to_num(values.astype(np.float64) * scale, nan=-1.0)).astype(np.int64)
    return whole


def _steps(values: Int64[np.ndarray, "n"]) -> list[int]:
    steps: list[int] = np.diff(values, prepend=0).tolist()
    return steps
