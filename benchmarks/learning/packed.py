"""Training sets as one file of arrays, for machines that lack what reads the sets themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vnp.errors import InputError
from vnp.features.split import PARTS, TRAIN
from vnp.files.records import parse_json
from vnp.finetune.language.examples import Examples

_ARRAYS = ("tokens", "starts", "label", "unit", "part")


def pack(examples: Examples, file: Path) -> None:
    """Write a set as compressed arrays."""
    arrays = {name: getattr(examples, name) for name in _ARRAYS}
    words = json.dumps({"units": examples.units, "about": examples.about}).encode()
    np.savez_compressed(file, **arrays, words=np.frombuffer(words, np.uint8))


def unpack(file: Path) -> Examples:
    """Read what ``pack`` wrote."""
    try:
        with np.load(file, allow_pickle=False) as found:
            words = parse_json(found["words"].tobytes())
            return Examples(**{name: found[name] for name in _ARRAYS}, units=words["units"], about=words["about"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError("is no set that --pack wrote", path=file) from error


def read_sets(sources: list[Path]) -> list[Examples]:
    """Read sets, packed or not, and make sure that no unit is trained on in one and kept apart in another."""
    found = []
    for source in sources:
        if source.suffix == ".npz":
            found.append(unpack(source))
        else:
            from vnp.encoders.tokens.tokenizers import Esm2Tokenizer
            from vnp.finetune.language.examples import read_examples

            found.append(read_examples(source, Esm2Tokenizer()))
    first: dict[str, int] = {}
    for source, one in zip(sources, found, strict=True):
        for unit, part in one.part_of_unit().items():
            other = first.setdefault(unit, part)
            if (part == TRAIN) != (other == TRAIN):
                raise InputError(
                    f"deals out unit {unit} for {PARTS[part]}, and a set before it for {PARTS[other]}: make all of the "
                    "same sheet with the same seed",
                    path=source,
                )
    return found
