"""Which units the encoders of some features were fine-tuned on: a classifier is not to be measured on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from vnp.classifier.split import Split, read_split
from vnp.errors import FeatureError
from vnp.features.read import Features
from vnp.features.split import TEST, TRAIN, VALIDATION, some
from vnp.files.hashing import file_sha256
from vnp.runs.request import RunPaths


def parts_seen(features: Features) -> dict[str, int]:
    """The part that each unit was in when the encoders were fine-tuned; empty where none was.

    Raises:
        FeatureError: the table that says so is not beside the features, or is another one.
    """
    found: dict[str, int] = {}
    for part in features.layout.parts:
        digest = features.provenance.get("encoders", {}).get(part.name, {}).get("trained_on")
        if digest is None:
            continue
        path = RunPaths(features.path.parent).seen(part.name)
        try:
            same = file_sha256(path) == digest
        except OSError:
            same = False
        if not same:
            raise FeatureError(
                f"{part.encoder} was fine-tuned, and {path}, which says on which units, is missing or another one: put "
                "it back beside the features (it is split.tsv of the encoder's folder)"
            )
        for unit, number in read_split(path)[1].items():
            found[unit] = min(number, found.get(unit, TEST))
    return found


def unseen(features: Features, groups: Sequence[str]) -> Bool[np.ndarray, " n"] | None:
    """Which rows are of no unit that an encoder was trained on or watched; None where none was fine-tuned."""
    seen = {unit for unit, part in parts_seen(features).items() if part != TEST}
    return np.fromiter((group not in seen for group in groups), bool, len(groups)) if seen else None


def require_unseen(features: Features, split: Split) -> None:
    """Make sure that nothing is measured on what an encoder was trained on, nor watched on it.

    Raises:
        FeatureError: a unit of the test part was trained on or watched, or one of the validation part trained on.
    """
    seen = parts_seen(features)
    barred = {TEST: (TRAIN, VALIDATION), VALIDATION: (TRAIN,)}
    clash = [
        split.names[number]
        for part, before in barred.items()
        for number in np.unique(split.group[split.rows(part)]).tolist()
        if seen.get(split.names[number]) in before
    ]
    if clash:
        raise FeatureError(
            f"the encoder of {features.path} was fine-tuned on {len(clash):,} units that are kept apart here: "
            f"{some(clash)}. Take the split that it was fine-tuned with: extract the same dataset, or --split with the "
            "split.tsv of its folder"
        )
