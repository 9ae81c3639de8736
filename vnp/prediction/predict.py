"""A run and a classifier to everything that ``jobs.predict`` writes, and what stands where that goes."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vnp.classifier.classifier import Classifier
from vnp.encoders.weights.folders import locate
from vnp.errors import MachineError, RunError, RunExistsError, UsageError, storage_error
from vnp.files.claims import alone_with, make_folder, standing
from vnp.files.durable import remove_temporaries
from vnp.files.extras import require_extra
from vnp.files.hashing import file_sha256
from vnp.files.machine import available_memory
from vnp.files.records import read_record, write_record
from vnp.metrics.presets import DEFAULT
from vnp.metrics.prevalence import NONE, given_prevalence
from vnp.native.classifier import NativeClassifier, digest_of
from vnp.prediction.calls import Judges
from vnp.prediction.cascade import choose_cascade
from vnp.prediction.classifiers import bring_back, find_classifier
from vnp.prediction.options import CHOICES, OutputPaths, PredictOptions
from vnp.prediction.scores import Source, layout_of
from vnp.prediction.tables import chosen_columns
from vnp.prediction.writing import SCHEMA, Progress, Writing
from vnp.runs.done.crate import NAME as CRATE
from vnp.runs.done.crate import Action, Item, inputs_of, parameters_of, write_crate
from vnp.runs.done.reduce import tidy
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import NATIVE, Cascade, PlannedInput, Run
from vnp.sequences.samplesheet import InputFile


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was found."""

    paths: OutputPaths  # where
    summary: dict[str, Any]  # what ``predictions.json`` holds
    fresh: bool  # False if the same predictions were there already


def choose_options(
    name: str, given: dict[str, Any], before: PredictOptions | None = None, *, native: bool = False
) -> tuple[Classifier, PredictOptions]:
    """A classifier, and how to call by it.

    Args:
        given: what users say of the calls; None where they say nothing.
        before: how the same records were called, which holds where nothing is said.
        native: score chunks without an open frame by the native network, where the classifier reads open frames.

    Raises:
        UsageError: what is said cannot be.
    """
    classifier, sha256 = find_classifier(name)
    said = {choice: value for choice, value in given.items() if value is not None}
    kept: dict[str, Any] = {}
    if before is not None:
        same = before.checkpoint_sha256 == sha256
        kept = {choice: getattr(before, choice) for choice in CHOICES if same or choice not in _OF_CLASSIFIER}
    share = given_prevalence(str(said["prevalence"])) if "prevalence" in said else kept.get("prevalence")
    said["prevalence"] = None if share == NONE else share
    anew = said["prevalence"] is not None and (before is None or before.prevalence is None)
    if {"threshold", "preset"} & said.keys() or anew:
        kept |= {"threshold": None, "preset": None}
    elif said["prevalence"] is None and kept.get("threshold") is None and kept.get("preset") is None:
        has_default = DEFAULT in classifier.presets
        kept |= {"preset": DEFAULT} if has_default else {"threshold": classifier.threshold}
    options = PredictOptions(
        checkpoint=name if name == NATIVE else str(Path(name).absolute()),
        checkpoint_sha256=sha256,
        layout="1664" if any(part.projection for part in classifier.layout.parts) else "full",
        native=before.native if before is not None else native and classifier.layout.rows == "frames",
        **{"rule": classifier.rule, **kept, **said},
    )
    options.check()
    chosen_columns(options.columns)
    if options.cascade is not None:
        _require_cascade(classifier, options, before)
    if options.prevalence is not None and classifier.trust.prevalence is None:
        raise UsageError(
            f"--prevalence needs the share of viruses at which probabilities hold, which {name} does not keep (an "
            "earlier vnp, or VirNucPro, made it): train it anew, or leave it out"
        )
    if options.preset is not None and options.preset not in classifier.presets:
        there = ", ".join(classifier.presets) or "none: too few hosts were held out when it was trained, or it is older"
        raise UsageError(
            f"--preset {options.preset} is not in {name}, which has {there}. Give --threshold, from 0 to 1, or leave "
            "both out"
        )
    if options.virnucpro and classifier.layout.rows != "frames":
        raise UsageError(f"--virnucpro-output is of open frames, and {name} scores whole chunks: leave it out")
    if options.regions and not isinstance(classifier, NativeClassifier):
        raise UsageError(f"--regions goes with native and with what finetune made, not with {name}: leave it out")
    return classifier, options


