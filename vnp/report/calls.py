"""What is said of records, as pages take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int32, Int64

from vnp.metrics.reliability import LEVELS

VIRAL, HOST, NO_CALL = 1, 0, -1
RELIABILITY_NAMES = {**LEVELS, -1: ""}


@dataclass(frozen=True, slots=True, eq=False)
class CalledRecords:
    """What is said of each of r records, in input order; NaN or -1 where there is nothing to say."""

    length: Int64[np.ndarray, "r"]  # bases
    scored: Int32[np.ndarray, "r"]  # chunks with a score
    score: Float64[np.ndarray, "r"]  # raw probability of viral
    probability: Float64[np.ndarray, "r"]  # the same, calibrated
    call: Int8[np.ndarray, "r"]  # ``VIRAL``, ``HOST`` or ``NO_CALL``
    fdr: Float64[np.ndarray, "r"]  # false discovery rate if this record and all at least as probable were called viral
    agreement: Float64[np.ndarray, "r"]  # share of the record's frames that alone would have got its call
    reliability: Int8[np.ndarray, "r"]  # a level of ``vnp.metrics.reliability``
    novelty: Float32[np.ndarray, "r"]  # share of held-out records that are nearer to training, in per cent
    kind: Int8[np.ndarray, "r"]  # number of the likeliest kind, or -1

    def ranked(self, most: int, marked: Sequence[int] = ()) -> Int64[np.ndarray, "m"]:
        """Places of the most telling records: viral calls, marked ones, hosts, those without a call; by probability.

        ``marked`` are those that come before others of their call, such as records with viral regions.
        """
        among = np.where(self.call == VIRAL, 3.0, np.where(self.call == HOST, 1.0, 0.0))
        if len(marked):
            at = np.asarray(marked, np.int64)
            among[at] = np.maximum(among[at], 2.0)
        # Within a class by probability, which is at most 1.
        rank = among + np.nan_to_num(self.probability, nan=0.0) / 2
        some = np.arange(len(rank))
        if most < len(rank):
            # Sorting a million records for a part of them would take longer than all the rest of the page.
            some = np.flatnonzero(rank >= np.partition(rank, len(rank) - most)[len(rank) - most])
        order: Int64[np.ndarray, "m"] = some[np.lexsort((some, -self.length[some], -rank[some]))[:most]]
        return order
