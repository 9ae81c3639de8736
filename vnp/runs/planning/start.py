"""Starting a run: what is asked is planned, or found to be the run that is already there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vnp.encoders.spec import NO_ENCODER
from vnp.encoders.weights.provenance import UNITS
from vnp.errors import RunExistsError
from vnp.files.claims import alone, make_folder
from vnp.files.durable import replacing
from vnp.runs.done.receipts import now
from vnp.runs.planning.options import RunOptions, clear, require_free
from vnp.runs.planning.plan import check_inputs, check_tables, moved_to, write_plan
from vnp.runs.planning.survey import Marks, Survey, survey
from vnp.runs.request import (
    ClassifierChoice,
    EncoderChoice,
    PlannedInput,
    Request,
    Run,
    RunPaths,
    Totals,
    versions,
)
from vnp.sequences.mates import arranged
from vnp.sequences.samplesheet import LABELS, InputFile

_LABELS = {number: name or "none" for name, number in LABELS.items()}
# A block is what a killed task can lose: seconds on a GPU, some minutes for a transformer on a CPU. A network that
# reads windows takes some ten times less for a token.
_BLOCK_TOKENS = 1 << 20
_BLOCK_TOKENS_SLOW = 1 << 15
_BLOCK_TOKENS_WINDOWS = 1 << 18
_BLOCK_TOKENS_WINDOWS_FAST = 1 << 22
_LEAST_BLOCK_UNITS = 64


def start_run(
    options: RunOptions, root: Path, *, force: bool = False, progress: Callable[[int], None] = lambda _bytes: None
) -> tuple[Run, bool]:
    """Plan a run, or find that it is planned.

    ``progress`` is told how many bytes of the inputs were read since the last call.

    Returns:
        The run, and whether it was there before.

    Raises:
        RunExistsError: another run or something else stands there.
        UsageError: the options cannot be, or another command plans a run there.
        ChangedInputError: the same run stands there, but an input has changed since.
        VnpError: as of ``survey``.
    """
    options.check()
    if options.pairs or any(file.sample for file in options.files):
        options = replace(options, files=arranged(options.files, pairs=options.pairs))
    paths = RunPaths(root.absolute())
    encoders = options.encoders()
    if paths.request.exists() and not force:
        return _find(root, options, encoders), True
    # What stands there is deleted only when the new run is sure to be planned.
    require_free(paths, force=force)
    found = survey(
        options.files,
        options.chunk,
        prefix_ids=options.prefix_ids,
        shortest=options.shortest,
        default_chunk=options.default_chunk,
        progress=progress,
    )
    make_folder(paths.root)
    with alone(paths.root, "planning"):
        if paths.request.exists() and not force:
            # Somebody else has planned it in the meantime.
            return _find(root, options, encoders), True
        clear(paths, force=force)
        paths.make()
        shards = found.marks.cut(options.shards)
        plan_sha256 = write_plan(paths.plan, shards, found.selections, found.blocks)
        request = make_request(options, encoders, found, len(shards), plan_sha256)
        _copy_units(request.folders, paths)
        request.write(paths.request)
    return Run(paths, request), False


def draft(options: RunOptions) -> Request:
    """What is known of a run before its input is read: all that decides which encoders its tasks load.

    Raises:
        UsageError: there is no such encoder.
        WeightsError: its weights are missing or not the pinned ones.
    """
    nothing = Survey((), Totals(0, 0, 0, 0, 0), Marks(), options.chunk or 0, {}, ())
    return make_request(options, options.encoders(), nothing, options.shards, "")


def _find(root: Path, options: RunOptions, encoders: Mapping[str, EncoderChoice]) -> Run:
    """Open the run that is there, if it is the one that is asked for.

    What decides no number follows the new command: where to compute, and where the inputs and the weights are.
    """
    run = Run.open(root)
    inputs = _require_same(run, options, encoders)
    check_inputs(inputs, read=True)
    check_tables(inputs)
    asked = replace(run.request, inputs=inputs, **_places(options))
    if asked != run.request:
        asked.write(run.paths.request)
        run = Run(run.paths, asked)
    return run


def _places(options: RunOptions) -> dict[str, Any]:
    """What of a request decides no number."""
    return {
        "device": options.device,
        "weights": None if options.weights is None else str(options.weights.absolute()),
        "folders": options.folders,
        "cluster": options.cluster,
        "classifier": options.classifier,
        "cache": None if options.cache is None else str(options.cache.absolute()),
        "cache_bytes": round(options.cache_size * 1e9),
    }


def make_request(
    options: RunOptions, encoders: Mapping[str, EncoderChoice], found: Survey, shards: int, plan_sha256: str
) -> Request:
    """What goes into ``run.json``."""
    block_tokens = options.block_tokens or _BLOCK_TOKENS
    if options.needs_weights and options.block_tokens is None:
        windows = all(one.windows or not one.needs_weights for one in options.specs.values())
        if options.device == "cpu":
            block_tokens = _BLOCK_TOKENS_WINDOWS if windows else _BLOCK_TOKENS_SLOW
        elif windows:
            block_tokens = _BLOCK_TOKENS_WINDOWS_FAST
    totals = found.totals
    return Request(
        inputs=found.inputs,
        chunk=found.chunk,
        dna=encoders["dna"],
        protein=encoders.get("protein"),
        store=options.store,
        asked_shards=options.shards,
        shards=shards,
        block_units=max(_LEAST_BLOCK_UNITS, block_tokens * totals.units // max(totals.tokens, 1)),
        plan_sha256=plan_sha256,
        totals=totals,
        token_budget=options.token_budget,
        versions=versions(),
        created=now(),
        keep_embeddings=options.keep_embeddings,
        **_places(options),
    )


def _copy_units(folders: Mapping[str, str], paths: RunPaths) -> None:
    """Keep beside the features which units their encoders were fine-tuned on, wherever the encoders go."""
    for molecule, folder in folders.items():
        units = Path(folder) / UNITS
        if units.is_file():
            with replacing(paths.seen(molecule)) as temporary:
                shutil.copyfile(units, temporary)


def _require_same(run: Run, options: RunOptions, encoders: Mapping[str, EncoderChoice]) -> tuple[PlannedInput, ...]:
    """Refuse to go on with a run that was asked for otherwise; returns its inputs where they are now."""
    request = run.request
    chunk = options.chunk
    if chunk is None:
        chunk = options.default_chunk if all(file.dataset is None for file in options.files) else request.chunk
    compared: dict[str, tuple[Any, Any]] = {
        "chunk": (request.chunk, chunk),
        "DNA encoder": (request.dna, encoders["dna"]),
        "protein encoder": (request.protein or NO_ENCODER, encoders.get("protein", NO_ENCODER)),
        "store": (request.store, options.store),
        "shards": (request.asked_shards, options.shards),
        "token budget": (request.token_budget, options.token_budget),
        "classifier": (_named(request.classifier), _named(options.classifier)),
        "kept embeddings": (request.keep_embeddings, options.keep_embeddings),
        "pairs": (request.mates == 2, options.pairs),
        "prefixed ids": (request.inputs[0].prefix is not None, options.prefix_ids),
    }
    inputs, other = _where_now(request.inputs, options.files)
    differing = other + [_difference(name, there, here) for name, (there, here) in compared.items() if there != here]
    if differing:
        raise RunExistsError(
            f"{run.paths.root} holds another run ({'; '.join(differing)}). Choose another --out, or --force to begin "
            "anew"
        )
    return inputs


def _where_now(
    planned: Sequence[PlannedInput], files: Sequence[InputFile]
) -> tuple[tuple[PlannedInput, ...], list[str]]:
    """The planned inputs at the paths that are asked for, and what differs; an input is its content, wherever it is."""
    if len(planned) != len(files):
        return (), [f"inputs: {len(planned):,} files there, {len(files):,} asked"]
    found, differing = [], []
    for number, (entry, file) in enumerate(zip(planned, files, strict=True), start=1):
        moved = moved_to(entry, file)
        said = f"input {number}, {file.path}"
        if moved is None:
            differing.append(f"{said}: {entry.path} there, which holds something else")
        elif any(getattr(entry, name) != getattr(file, name) for name in ("label", "group", "sample", "mates")):
            what = [
                f"label {_LABELS[one.label]}, group {one.group or 'none'}, sample {one.sample or 'none'}"
                for one in (entry, file)
            ]
            differing.append(f"{said}: {what[0]} there, {what[1]} asked")
        else:
            found.append(moved)
    more = [f"and {len(differing) - 3:,} more inputs"] if len(differing) > 3 else []
    return tuple(found), differing[:3] + more


def _named(classifier: ClassifierChoice | None) -> str:
    """What makes a classifier another one; where it lies does not."""
    if classifier is None:
        return "none"
    return f"{classifier.sha256[:16]}, {classifier.layout}" + (", with native" if classifier.native else "")


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, EncoderChoice) and isinstance(here, EncoderChoice) and _short(there) == _short(here):
        keys = {*there.identity, *here.identity}
        other = sorted(key for key in keys if there.identity.get(key) != here.identity.get(key))
        return f"{name}: {_short(there)} with other {' and '.join(other)}"
    return f"{name}: {_short(there)} there, {_short(here)} asked"


def _short(value: Any) -> str:
    if isinstance(value, EncoderChoice):
        return f"{value.name} ({value.precision})"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"
