"""Features to a checkpoint, and the files beside it: log, split, metrics with intervals, and plots."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int8, Int64

from vnp.classifier.calibration import fit_calibration, shown_odds
from vnp.classifier.cascade import Other, measure_agreement
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.fit import Fitted, fit, margins_of, state_of
from vnp.classifier.model import MLPClassifier
from vnp.classifier.page import by_group, training_page
from vnp.classifier.recipe import VIRNUCPRO, Recipe, require_seed
from vnp.classifier.rows import Memory, RequiredFeatures, RowStore, data_digest, labels_of, open_rows
from vnp.classifier.scored import Scored, scored_part
from vnp.classifier.seen import require_unseen
from vnp.classifier.split import FILE_DIGEST, Split, clusters_of_groups, split_as, split_of_data, text_digest
from vnp.classifier.trust import measure_trust
from vnp.errors import RunExistsError, UsageError
from vnp.features.read import Features
from vnp.features.split import PARTS, TEST, TRAIN, VALIDATION
from vnp.files.claims import alone_with, require_apart, require_free, tidy
from vnp.files.durable import write_text
from vnp.files.hashing import file_sha256
from vnp.files.records import read_regular, write_json
from vnp.metrics.metrics import binary_metrics, bootstrap_intervals, with_intervals
from vnp.metrics.presets import measure_presets
from vnp.metrics.rules import aggregate, chunk_keys
from vnp.report.plots import Series, write_training_plots
from vnp.runs.done.crate import Action, Item, write_crate
from vnp.runs.done.receipts import now
from vnp.runs.request import versions

FILE_NAMES = ("split.tsv", "log.jsonl", "metrics.json", "state.pth", "train.html", "plots")
_GAP = 0.1
_AGAIN = "--force trains anew and writes over it"
_DEDUPE = "--dedupe keeps groups together, so it goes with --split group only"


@dataclass(frozen=True, slots=True)
class Training:
    """What is asked of a training."""

    recipe: Recipe = VIRNUCPRO  # optimiser and its numbers
    required: RequiredFeatures = field(default_factory=RequiredFeatures)  # what the features should be
    # ``group``, ``random``, or a file; ``auto`` is the split that came with the data where there is one, else ``group``
    split: Literal["auto", "group", "random"] | Path = "auto"
    validation: float = 0.1  # share of groups to watch
    test: float = 0.2  # share of groups to keep apart
    dedupe: bool = False  # keep groups of at least 95 % identity together
    # which kind; ``auto`` decides by the validation log-loss
    calibration: Literal["auto", "none", "temperature", "isotonic"] = "auto"
    threshold: float = 0.5  # probability from which on a row is called viral
    seed: int = 0  # of the split and of the training
    memory: Memory = "auto"  # where the rows are kept
    # organism group of each record, in the order of the features' records; needed where these are balanced
    organisms: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if not 0 < self.threshold < 1:
            raise UsageError(f"the threshold is {self.threshold:g}; it must be between 0 and 1")
        require_seed(self.seed)
        if self.recipe.balance == "group" and self.organisms is None:
            raise UsageError("to balance organism groups, say which record is of which")
        if self.dedupe and self.split not in ("auto", "group"):
            raise UsageError(_DEDUPE)


class Outputs(NamedTuple):
    """The files of a training, all beside the checkpoint."""

    checkpoint: Path  # the classifier
    split: Path  # which group is in which part
    log: Path  # one line of JSON for each epoch
    metrics: Path  # of the validation and test parts, with intervals
    state: Path  # what a killed training goes on from; removed at its end
    page: Path  # how good it is and how training went, for people
    plots: Path  # folder of plots

    @property
    def results(self) -> tuple[Path, ...]:
        """What stands beside the checkpoint in the end."""
        return self.split, self.log, self.metrics, self.page, self.plots

    def require_free(self, *, ours: bool) -> None:
        """Make sure that no other training's files are there."""
        if self.checkpoint.exists():
            raise RunExistsError(f"{self.checkpoint} is there; {_AGAIN}")
        remedy = "Choose another --out, or --force to train anew and write over them"
        require_free(self[1:], force=False, ours=ours, why="there already, and not of this training", remedy=remedy)