def _require_cascade(classifier: Classifier, options: PredictOptions, before: PredictOptions | None) -> None:
    """Refuse what does not go with records that the native network settles."""
    decide = ("threshold", "preset", "rule", "prevalence", "cascade", "checkpoint_sha256")
    if before is not None and any(getattr(before, name) != getattr(options, name) for name in decide):
        raise UsageError(
            "native settled records of this run for the threshold that was asked for, and they were not embedded: "
            "predict the inputs anew to call by another threshold, rule or checkpoint"
        )
    if not options.native and classifier.layout.rows == "frames":
        raise UsageError("--cascade native needs native: leave --no-native out")
    if options.prevalence is not None or options.rule != classifier.rule:
        raise UsageError(
            "--cascade holds for the checkpoint's own rule and share of viruses: leave --prevalence and --rule out"
        )


_OF_CLASSIFIER = ("threshold", "preset", "rule")
_SHORTEST_WINDOW = 100
# What is known of a record, and what ranking and the page need; python -m benchmarks scale shows it.
_RECORD_BYTES = 150
_FEW_RECORDS = 1_000_000


def encoding_for(
    classifier: Classifier,
    options: PredictOptions,
    window: int | None = None,
    folders: Mapping[str, str] = MappingProxyType({}),
    weights: Path | None = None,
) -> dict[str, Any]:
    """What a classifier decides about embedding; a half that it does not read is made by what costs least.

    Args:
        window: bases of a chunk, where chunks are rows and may be shorter than those that it was trained on.
        folders: where encoders are, by molecule; of others the name says it.

    Raises:
        UsageError: no chunk can be of that size; or an encoder is not found, or one is named that is not read.
    """
    if window is not None and not isinstance(classifier, NativeClassifier):
        raise UsageError(f"--window goes with native and with what finetune made, not with {options.checkpoint}")
    if window is not None and not _SHORTEST_WINDOW <= window <= classifier.chunk:
        raise UsageError(f"--window is from {_SHORTEST_WINDOW} to {classifier.chunk:,} bases, not {window:,}")
    encoders = {part.name: part.encoder for part in classifier.layout.parts}
    for molecule in folders:
        if molecule not in encoders or isinstance(classifier, NativeClassifier):
            raise UsageError(f"--{molecule} says nothing to {options.checkpoint}: leave it out")
    encoders |= folders
    for molecule, name in encoders.items():
        try:
            locate(name, molecule, weights)
        except UsageError as error:
            if molecule in folders:
                raise
            raise UsageError(
                f"{options.checkpoint} was trained on rows of {name}, which is none of vnp's encoders: name its folder "
                f"with --{molecule} FOLDER"
            ) from error
    own = {"weights": classifier.folder} if isinstance(classifier, NativeClassifier) else {}
    return {
        **own,
        "chunk": window or classifier.chunk,
        "dna": encoders.get("dna", "kmer"),
        "protein": None if classifier.layout.rows == "chunks" else encoders.get("protein", "kmer"),
        "classifier": replace(
            options.classifier,
            native=digest_of(None) if options.native else None,
            cascade=_cascade(classifier, options),
        ),
    }


def _cascade(classifier: Classifier, options: PredictOptions) -> Cascade | None:
    if options.cascade is None:
        return None
    return choose_cascade(classifier, options.checkpoint, options.cascade, options.threshold, options.preset)


