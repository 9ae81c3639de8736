"""What a training measures of how far calls can be trusted: what rows looked like, and bins of calls of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vnp.classifier.rows import RowStore
from vnp.classifier.scored import Scored
from vnp.classifier.split import Split
from vnp.features.split import PARTS, TEST, TRAIN, VALIDATION
from vnp.metrics.evidence import fit_evidence
from vnp.metrics.novelty import Novelty, fit_novelty, mean_distances
from vnp.metrics.prevalence import at_prevalence
from vnp.metrics.reliability import Judgements, Reliability, fit_reliability, measure_levels
from vnp.metrics.trust import Trust

_MOST_ROWS = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class _Records:
    """Records of one part."""

    calls: Judgements
    distance: Float64[np.ndarray, "r"]
    viral: Bool[np.ndarray, "r"]
    probability: Float64[np.ndarray, "r"]
    unit: Int64[np.ndarray, "r"]  # number of what the split keeps together

    @property
    def wrong(self) -> Bool[np.ndarray, "r"]:
        mistaken: Bool[np.ndarray, "r"] = self.viral != self.calls.viral
        return mistaken


def measure_trust(store: RowStore, split: Split, scored: Mapping[int, Scored], seed: int) -> Trust:
    """Keep what training rows look like, and choose bins of calls on the validation records.

    Bins are measured on the test records where there are some, else on those that they were chosen on. ``scored`` are
    the parts that are not trained on; the seed is of the rows that are looked at, where there are many.
    """
    rows = split.rows(TRAIN)
    some = np.sort(np.random.default_rng(seed).choice(rows, min(len(rows), _MOST_ROWS), replace=False))
    novelty = fit_novelty(store.take(some).float().cpu().numpy(), store.label[some] == 1)
    parts = {part: _records(store, found, novelty) for part, found in scored.items()}
    watched = parts[VALIDATION]
    if novelty is not None:
        novelty = novelty.measured(watched.distance, watched.calls.length)
        parts = {part: _told(one, novelty) for part, one in parts.items()}
        watched = parts[VALIDATION]
    # What is as likely as not when all of them are of one label is not known.
    share = float(watched.viral.mean())
    high, medium = fit_reliability(watched.calls, watched.wrong)
    last = TEST if TEST in parts else VALIDATION
    tested = parts[last]
    chosen = Reliability(
        high, medium, {}, f"records of the {PARTS[VALIDATION]} part", f"records of the {PARTS[last]} part"
    )
    measured = measure_levels(chosen.levels(tested.calls), tested.calls.viral, tested.wrong)
    reliability = replace(chosen, measured=measured)
    if not 0 < share < 1:
        return Trust(None, novelty, reliability)
    even = at_prevalence(watched.probability, 0.5, share)
    return Trust(
        share, novelty, reliability, fit_evidence(even, watched.calls.length, watched.viral, watched.unit, seed=seed)
    )


def _records(store: RowStore, part: Scored, novelty: Novelty | None) -> _Records:
    """The records of a part, as they are called at one half."""
    found, rows = part.records, part.rows
    owner = np.searchsorted(found.key, part.record)
    says_viral = found.probability >= 0.5
    same = (part.probability >= 0.5) == says_viral[owner]
    agreement = np.bincount(owner, weights=same, minlength=len(found)) / np.bincount(owner, minlength=len(found))
    distance = np.full(len(rows), np.nan, np.float16)
    if novelty is not None:
        for low in range(0, len(rows), _MOST_ROWS):
            window = slice(low, low + _MOST_ROWS)
            distance[window] = novelty.distance(store.take(rows[window]).cpu().numpy())
    sure = np.maximum(found.probability, 1 - found.probability)
    unknown = np.full(len(found), np.nan, np.float32)
    return _Records(
        Judgements(part.length, sure, agreement, unknown, says_viral),
        mean_distances(distance, owner, len(found)),
        part.viral,
        found.probability,
        part.group[found.first].astype(np.int64),
    )


def _told(records: _Records, novelty: Novelty) -> _Records:
    percentile = novelty.percentile(records.distance, records.calls.length)
    return replace(records, calls=replace(records.calls, novelty=percentile))