def outputs_of(checkpoint: Path) -> Outputs:
    """The files of the training that makes a checkpoint: ``model.split.tsv`` for ``model.pth``, and so on."""
    return Outputs(checkpoint, *(checkpoint.with_name(f"{checkpoint.stem}.{name}") for name in FILE_NAMES))


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A finished training."""

    checkpoint: Checkpoint  # the classifier
    outputs: Outputs  # its files
    fitted: Fitted  # how training went


@dataclass(frozen=True, slots=True)
class Watcher:
    """What is told of a training while it goes on; each may be left out."""

    reading: Callable[[int], None] = lambda _rows: None  # rows that were read since the last call
    comparing: Callable[[int], None] = lambda _groups: None  # groups that were compared since the last call
    dealt: Callable[[Mapping[str, Any]], None] = lambda _summary: None  # the split, as ``Split.summary`` has it
    warn: Callable[[str], None] = lambda _text: None  # why a number is worth less than it looks
    epoch: Callable[[list[dict[str, Any]]], None] = lambda _history: None  # the history after every epoch
    # within an epoch, now and then: its number, its rows, and those trained on so far
    inside: Callable[[int, int, int], None] = lambda _epoch, _total, _rows: None


def train(
    features: Features,
    out: Path,
    training: Training,
    device: torch.device,
    *,
    resume: bool = True,
    force: bool = False,
    watcher: Watcher | None = None,
    other: Other | None = None,
) -> Trained:
    """Train a classifier and write it with its split, log, metrics and plots; the checkpoint, ``out``, last.

    Args:
        resume: go on from the state of a killed training, if it was this very one.
        force: write over what is there.
        watcher: is told how it goes.
        other: the native network, where it is to be kept how it scores held-out records.

    Raises:
        RunExistsError: ``out`` is there, or files beside it that this training did not leave.
        UsageError: the options contradict themselves, a file that is read would be written over, or another training is
            at work on the same files.
        FeatureError: the features are not what was asked, or cannot be trained on.
        StorageError: the disk is full or cannot be written.
    """
    watcher, begun = watcher or Watcher(), now()
    outputs = outputs_of(out)
    read = (features.path, training.split) if isinstance(training.split, Path) else (features.path,)
    require_apart(read, outputs[:-1], "choose another --out, or copy it first")
    if not force:
        # Whose state it is takes longer to find out.
        outputs.require_free(ours=outputs.state.exists())
    training.required.require(features)
    label = labels_of(features)
    split = deal(features, label, training, watcher.comparing)
    doubt = require_unseen(features, split)
    data = data_digest(features, label)
    request = _request(training, split.summary(label), data)
    text = split.text(features.ids() if split.kind in ("random", "file") else ())
    with alone_with(out, "training"):
        if not force:
            outputs.require_free(ours=_ours(outputs, request, text))
        tidy(out.parent, (path.name for path in outputs[:-1]))
        tidy(outputs.plots, ["*"])
        watcher.dealt(split.summary(label))
        records = np.concatenate([*features.number_windows("record")])
        for text_of in (*((doubt,) if doubt else ()), *split.doubts(label, records)):
            watcher.warn(text_of)
        store = open_rows(features, label, device, training.memory, watcher.reading)
        written = False

        def after_epoch(history: list[dict[str, Any]]) -> None:
            nonlocal written
            # Never before there is a state, which says whose these files are.
            if not written:
                write_text(outputs.split, text)
            written = True
            write_text(outputs.log, "".join(json.dumps(row) + "\n" for row in history))
            watcher.epoch(history)

        fitted = fit(
            store, split, training.recipe, training.seed, state=outputs.state, digest=_digest(request, device),
            resume=resume, organism=_organisms(features, training, records), each_epoch=after_epoch,
            inside=watcher.inside,
        )  # fmt: skip
        if not written:
            after_epoch(fitted.history)
        checkpoint = _finish(features, store, split, training, fitted, outputs, data, text, other)
        try:
            checkpoint.write(outputs.checkpoint, exclusive=not force)
        except FileExistsError:
            raise RunExistsError(f"{outputs.checkpoint} was made by something else meanwhile; {_AGAIN}") from None
        outputs.state.unlink(missing_ok=True)
        write_crate(out.parent, _action(features, training, split, data, outputs, begun))
    if (gap := _gap(checkpoint.metrics)) is not None:
        watcher.warn(gap)
    return Trained(checkpoint, outputs, fitted)


def _action(features: Features, training: Training, split: Split, data: str, outputs: Outputs, begun: str) -> Action:
    """What a training did, for the crate of the checkpoint's folder."""
    recipe = asdict(training.recipe)
    own = {"recipe": recipe.pop("name"), **recipe, "seed": training.seed, "split": split.kind, "data": data}
    made = [Item(outputs.checkpoint, file_sha256(outputs.checkpoint), what="classifier"), *map(Item, outputs.results)]
    words = "A classifier is trained on rows of labelled records"
    plain = {name.replace("_", "-"): value for name, value in own.items() if isinstance(value, str | int | float)}
    return Action("train", words, [Item(features.path, what="rows of numbers")], made, plain, begun)


