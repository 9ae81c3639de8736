"""Writes what was fine-tuned as a folder of weights like any other: the engine runs it as it runs what was fetched.

FOLDER/model.safetensors    the encoder's tensors in float32, adapters merged into them
FOLDER/config.json          the base's
FOLDER/vocab.txt ...        the base's tokenizer, where it has files of one
FOLDER/split.tsv            each unit of the set (and of those that the base was tuned on), and its part
FOLDER/provenance.json      base, set, recipe and result, with their digests
FOLDER/weights.lock.json    SHA-256 of the files; written last
FOLDER/head.safetensors     the head of labels or contrastive, which the encoder does without
FOLDER/log.jsonl, training.png
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from vnp import __version__
from vnp.classifier.split import read_split
from vnp.encoders.spec import EncoderSpec
from vnp.encoders.tokens.tokenizers import FILES
from vnp.encoders.weights.folders import CONFIG_NAME, SINGLE_FILES
from vnp.encoders.weights.lock import LOCK_NAME, LockedEncoder, LockedFile, write_lock
from vnp.encoders.weights.provenance import PROVENANCE, UNITS, Provenance
from vnp.errors import FeatureError
from vnp.features.split import PARTS, TEST, TRAIN, some
from vnp.files.durable import replacing, write_text
from vnp.files.hashing import file_sha256
from vnp.files.records import parse_json
from vnp.files.tables import table_text
from vnp.finetune.language.examples import Examples
from vnp.finetune.language.loop import Tuned
from vnp.finetune.pace import LOG

WEIGHTS, HEAD, PLOT = SINGLE_FILES[0], "head.safetensors", "training.png"
MADE = (LOCK_NAME, PROVENANCE, WEIGHTS, CONFIG_NAME, UNITS, HEAD, PLOT)


def units_of(examples: Examples, base: Path) -> dict[str, int]:
    """The part of each unit that the encoder will have seen: of this set, and of those that its base was tuned on.

    Raises:
        FeatureError: the base was trained on units that are kept apart here.
    """
    own = examples.part_of_unit()
    if not (base / UNITS).exists():
        return own
    _, before = read_split(base / UNITS)
    leaked = [unit for unit, part in own.items() if part != TRAIN and before.get(unit) == TRAIN]
    if leaked:
        raise FeatureError(
            f"{base} was trained on {len(leaked):,} units that this set keeps apart: {some(leaked)}. Take the set that "
            "it was trained on, or one that was dealt out alike (same sheet, same seed), or another base"
        )
    return {unit: min(own.get(unit, TEST), before.get(unit, TEST)) for unit in (*before, *own)}


def write_folder(
    folder: Path,
    tuned: Tuned,
    examples: Examples,
    base: EncoderSpec,
    base_folder: Path,
    identity: Mapping[str, Any],
) -> Provenance:
    """Write everything into a folder that is there, the lock last; ``identity`` is that of the ``base`` that was tuned.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    recipe = tuned.network.recipe
    units = units_of(examples, base_folder)
    text = table_text([("group", "part"), *((unit, PARTS[part]) for unit, part in units.items())])
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tuned.network.merged(), temporary, metadata={"format": "pt"})
    if heads := tuned.network.heads():
        with replacing(folder / HEAD) as temporary:
            save_file(heads, temporary)
    copied = [name for name in (CONFIG_NAME, *FILES[base.family.tokenizer]) if (base_folder / name).is_file()]
    for name in copied:
        with replacing(folder / name) as temporary:
            shutil.copyfile(base_folder / name, temporary)
    write_text(folder / UNITS, text)
    found = Provenance(
        base=dict(identity),
        data=examples.describe(),
        objective=recipe.objective,
        train=recipe.train,
        recipe=asdict(recipe),
        split_sha256=file_sha256(folder / UNITS),
        result={
            "steps": tuned.steps,
            "best_step": tuned.best,
            "stopped": tuned.stopped,
            "validation": tuned.looks.get(tuned.best, {}),
        },
        code={"vnp": __version__},
    )
    found.write(folder)
    draw_tuning(folder / LOG, folder / PLOT)
    locked = {
        name: LockedFile((folder / name).stat().st_size, file_sha256(folder / name)) for name in (WEIGHTS, *copied)
    }
    revision = locked[WEIGHTS].sha256[:40]
    licence = base.licence or "not stated"
    write_lock(folder, {folder.resolve().name: LockedEncoder("", revision, licence, "made here", locked)})
    return found


def draw_tuning(log: Path, plot: Path) -> None:
    """Draw the loss of training and of the validation units."""
    from matplotlib.figure import Figure

    entries = [parse_json(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in (
        ("training", [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]),
        ("validation units", [(e["step"], e["validation"]["loss"]) for e in entries if "validation" in e]),
    ):
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=".")
    axes.set(xlabel="step", ylabel="loss")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    with replacing(plot) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
