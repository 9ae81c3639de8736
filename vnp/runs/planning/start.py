"""Starting a run: what is asked is planned, or found to be the run that is already there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vnp.errors import RunExistsError, storage_error
from vnp.runs.making.attempts import now
from vnp.runs.paths import RunPaths
from vnp.runs.planning.ask import Ask
from vnp.runs.planning.clearing import clear, require_free
from vnp.runs.planning.inputs import check_inputs, check_tables
from vnp.runs.planning.plan import write_plan
from vnp.runs.planning.survey import DEFAULT_CHUNK, Survey, survey
from vnp.runs.request import EncoderChoice, Request, Run
from vnp.runs.shard import Position, Shard
from vnp.runs.versions import versions

# A block is what a killed task can lose: seconds on a GPU, some minutes for a transformer on a CPU.
_BLOCK_TOKENS = 1 << 20
_BLOCK_TOKENS_SLOW = 1 << 15
_LEAST_BLOCK_UNITS = 64


def start_run(
    ask: Ask, root: Path, *, force: bool = False, progress: Callable[[int], None] = lambda _bytes: None
) -> tuple[Run, bool]:
    """Plan a run, or find that it is planned.

    Args:
        ask: what is wanted.
        root: the run directory.
        force: begin anew where another run stands.
        progress: told how many bytes of the inputs were read since the last call.

    Returns:
        The run, and whether it was there before.

    Raises:
        RunExistsError: another run or something else stands there.
        ChangedInputError: the same run stands there, but an input has changed since.
        VnpError: as of ``survey``.
    """
    ask.check()
    paths = RunPaths(root.absolute())
    dna, protein = ask.encoder("dna"), ask.encoder("protein")
    if paths.request.exists() and not force:
        return _find(root, ask, dna, protein), True
    # What stands there is deleted only when the new run is sure to be planned.
    require_free(paths, force=force)
    found = survey(ask.files, ask.chunk, prefix_ids=ask.prefix_ids, progress=progress)
    if paths.request.exists() and not force:
        # Somebody else has planned it in the meantime.
        return _find(root, ask, dna, protein), True
    clear(paths, force=force)
    try:
        paths.make()
    except OSError as error:
        raise storage_error(error, f"making {paths.root}") from error
    shards = cut_shards(found, ask.shards)
    request = make_request(ask, found, len(shards), write_plan(paths.plan, shards, found.selections))
    request.write(paths.request)
    return Run(paths, request), False


def _find(root: Path, ask: Ask, dna: EncoderChoice, protein: EncoderChoice) -> Run:
    """Open the run that is there, if it is the one that is asked for.

    What decides no number follows the new command: where to compute, and where the weights are.
    """
    run = Run.open(root)
    _require_same(run, ask, dna, protein)
    check_inputs(run.request.inputs)
    check_tables(run.request.inputs)
    asked = replace(run.request, device=ask.device, weights=_folder(ask))
    if asked != run.request:
        asked.write(run.paths.request)
        run = Run(run.paths, asked)
    return run


def _folder(ask: Ask) -> str | None:
    return None if ask.weights is None else str(ask.weights.absolute())


def cut_shards(found: Survey, shards: int) -> list[Shard]:
    """Cut what was surveyed into at most so many shards of nearly equal expected tokens."""
    place, work = [field.name for field in fields(Position)], ("units", "rows", "tokens", "bases")
    return [
        Shard(number, Position(*(piece[name] for name in place)), *(piece[name] for name in work))
        for number, piece in enumerate(found.marks.cut(shards))
    ]


def make_request(ask: Ask, found: Survey, shards: int, plan_sha256: str) -> Request:
    """What goes into ``run.json``.

    Args:
        ask: what is wanted.
        found: by the survey.
        shards: how many there are.
        plan_sha256: of the plan's bytes.
    """
    dna, protein = ask.encoder("dna"), ask.encoder("protein")
    slow = ask.device == "cpu" and ask.needs_weights
    block_tokens = ask.block_tokens or (_BLOCK_TOKENS_SLOW if slow else _BLOCK_TOKENS)
    totals = found.totals
    return Request(
        inputs=found.inputs,
        chunk=found.chunk,
        dna=dna,
        protein=protein,
        store=ask.store,
        asked_shards=ask.shards,
        shards=shards,
        block_units=max(_LEAST_BLOCK_UNITS, block_tokens * totals.units // max(totals.tokens, 1)),
        plan_sha256=plan_sha256,
        totals=totals,
        token_budget=ask.token_budget,
        device=ask.device,
        weights=_folder(ask),
        versions=versions(),
        created=now(),
    )


def _require_same(run: Run, ask: Ask, dna: EncoderChoice, protein: EncoderChoice) -> None:
    """Refuse to go on with a run that was asked for otherwise."""
    request = run.request
    chunk = ask.chunk
    if chunk is None:
        chunk = DEFAULT_CHUNK if all(file.dataset is None for file in ask.files) else request.chunk
    there: dict[str, Any] = {
        "inputs": [(entry.path, entry.label, entry.group, entry.dataset) for entry in request.inputs],
        "chunk": request.chunk,
        "DNA encoder": request.dna,
        "protein encoder": request.protein,
        "store": request.store,
        "shards": request.asked_shards,
        "token budget": request.token_budget,
        "prefixed ids": request.inputs[0].prefix is not None,
    }
    here: dict[str, Any] = {
        "inputs": [
            (str(file.path), file.label, file.group, None if file.dataset is None else str(file.dataset))
            for file in ask.files
        ],
        "chunk": chunk,
        "DNA encoder": dna,
        "protein encoder": protein,
        "store": ask.store,
        "shards": ask.shards,
        "token budget": ask.token_budget,
        "prefixed ids": ask.prefix_ids,
    }
    differing = [name for name in there if there[name] != here[name]]
    if differing:
        details = "; ".join(_difference(name, there[name], here[name]) for name in differing)
        raise RunExistsError(
            f"{run.paths.root} holds another run ({details}). Choose another --out, or --force to begin anew"
        )


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
