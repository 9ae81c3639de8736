"""Compares features with what a training asks of them, before anything is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int64

from vnp.classifier.model import CLASSES
from vnp.encoders.spec import spec
from vnp.errors import FeatureError, LayoutError
from vnp.features.layout import make_layout
from vnp.features.read import Features

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Expected:
    """What features should be; None leaves it to the file.

    Args:
        layout: ``1664`` or ``full``.
        dna: name of the DNA encoder.
        protein: name of the protein encoder.
        chunk: bases of a chunk.
    """

    layout: str | None = None
    dna: str | None = None
    protein: str | None = None
    chunk: int | None = None

    def require(self, features: Features) -> None:
        """Make sure that features are what was asked.

        Raises:
            UsageError: no encoder has such a name.
            LayoutError: the columns are others; the message shows both.
            FeatureError: the encoder or the chunk is another; the message shows both.
        """
        asked = {"dna": self.dna, "protein": self.protein}
        native: dict[str, tuple[str, int]] = {}
        for part in features.layout.parts:
            name = asked[part.name]
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
            if asked[name] is not None and name not in native:
                raise FeatureError(f"has no {name} columns, {asked[name]} was asked for", path=features.path)
        if self.layout is not None:
            if len(native) < 2:
                raise LayoutError(f"the layout {self.layout} was asked for; {features.path} has {features.layout}")
            wanted = make_layout(self.layout, dna=native["dna"], protein=native["protein"])
            wanted.require(features.layout, here="asked for", there=str(features.path))
        if self.chunk is not None and self.chunk != features.chunk:
            raise FeatureError(
                f"the chunks differ: {self.chunk} bases were asked for, {features.path} has {features.chunk}. "
                f"Leave out --chunk, or extract with --chunk {self.chunk}"
            )


def labels_of(features: Features) -> Int8[np.ndarray, "n"]:
    """The label of every row, all of them there and of both classes.

    Raises:
        FeatureError: there are no rows, a label is missing, or there is only one class.
    """
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
    names = [records.name[place].decode() for place in np.searchsorted(records.ordinal, ordinals[:_SHOWN])]
    more = len(ordinals) - len(names)
    return ", ".join(names) + (f" and {more:,} more records" if more > 0 else "")
