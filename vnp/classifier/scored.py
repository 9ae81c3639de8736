"""Rows of one part of a split with their probabilities, and the records that they make up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int32, Int64

from vnp.classifier.split import Split
from vnp.features.read import Features
from vnp.metrics.rules import Aggregated, aggregate


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The m rows of a part, and their r records as they are called where the surest row decides."""

    rows: Int64[np.ndarray, "m"]  # their numbers, ascending
    label: Int8[np.ndarray, "m"]  # 1 viral, 0 host
    group: Int64[np.ndarray, "m"]  # number of what the split keeps together
    probability: Float64[np.ndarray, "m"]  # of viral, calibrated
    record: Int64[np.ndarray, "m"]  # ordinal of the record that each is of
    chunk: Int32[np.ndarray, "m"]  # number of the chunk in the record
    records: Aggregated
    place: Int64[np.ndarray, "r"]  # of each record in ``Features.records``
    length: Int64[np.ndarray, "r"]  # bases of each record

    @property
    def viral(self) -> Bool[np.ndarray, "r"]:
        """Which records are labelled so."""
        viral: Bool[np.ndarray, "r"] = self.label[self.records.first] == 1
        return viral


def scored_part(
    features: Features, split: Split, part: int, label: Int8[np.ndarray, "n"], probability: Float64[np.ndarray, "m"]
) -> Scored:
    """Take the rows of a part together; the label is that of all rows of the features, the probability of these."""
    rows = split.rows(part)
    record, chunk = (np.concatenate([*features.number_windows(name)])[rows] for name in ("record", "chunk"))
    found, records = aggregate(probability, record), features.records()
    place = np.searchsorted(records.ordinal, found.key)
    return Scored(rows, label[rows], split.group[rows], probability, record, chunk, found, place, records.length[place])
