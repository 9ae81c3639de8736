"""Planning for the commands that start a run: here, or in the profile's image where this Python lacks the libraries.

A host that has Click and submitit and nothing else writes one JSON object to ``python -P -m jobs._cluster.planning`` in
the image, and reads one from it; progress and errors pass through to the user.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jobs._cli.command import counted, echo, shown
from jobs._cli.progress import Progress
from jobs._cluster.executor import Executor, require_idle
from jobs._cluster.image import run_in_image
from jobs._cluster.profile import KINDS, Profile, load_profile
from jobs._cluster.worker import SAFELY
from vnp.encoders.spec import MOLECULES, registered
from vnp.encoders.weights.folders import folder_named, weights_root
from vnp.errors import UsageError, VnpError
from vnp.files.machine import require_room
from vnp.files.records import from_json, parse_json, to_json
from vnp.runs.done.status import RunStatus, run_status
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import Position, Run, RunPaths, Shard
from vnp.sequences.samplesheet import lost_tables, read_inputs

_LINE_BYTES = 120  # of a table of calls


def run_options(
    paths: tuple[Path, ...],
    shards: int,
    encoding: dict[str, Any],
    executor: Executor,
    *,
    out: Path | None = None,
    every_frame: bool = False,
) -> RunOptions:
    """What the command line asks of a run; ``encoding`` is what ``options.encoding`` gives.

    What runs on this machine is asked for on the device that is here, since small blocks suit a CPU; what runs
    elsewhere finds out there. ``out`` keeps standard input, None where nothing may be written. ``every_frame`` takes
    datasets as the FASTA that they are, without what their tables say.
    """
    spool = None if out is None else RunPaths(out).inputs
    files = read_inputs(paths, spool, labels=not every_frame)
    for file in files:
        if file.path.parent == spool:
            echo(f"standard input: {file.path.stat().st_size:,} bytes, kept in {file.path}", err=True)
    if every_frame:
        files = [replace(file, dataset=None) for file in files]
    else:
        for warning in lost_tables(files):
            echo(warning, err=True)
    folders: dict[str, str] = {
        molecule: str(folder.absolute())
        for molecule in MOLECULES
        if (name := encoding.get(molecule)) and not registered(name) and (folder := folder_named(name))
    }
    options = RunOptions(files=tuple(files), shards=shards, cluster=executor.asked, **{**encoding, **folders})
    options.check()
    if executor.waits and options.device == "auto" and options.needs_gpu:
        import torch

        if not torch.cuda.is_available():
            return replace(options, device="cpu")
    return options


def input_paths(options: RunOptions) -> list[Path]:
    """The files that planning reads."""
    return [path for file in options.files for path in (file.path, file.dataset) if path is not None]


def plan_run(
    options: RunOptions,
    out: Path,
    executor: Executor,
    tasks: int | None = None,
    *,
    force: bool = False,
    layout: str | None = None,
) -> tuple[Run, RunStatus]:
    """Plan a run, or find the one that is there, and say so and what disk it needs.

    ``tasks`` will share its shards; ``layout`` is that of the features that its rows will be merged to, None where they
    will not.
    """
    if force:
        require_idle(executor, out.absolute())
    executor.check()
    new = force or not RunPaths(out).request.exists()
    with executor.expecting(options, out.absolute(), tasks) if new else contextlib.nullcontext():
        run, before, shards = make_plan(options, out, executor.profile, force=force)
    totals = run.request.totals
    echo(
        f"{'found' if before else 'planned'} {shown(run.paths.root)}: "
        f"{f'{totals.records:,} reads of pairs' if run.request.mates > 1 else counted(totals.records, 'record')}, "
        f"{totals.bases:,} bases, {counted(totals.rows, 'row')} in {counted(len(shards), 'shard')}"
    )
    for entry in run.request.inputs:
        if entry.dataset is not None:
            echo(
                f"{entry.path}: a dataset of {entry.records:,} chunks, with its own labels, groups and split "
                f"(chunk {run.request.chunk})"
            )
    if len(shards) < options.shards:
        echo(f"{options.shards} shards were asked for; there are only {totals.units} chunks to share out")
    status = run_status(run, shards)
    need_disk(run, status, layout)
    return run, status


def need_disk(run: Run, status: RunStatus, layout: str | None = None) -> None:
    """Say how much disk the shards that are missing will take, with a layout the merged features too.

    Raises:
        StorageError: there is less.
    """
    left = [one.shard.rows for one in status.shards if one.state != "done"]
    # The blocks of a shard go when they are joined.
    needed = run.request.room(status.rows_planned - status.rows_embedded + max(left, default=0))
    if run.request.classifier is not None:
        totals = run.request.totals
        needed += _LINE_BYTES * (2 * totals.records + totals.units + (totals.rows if run.request.protein else 0))
    if layout is not None and not run.paths.features.exists():
        needed += run.request.room(status.rows_planned, layout)
    if left:
        echo(require_room(shown(run.paths.root), needed), err=True)


def make_plan(
    options: RunOptions, out: Path, profile: Profile | None, *, force: bool = False
) -> tuple[Run, bool, list[Shard]]:
    """Plan a run, here or in the image of a profile; tells whether it was there before, and its shards."""
    try:
        from vnp.runs.planning.plan import read_plan
        from vnp.runs.planning.start import start_run
    except ModuleNotFoundError:
        if profile is None:
            raise
    else:
        size = sum(file.path.stat().st_size for file in options.files)
        with Progress("planning", size, "MB", scale=1e6) as progress:
            run, before = start_run(options, out, force=force, progress=progress.advance)
        return run, before, read_plan(run.paths.plan, run.request.plan_sha256)
    root = out.absolute()
    made = not root.exists()
    # It must be there to be bound.
    root.mkdir(parents=True, exist_ok=True)
    paths = [root, *input_paths(options)]
    paths += [Path(folder) for folder in options.folders.values()]
    if options.needs_weights and weights_root(options.weights).exists():
        paths.append(weights_root(options.weights))
    try:
        before, shards = _ask_image(profile, paths, {"ask": to_json(options), "root": str(root), "force": force})
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                root.rmdir()
        raise
    return Run.open(root), before, shards


def shard_table(run: Run, profile: Profile | None) -> list[Shard]:
    """Read the shard table of a planned run, here or in the image of a profile (None: the environment's)."""
    try:
        from vnp.runs.planning.plan import read_plan
    except ModuleNotFoundError:
        wish = {"ask": None, "root": str(run.paths.root), "force": False}
        return _ask_image(profile or load_profile(None), [run.paths.root], wish)[1]
    return read_plan(run.paths.plan, run.request.plan_sha256)


def look(run: Run, profile: Profile | None = None) -> RunStatus:
    """How far a run is, from its files; ``profile`` has the image that reads the plan if this Python cannot."""
    return run_status(run, shard_table(run, profile))


def _ask_image(profile: Profile, paths: list[Path], wish: dict[str, Any]) -> tuple[bool, list[Shard]]:
    """Let ``main`` below answer, in the image."""
    resources = next((found for kind in reversed(KINDS) if (found := profile.of(kind)).image), None)
    if resources is None:
        raise UsageError(
            "this Python has no numpy and h5py, which reading a run needs: name a profile with an image (--profile or "
            "VNP_PROFILE), plan in a job (--plan-job), or install vnp with its dependencies"
        )
    answer = parse_json(run_in_image(resources, paths, ["python", *SAFELY, "jobs._cluster.planning"], json.dumps(wish)))
    return answer["before"], [Shard(**{**one, "start": Position(**one["start"])}) for one in answer["shards"]]


def main() -> None:
    """Answer the host: plan what is asked, if anything, and tell the shard table."""
    # Nothing else may get between the lines of the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    wish = parse_json(sys.stdin.read())
    root = Path(wish["root"])
    try:
        if wish["ask"] is None:
            before, shards = True, shard_table(Run.open(root), None)
        else:
            _, before, shards = make_plan(from_json(RunOptions, wish["ask"]), root, None, force=wish["force"])
    except VnpError as error:
        echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    json.dump({"before": before, "shards": [asdict(shard) for shard in shards]}, answer)


if __name__ == "__main__":
    main()