def require_fit(planned: RunOptions, classifier: Classifier, options: PredictOptions) -> None:
    """Make sure that what will be embedded is what the classifier reads, before anything is."""
    identities = {molecule: dict(choice.identity) for molecule, choice in planned.encoders().items()}
    layout = layout_of(options.layout, identities, classifier.layout)
    classifier.require(layout, identities, planned.chunk or 0, "this installation")


def require_inputs(files: Sequence[InputFile | PlannedInput], *, pairs: bool, options: PredictOptions) -> None:
    """Refuse, by UsageError, regions of pairs, and samples where a file is of none."""
    if pairs and options.cascade is not None:
        raise UsageError("--cascade was measured on single records, not on pairs of reads: leave it out")
    if pairs and options.regions:
        raise UsageError("--regions looks into records of 10,000 bases and more, not into pairs of reads: leave it out")
    unnamed = next((file.path for file in files if file.sample is None), None)
    if options.by_sample and unnamed is not None:
        raise UsageError(
            f"--by-sample takes a samplesheet with a column sample, filled in every row: {unnamed} has none"
        )


def require_free(
    paths: OutputPaths,
    options: PredictOptions,
    *,
    force: bool,
    other: str = "another --out",
    spared: Collection[Path] = (),
) -> None:
    """Make sure that predictions may be written.

    Args:
        options: what is asked; a prediction of just that kind which did not come to its end may go on.
        force: they may replace others.
        other: what to do instead, for the message.
        spared: files that are no obstacle, because they will be deleted before.

    Raises:
        RunExistsError: there are some, or something that is no folder, or files of somebody else.
        StorageError: the folder cannot be looked at.
    """
    there = standing(path for path in paths.results() if path not in spared)
    if paths.root.exists() and not paths.root.is_dir():
        raise RunExistsError(f"{paths.root} is a file: use another --out")
    begun = None
    with suppress(RunError):
        begun = PredictOptions.read(paths.settings)
    if begun is None and paths.settings.exists():
        there.append(paths.settings)
    elif begun is not None and not paths.summary.exists():
        # Settings without a summary are left by a prediction that did not come to its end.
        there = [] if _same(asdict(begun), options) else there
    if there and not force:
        names = ", ".join(path.name for path in there[:4]) + (" …" if len(there) > 4 else "")
        raise RunExistsError(
            f"{paths.root} holds other predictions, or files of their names ({names}). Use {other}, or --force to "
            "write them anew"
        )


def claim(paths: OutputPaths, options: PredictOptions, run: str, *, force: bool, other: str) -> None:
    """Put the options where a run is, for what comes after its shards, and remove what other predictions left."""
    if finished(paths, options, run) is not None and not force:
        return
    left = paths.results() if force else left_by_others(paths, run)
    require_free(paths, options, force=force, other=other, spared=left)
    _remove(left)
    options.write(paths.settings)


def finished(paths: OutputPaths, options: PredictOptions, run: str) -> dict[str, Any] | None:
    """The summary of predictions of a run that are there and just these; RunExistsError where a file was changed."""
    summary = _read_summary(paths)
    if summary is None or summary.get("run") != run or not _same(summary.get("settings"), options):
        return None
    for name, written in summary["files"].items():
        path = paths.root / name
        if not path.exists() or file_sha256(path) != written["sha256"]:
            what = "has changed since it was written" if path.exists() else "is gone"
            raise RunExistsError(f"{path} {what}; the other files of these predictions are there. --force writes anew")
    return summary


def left_by_others(paths: OutputPaths, run: str) -> list[Path]:
    """Files of a finished prediction of another run than this, as its summary names them, the summary last."""
    summary = _read_summary(paths)
    if summary is None or summary.get("run") == run:
        return []
    # The summary goes last: while it is there, what is left is known as that prediction's.
    return [*(path for path in paths.results() if _name(paths, path) in summary.get("files", {})), paths.summary]


def _name(paths: OutputPaths, path: Path) -> str:
    """A file as the summary names it."""
    return str(path.relative_to(paths.root))


