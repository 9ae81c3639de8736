"""Which units the encoders of some features were fine-tuned on: a classifier is not to be measured on them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int8

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


def seen_by_encoder(features: Features) -> Int8[np.ndarray, "n"] | None:
    """The part that the unit of each row was in when the encoders were fine-tuned; None where none was.

    It is -1 where the unit is not named among theirs. Units are those that the features were extracted with, whatever
    they are grouped by now. FeatureError as ``parts_seen``.
    """
    parts = parts_seen(features)
    if not parts:
        return None
    groups = features.as_extracted().groups()
    return np.fromiter((parts.get(group, -1) for group in groups), np.int8, len(groups))


def stranger(seen: Int8[np.ndarray, "n"]) -> str:
    """What is to be said where an encoder knows none of the units, by ``seen_by_encoder``; empty where it does."""
    return _STRANGER if len(seen) and (seen < 0).all() else ""


_STRANGER = (
    "none of its units is named among those that its encoder was fine-tuned on, so it is not known whether the encoder "
    "saw these genomes under other names: use rows of the set that it was tuned on, or genomes that are not in that"
)


def require_unseen(features: Features, split: Split) -> str:
    """Make sure that nothing is measured or watched on what an encoder was trained on; gives what ``stranger`` says.

    Raises:
        FeatureError: a unit of the test part was trained on or watched, or one of the validation part trained on.
    """
    seen = seen_by_encoder(features)
    if seen is None:
        return ""
    test, watched = split.part == TEST, split.part == VALIDATION
    clash = (test & np.isin(seen, (TRAIN, VALIDATION))) | (watched & (seen == TRAIN))
    if clash.any():
        groups = features.as_extracted().groups()
        names = sorted({groups[row] for row in np.flatnonzero(clash).tolist()})
        raise FeatureError(
            f"the encoder of {features.path} was fine-tuned on {len(names):,} units that are kept apart here: "
            f"{some(names)}. Take the split that it was fine-tuned with: extract the same dataset, or --split with the "
            "split.tsv of its folder"
        )
    return stranger(seen)
