"""Measures a trained network and writes the folder that is used from then on.

FOLDER/model.safetensors   weights in half precision, normalisation folded into them
FOLDER/config.json         architecture, sizes, SHA-256 of the weights, calibration, presets, recipe, provenance
FOLDER/metrics.json        accuracy by length, group and sample on units that were kept apart
FOLDER/log.jsonl           the loss, and validation, step by step
FOLDER/training.png        the same, drawn
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from safetensors import SafetensorError
from safetensors.torch import load, save

from vnp import __version__
from vnp.encoders.models.sixframe import KINDS, SixFrame, SixFrameConfig
from vnp.errors import WeightsError, machine_error
from vnp.files.durable import replacing
from vnp.files.records import parse_json, read_record, read_regular, write_json, write_record
from vnp.finetune.calibration import LengthCalibration, calibration_error, fit
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.genomes import TEST, VALIDATION, Genomes
from vnp.finetune.measure import (
    CLASSES,
    LENGTHS,
    Windows,
    draw,
    kind_of,
    logits_of,
    mean_viral_logits,
    recall_at,
    roc_auc,
)
from vnp.finetune.recipe import LONGEST_WINDOW, SHORTEST_WINDOW, Recipe
from vnp.finetune.split import folds
from vnp.finetune.trust import BALANCE, draw_contigs, levels_by_group, measure_trust
from vnp.metrics.presets import Preset, measure_presets, presets_from_json
from vnp.metrics.trust import Trust

SCHEMA = "sixframe-1"
MODEL_TYPE = "sixframe"
WEIGHTS, CONFIG, METRICS, PLOT = "model.safetensors", "config.json", "metrics.json", "training.png"
_PROKARYOTES = ("bacteria", "archaea")


@dataclass(frozen=True, slots=True)
class Trained:
    """A network that can be used, and what is known of it.

    Attributes:
        network: folded, in evaluation mode, float32.
        config: the whole of ``config.json``.
        calibration: from log-odds to probabilities.
        window: bases that it reads at once.
        presets: the probabilities from which on records are viral, by name and length.
        trust: how far probabilities and calls can be trusted; folders of earlier versions know little of it.
    """

    network: SixFrame
    config: Mapping[str, Any]
    calibration: LengthCalibration
    window: int
    presets: Mapping[str, Preset]
    trust: Trust


def write_folder(
    folder: Path,
    network: SixFrame,
    held: DeviceGenomes,
    recipe: Recipe,
    *,
    count: int = 4000,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Calibrate, measure on the test units, and write everything.

    Args:
        folder: that is there.
        network: what ``train`` gave; it is folded, and its weights are rounded to half precision first.
        held: the genomes.
        recipe: that it was trained by.
        count: windows, or contigs, of each label in each measurement.
        say: told what happens.

    Returns:
        The metrics.
    """
    content = _half_weights(network)
    say("calibrating")
    genomes = held.genomes
    contigs = score_contigs(network, held, count, recipe.window)
    calibration, presets = calibrate(genomes, contigs)
    say("measuring")
    metrics: dict[str, Any] = {
        "windows": measure_windows(network, held, count, recipe.window),
        "contigs": measure_contigs(genomes, contigs),
    }
    trust, judged = measure_trust(network, held, calibration, count, recipe.window, say)
    if trust.reliability is not None and judged is not None:
        metrics["reliability"] = levels_by_group(trust.reliability, judged)
    config = {
        "model_type": MODEL_TYPE,
        "network": recipe.network.to_json(),
        "width": recipe.network.width,
        "kinds": list(KINDS),
        "window": recipe.window,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "calibration": calibration.to_json(),
        "presets": {name: asdict(preset) for name, preset in presets.items()},
        "trust": trust.to_json(),
        "recipe": recipe.to_json(),
        "provenance": {
            "genomes_sha256": genomes.digest(),
            "records": len(genomes.unit),
            "units": len(genomes.units),
            "bases": len(genomes.codes),
            "ignored_bases": int(genomes.ignored[:, 1].sum()),
            "vnp": __version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(held.device) if held.device.type == "cuda" else platform.machine(),
        },
    }
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(content)
    metrics = dict(_without_nan(metrics))
    write_json(folder / METRICS, metrics)
    write_record(folder / CONFIG, config, schema=SCHEMA, seal="digest")
    return metrics