def predict(
    run: Run,
    options: PredictOptions,
    out: Path,
    *,
    force: bool = False,
    device: str = "auto",
    progress: Progress = lambda _what, _rows: None,
) -> Predicted:
    """Call the records of a run whose shards are done, and write all tables, sequences and the report.

    The run was made by a prediction, and its shards hold scores, or by ``extract``, and its rows are scored now, on
    ``device``. ``out`` is the run itself, or another folder.

    Raises:
        IncompleteRunError: shards are missing.
        DamagedShardError: one is not the file that its receipt names.
        FeatureError: run and classifier do not fit, or one is damaged.
        RunExistsError: other predictions are there.
        InputError: an input has changed, so that called sequences cannot be written.
        UsageError: another prediction is at work there.
        StorageError: the disk is full or cannot be written.
        MachineError: so many records do not fit in memory.
    """
    options.check()
    require_inputs(run.request.inputs, pairs=run.request.mates > 1, options=options)
    paths = OutputPaths(out)
    classifier = bring_back(options.classifier)
    source = Source(run, classifier, options.classifier, device)
    there = None if force else finished(paths, options, run.request.digest)
    if there is not None:
        if not (out / CRATE).exists():
            # One that was killed behind its summary left none.
            write_crate(out, _action(run, options, paths, there))
        return Predicted(paths, there, fresh=False)
    require_free(paths, options, force=force)
    if options.parquet:
        require_extra("parquet", "--parquet")
    _require_memory(run)
    make_folder(out)
    with alone_with(paths.summary, "prediction"):
        require_free(paths, options, force=force)
        options.write(paths.settings)
        # From here to the new summary nothing proves that the files belong together.
        _remove([paths.summary])
        summary = Writing(
            source, options, Judges(classifier, options.rule, source.native), paths, progress, device
        ).run()
        _remove(path for path in paths.results() if _name(paths, path) not in summary["files"])
        write_record(paths.summary, summary, schema=SCHEMA, seal="digest")
        write_crate(out, _action(run, options, paths, summary))
        for folder in (out, *paths.samples.glob("*")):
            remove_temporaries(folder)
        tidy(run)
    return Predicted(paths, summary, fresh=True)


def _action(run: Run, options: PredictOptions, paths: OutputPaths, summary: dict[str, Any]) -> Action:
    """What a prediction did, for its crate."""
    files = [Item(paths.root / name, one["sha256"], one["size"]) for name, one in summary["files"].items()]
    inputs = inputs_of(run)
    chosen = options.classifier
    if chosen.path is not None and run.request.classifier is None:
        inputs.append(Item(chosen.path, chosen.sha256, what="classifier"))
    settings = {
        name.replace("_", "-"): value for name, value in asdict(options).items() if isinstance(value, str | int | float)
    }
    words = "Records are called viral or host"
    own = {**parameters_of(run), **settings}
    return Action(
        "predict", words, inputs, [Item(paths.summary, what="counts and settings"), *files], own, run.request.created
    )


def _require_memory(run: Run) -> None:
    """Refuse so many records that the system would end this process in the middle of them."""
    records, available = run.request.totals.records, available_memory()
    needed = records * _RECORD_BYTES
    if available is not None and records > _FEW_RECORDS and needed > available:
        raise MachineError(
            f"calling {records:,} records needs about {needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB "
            f"are free: go on where there is more (python -m jobs.predict --from {shlex.quote(str(run.paths.root))}), "
            "or predict the inputs in several runs"
        )


def _same(stored: Any, options: PredictOptions) -> bool:
    """Whether options are those of a summary; a checkpoint is its content, wherever it lies."""
    return isinstance(stored, dict) and {**stored, "checkpoint": ""} == {**asdict(options), "checkpoint": ""}


def _read_summary(paths: OutputPaths) -> dict[str, Any] | None:
    """The summary that is there, if it is whole and of this version."""
    with suppress(RunError):
        return read_record(paths.summary, dict, schema=SCHEMA, seal="digest")
    return None


def _remove(paths: Iterable[Path]) -> None:
    """Delete files that may be gone already."""
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, f"deleting {error.filename}") from error