def _organisms(features: Features, training: Training, record: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"] | None:
    """The number of each row's organism group, by the record that it is of."""
    if training.recipe.balance != "group" or training.organisms is None:
        return None
    _, number = np.unique(np.array(training.organisms, object), return_inverse=True)
    found: Int64[np.ndarray, "n"] = number[np.searchsorted(features.records().ordinal, record)].astype(np.int64)
    return found


def _gap(metrics: Mapping[str, Any]) -> str | None:
    """What to say where the validation part is far above the test part: they are not strangers to training alike."""
    levels = [metrics[PARTS[part]]["record"] for part in (VALIDATION, TEST) if PARTS[part] in metrics]
    if len(levels) < 2:
        return None
    watched, tested = levels
    for name in ("roc_auc", "accuracy"):
        if watched[name] is not None and tested[name] is not None and watched[name] - tested[name] > _GAP:
            return (
                f"{name} of records is {watched[name]:.2f} in validation and {tested[name]:.2f} in test: what is "
                "measured in validation resembles what was trained on, or there are few units in either. Name larger "
                "units (--units, --dedupe, the samplesheet's column group), and trust the test part"
            )
    return None


def _ours(outputs: Outputs, request: str, text: str) -> bool:
    """Whether what stands there was left by this very training: by its state or, where that is damaged, its split."""
    try:
        return state_of(outputs.state) == request
    except ValueError:
        with contextlib.suppress(OSError):
            return read_regular(outputs.split) == text.encode()
        return False


def _finish(
    features: Features,
    store: RowStore,
    split: Split,
    training: Training,
    fitted: Fitted,
    outputs: Outputs,
    data: str,
    text: str,
    other: Other | None,
) -> Checkpoint:
    """Calibrate, measure and plot. The checkpoint comes after: where it is, all else is too."""
    label = store.label
    network = MLPClassifier(store.width, dropout=training.recipe.dropout).to(store.device)
    network.load_state_dict(fitted.weights)
    network.eval()
    watched = split.rows(VALIDATION)
    margins = margins_of(network, store, watched)
    calibration = fit_calibration(
        margins, label[watched], split.group[watched],
        kind=training.calibration, offset=shown_odds(label[split.rows(TRAIN)], training.recipe),
    )  # fmt: skip
    parts = {VALIDATION: scored_part(features, split, VALIDATION, label, calibration.apply(margins))}
    if len(tested := split.rows(TEST)):
        probability = calibration.apply(margins_of(network, store, tested))
        parts[TEST] = scored_part(features, split, TEST, label, probability)
    metrics = {PARTS[part]: _measure(found, training.threshold, training.seed) for part, found in parts.items()}
    last, seen = max(parts), parts[VALIDATION]
    checkpoint = Checkpoint(
        weights=fitted.weights,
        layout=features.layout,
        encoders=features.provenance.get("encoders", {}),
        chunk=features.chunk,
        calibration=calibration,
        threshold=training.threshold,
        presets=measure_presets(seen.records.probability, seen.viral, seen.length),
        trust=measure_trust(store, split, parts, training.seed),
        agreement=None
        if other is None
        else measure_agreement(features, parts[last], other, training.seed, PARTS[last]),
        training={
            "recipe": asdict(training.recipe),
            "seed": training.seed,
            "data": data,
            "rows": len(split.rows(TRAIN)),
            "epochs": len(fitted.history),
            "best_epoch": fitted.best_epoch,
            "stopped_early": fitted.stopped_early,
            "device": store.device.type,
        },
        split={**split.summary(label), FILE_DIGEST: text_digest(text)},
        metrics=metrics,
        code=versions(),
    )
    presets = {name: asdict(preset) for name, preset in checkpoint.presets.items()}
    told = {"calibration": asdict(calibration), "presets": presets, "split": checkpoint.split}
    reliability = checkpoint.trust.to_json()["reliability"]
    write_json(outputs.metrics, {**metrics, **told, "reliability": reliability})
    series = [Series(PARTS[part], parts[part].label, parts[part].probability) for part in sorted(parts, reverse=True)]
    plots = write_training_plots(outputs.plots, fitted.history, series, training.threshold, fitted.best_epoch)
    groups = by_group(features, parts[last], training.threshold, training.organisms)
    held = (
        (outputs.metrics.name, "metrics, calibration, presets and reliability"),
        (outputs.log.name, "every epoch"),
        (outputs.split.name, "which group is in which part"),
        (f"{outputs.plots.name}/", "the plots, as SVG and PNG"),
    )
    write_text(outputs.page, training_page(outputs.checkpoint.name, checkpoint, fitted, groups, plots, held))
    return checkpoint


def deal(
    features: Features,
    label: Int8[np.ndarray, "n"],
    training: Training,
    comparing: Callable[[int], None] = lambda _groups: None,
) -> Split:
    """Split rows as asked."""
    groups = features.groups()
    if training.split == "auto" and ((part := features.splits()) >= 0).any():
        if training.dedupe:
            raise UsageError(f"{_DEDUPE}; the split that came with the data stands")
        return split_of_data(part, label, groups)
    return split_as(
        training.split, label, groups, features.ids,
        validation=training.validation, test=training.test, seed=training.seed,
        clusters=clusters_of_groups(features, progress=comparing) if training.dedupe else None,
    )  # fmt: skip


def _request(training: Training, summary: Mapping[str, Any], data: str) -> str:
    """What decides whose a state is: the recipe, the seed, the split and the data."""
    request = {"recipe": asdict(training.recipe), "seed": training.seed, "split": dict(summary), "data": data}
    if training.recipe.balance == "group":
        request["organisms"] = list(training.organisms or ())
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _digest(request: str, device: torch.device) -> str:
    """What a state must be of to be gone on from: the request, the kind of machine, and the code."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    text = json.dumps({"device": name, "code": versions()}, sort_keys=True)
    return f"{request}:{hashlib.sha256(text.encode()).hexdigest()}"


def _measure(part: Scored, threshold: float, seed: int) -> dict[str, Any]:
    """Metrics of frames, of chunks, and of records, where the surest frame decides, with intervals over groups."""
    measured = {"frame": (part.label, part.probability, part.group)}
    for level, found in (
        ("chunk", aggregate(part.probability, chunk_keys(part.record, part.chunk))),
        ("record", part.records),
    ):
        measured[level] = (part.label[found.first], found.probability, part.group[found.first])
    return {
        level: with_intervals(
            binary_metrics(truth, estimate, threshold),
            bootstrap_intervals(truth, estimate, groups, threshold=threshold, seed=seed),
        )
        for level, (truth, estimate, groups) in measured.items()
    }