def _without_nan(value: Any) -> Any:
    """The same with None for numbers that could not be had, such as the ROC-AUC of one label."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _half_weights(network: SixFrame) -> bytes:
    """Fold, round to half precision and give the bytes; the network then is what these bytes are."""
    network.fold()
    state = {name: tensor.detach().half().contiguous().cpu() for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    content: bytes = save(state)
    return content


def read_folder(folder: Path, *, weights_sha256: str | None = None) -> Trained:
    """Read what ``write_folder`` wrote and check it.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``.
        weights_sha256: what the weights' digest must be besides what the configuration says.

    Raises:
        WeightsError: a file is missing, damaged, or of another network.
    """
    path = folder / CONFIG
    config = read_record(path, dict, schema=SCHEMA, seal="digest", error=WeightsError, remedy="finetune writes it")
    if config is None or config.get("model_type") != MODEL_TYPE:
        raise WeightsError(f"{path} is missing or is not of a sixframe network; it is written by finetune")
    if config.get("kinds") != list(KINDS):
        raise WeightsError(f"{path} names other kinds than {', '.join(KINDS)}")
    try:
        content = read_regular(folder / WEIGHTS)
    except OSError as error:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != config.get("weights_sha256") or weights_sha256 not in (None, found):
        raise WeightsError(f"{folder / WEIGHTS} is damaged or of another training: its SHA-256 is {found}")
    network = SixFrame(SixFrameConfig.from_json(config.get("network", {}))).fold()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    except (SafetensorError, RuntimeError) as error:
        # A file whose digest is right and that memory has no room for is not damaged.
        if (lacking := machine_error(error)) is not None:
            raise lacking from error
        raise WeightsError(f"{folder / WEIGHTS} does not fit its configuration: {error}") from error
    window = config.get("window")
    if not isinstance(window, int) or not SHORTEST_WINDOW <= window <= LONGEST_WINDOW:
        raise WeightsError(f"{path} is of windows of {window!r} bases: it is damaged, or of a later version")
    try:
        presets = presets_from_json(config["presets"])
        trust = Trust.from_json({"prevalence": BALANCE, **config.get("trust", {})})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} has presets, or what training looked like, that cannot be used: {error}") from error
    calibration = LengthCalibration.from_json(config.get("calibration", {}))
    return Trained(network, config, calibration, window, presets, trust)


class Contigs(NamedTuple):
    """Pieces of every length class of one part's units.

    Attributes:
        record: that each is of.
        length: its bases.
        logit: the mean over its windows of the log-odds of virus against host.
        kind: the likeliest of its first window, given its label.
    """

    record: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]
    logit: Float64[np.ndarray, " n"]
    kind: Int64[np.ndarray, " n"]

    def of(self, chosen: Bool[np.ndarray, " n"]) -> Contigs:
        """Some of them."""
        return Contigs(*(column[chosen] for column in self))


def score_contigs(network: SixFrame, held: DeviceGenomes, count: int, window: int) -> Contigs:
    """Draw contigs of the units to watch and of those for the test, and score them as records are."""
    drawn = [draw_contigs(held, part, count, seed=13) for part in (VALIDATION, TEST)]
    pieces = Windows(*(np.concatenate(columns) for columns in zip(*drawn, strict=True)))
    logits = logits_of(network, held, pieces.start, np.minimum(pieces.length, window))
    kind = kind_of(logits, held.genomes.viral[pieces.record])
    return Contigs(pieces.record, pieces.length, mean_viral_logits(network, held, pieces, window), kind)


def calibrate(genomes: Genomes, contigs: Contigs) -> tuple[LengthCalibration, dict[str, Preset]]:
    """Fit probabilities and thresholds on contigs, but none of a group that was left out."""
    record, length, logit, _ = contigs.of(folds(genomes)[contigs.record] >= 0)
    viral = genomes.viral[record]
    calibration = fit(viral, logit, length)
    return calibration, measure_presets(calibration.probability(logit, length), viral, length)


def _judge(genomes: Genomes, contigs: Contigs) -> tuple[Float64[np.ndarray, " n"], dict[str, Bool[np.ndarray, " n"]]]:
    """Probabilities, and what each preset calls viral, by fits on all folds but a contig's own.

    Probabilities are NaN where those have no contig of either label.
    """
    fold = folds(genomes)[contigs.record]
    chance = np.full(len(fold), np.nan)
    called: dict[str, Bool[np.ndarray, " n"]] = {}
    for one in np.unique(fold):
        own = fold == one
        others = contigs.of(~own)
        if len(np.unique(genomes.viral[others.record[fold[~own] >= 0]])) < 2:
            continue
        calibration, presets = calibrate(genomes, others)
        chance[own] = calibration.probability(contigs.logit[own], contigs.length[own])
        for name, preset in presets.items():
            viral = called.setdefault(name, np.zeros(len(fold), np.bool_))
            viral[own] = chance[own] >= preset.of(contigs.length[own])
    return chance, called


def measure_windows(
    network: SixFrame, held: DeviceGenomes, count: int, window: int, part: int = TEST
) -> dict[str, Any]:
    """Accuracy on pieces of units that were kept apart; those longer than a window are scored as records are.

    Returns:
        For each sample and length the ROC-AUC, that of phages against prokaryotes, and the recall at 99 % specificity.
    """
    genomes = held.genomes
    found: dict[str, Any] = {}
    for sample, name in enumerate(genomes.samples):
        chosen = (genomes.part == part) & (genomes.sample == sample)
        for length in LENGTHS:
            if not (genomes.lengths[chosen] >= length).any():
                continue
            pieces = draw(held, chosen, length, length, count, seed=11)
            logit = mean_viral_logits(network, held, pieces, window)
            viral = genomes.viral[pieces.record]
            groups = np.array(genomes.groups)[genomes.group[pieces.record]]
            phages = (groups == "phage") | np.isin(groups, _PROKARYOTES)
            found.setdefault(name, {})[str(length)] = {
                "windows": len(viral),
                "roc_auc": roc_auc(viral, logit),
                "phage_roc_auc": roc_auc(viral[phages], logit[phages]),
                "recall_at_99": recall_at(viral, logit),
            }
    return found


def measure_contigs(genomes: Genomes, contigs: Contigs) -> dict[str, Any]:
    """Accuracy on contigs of the test units, each judged by what was fitted without its fold.

    Returns:
        For each class of lengths the ROC-AUC, calibration error, share called right at one half and share of the hosts
        that are hosts to each preset; how often the likeliest kind is one that it may be, and, for each sample and
        group, the share that is called right.
    """
    found: dict[str, Any] = {}
    names = np.array([f"{sample} {group}".strip() for sample in genomes.samples for group in genomes.groups])
    chance, called = _judge(genomes, contigs)
    tested = (genomes.part[contigs.record] == TEST) & np.isfinite(chance)
    for low, high in CLASSES:
        chosen = tested & (contigs.length >= low) & (contigs.length < high)
        if not chosen.any():
            continue
        some = contigs.of(chosen)
        viral = genomes.viral[some.record]
        right = (chance[chosen] > 0.5) == viral
        group = names[genomes.sample[some.record] * len(genomes.groups) + genomes.group[some.record]]
        found[f"{low}-{high}"] = {
            "contigs": len(viral),
            "roc_auc": roc_auc(viral, chance[chosen]),
            "ece": calibration_error(viral, chance[chosen]),
            "accuracy": float(right.mean()),
            "specificity": {
                name: float(1 - one[chosen][~viral].mean()) for name, one in called.items() if not viral.all()
            },
            "kind_accuracy": float((genomes.kinds[some.record] >> some.kind.astype(np.uint8) & 1).mean()),
            "right_by_group": {str(name): float(right[group == name].mean()) for name in np.unique(group)},
        }
    return found


def draw_training(log: Path, plot: Path) -> None:
    """Draw the loss by length of the crops, and the validation units' ROC-AUC."""
    from matplotlib.figure import Figure

    entries = [parse_json(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [entry for entry in entries if "loss" in entry]
    watched = [entry for entry in entries if "validation" in entry]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for length in sorted({length for entry in losses for length in entry["by_length"]}, key=int):
        points = [(entry["step"], entry["by_length"][length]) for entry in losses if length in entry["by_length"]]
        left.plot(*zip(*points, strict=True), label=f"{length} bases", linewidth=1)
    for length in sorted({length for entry in watched for length in entry["validation"]}, key=int):
        points = [(entry["step"], entry["validation"][length]) for entry in watched if length in entry["validation"]]
        right.plot(*zip(*points, strict=True), label=f"{length} bases", marker="o", markersize=3)
    left.set(xlabel="step", ylabel="loss, virus against host")
    right.set(xlabel="step", ylabel="ROC-AUC, validation units")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    with replacing(plot) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
